//! `meta.k8s.io/v1 Table`: what `kubectl get` prints (upstream's `pkg/printers/internalversion`).

mod columns;
mod custom;
mod pod;
mod values;

use kinit_apimachinery::meta::Meta;
use serde_json::{Value, json};

use crate::resources::Descriptor;

pub use custom::PrinterColumn;

/// How much of an object each row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`.
    Metadata,
    /// The object.
    Object,
}

/// A column: its name, OpenAPI type and priority (0 always, 1 with `-o wide`), and how a cell is made.
pub(crate) struct Column {
    pub name: &'static str,
    pub ty: &'static str,
    pub priority: u8,
    pub cell: fn(&Value) -> Value,
}

/// A table of these objects. `headers` is off for all but the first event of a watch.
pub fn table(desc: &Descriptor, objects: &[Value], version: &str, include: Include, headers: bool) -> Value {
    if let Some(custom) = &desc.custom {
        let definitions = if headers { custom::definitions(&custom.columns) } else { Vec::new() };
        return assembled(objects, version, include, definitions, |object| custom::cells(&custom.columns, object));
    }
    let columns = columns::of(&desc.group, &desc.kind);
    let definitions: Vec<Value> = columns
        .iter()
        .filter(|_| headers)
        .map(|c| {
            let format = if c.name == "Name" { "name" } else { "" };
            json!({"name": c.name, "type": c.ty, "format": format, "description": "", "priority": c.priority})
        })
        .collect();
    assembled(objects, version, include, definitions, |object| columns.iter().map(|c| (c.cell)(object)).collect())
}

fn assembled(
    objects: &[Value],
    version: &str,
    include: Include,
    definitions: Vec<Value>,
    cells: impl Fn(&Value) -> Vec<Value>,
) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells = cells(object);
            match include {
                Include::None => json!({"cells": cells}),
                Include::Metadata => json!({"cells": cells, "object": crate::registry::present::metadata_of(object)}),
                Include::Object => json!({"cells": cells, "object": object}),
            }
        })
        .collect();
    let version = if objects.len() == 1 { objects[0].resource_version() } else { version };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": version},
        "columnDefinitions": definitions, "rows": rows})
}
