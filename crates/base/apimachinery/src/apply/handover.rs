//! What `kubectl apply` without `--server-side` noted on an object, and how `kubectl apply --server-side` goes on with
//! it (`lastAppliedManager`, `lastAppliedUpdater`).

use serde_json::{Map, Value};

use super::compare::{compare, fields_of};
use super::fields::Fields;
use super::owners::Owners;
use super::shape::TypeRef;
use super::{Writer, take, typed};
use crate::meta::Meta;

/// Whose apply takes over what was applied on the client's side.
pub(super) const MANAGER: &str = "kubectl";
const NOTE: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// How long annotations may be, all together (`TotalAnnotationSizeLimitB`).
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// The conflicts that are left when those about fields that kubectl set itself, and that are still as it set them, do
/// not count.
pub(super) fn not_allowed(mut conflicts: Owners, live: &Value, ty: TypeRef<'_>, by: &Writer<'_>) -> Owners {
    let Some(own) = noted(live, ty, by) else { return conflicts };
    for owner in &mut conflicts.0 {
        owner.fields.subtract(&own);
    }
    conflicts.0.retain(|owner| !owner.fields.is_empty());
    conflicts
}

fn noted(live: &Value, ty: TypeRef<'_>, by: &Writer<'_>) -> Option<Fields> {
    let mut document: Value = serde_json::from_str(live.annotation(NOTE)?).ok().filter(Value::is_object)?;
    if document.str_at(&["apiVersion"]) != by.api_version || typed::check(&document, ty).is_err() {
        return None;
    }
    take(&mut document);
    let mut fields = fields_of(&document, ty);
    let delta = compare(&document, live, ty);
    fields.subtract(&delta.set);
    fields.subtract(&delta.gone);
    Some(fields)
}

/// Keeps the note true, where there is one, so that a client-side apply can follow.
pub(super) fn note(object: &mut Value, document: &Value) {
    if object.annotation(NOTE).is_none_or(str::is_empty) {
        return;
    }
    let mut document = document.clone();
    if let Some(annotations) = document.get_mut("metadata").and_then(|m| m.get_mut("annotations")) {
        if let Some(map) = annotations.as_object_mut() {
            map.shift_remove(NOTE);
        }
        if annotations.as_object().is_some_and(Map::is_empty)
            && let Some(meta) = document.object_at(&["metadata"])
        {
            meta.shift_remove("annotations");
        }
    }
    document.sort_all_objects();
    let text = format!("{document}\n");
    let Some(annotations) = object.object_at(&["metadata", "annotations"]) else { return };
    let others: usize = annotations.iter().filter(|(k, _)| *k != NOTE).map(|(k, v)| k.len() + length(v)).sum();
    if others + NOTE.len() + text.len() > ANNOTATIONS_LIMIT {
        annotations.shift_remove(NOTE);
    } else {
        annotations.insert(NOTE.into(), text.into());
    }
}

fn length(value: &Value) -> usize {
    value.as_str().map_or(0, str::len)
}
