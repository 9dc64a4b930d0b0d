//! Schemas of custom resources and of their lists, as upstream's `pkg/controller/openapi/builder` names and makes them.

use kinit_apimachinery::structural;
use serde_json::{Value, json};

use crate::resources::Descriptor;

/// Which version of OpenAPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Swagger.
    V2,
    /// OpenAPI v3.
    V3,
}

/// `com.example.v1.Widget` (`ToRESTFriendlyName`).
pub(super) fn name(desc: &Descriptor, kind: &str) -> String {
    let reversed: Vec<&str> = desc.group.split('.').rev().collect();
    format!("{}.{}.{kind}", reversed.join("."), desc.version)
}

/// The schemas of a custom resource by name; none for a built-in one.
pub(super) fn schemas(desc: &Descriptor, form: Form) -> Vec<(String, Value)> {
    let Some(custom) = &desc.custom else { return Vec::new() };
    let gvk = |kind: &str| json!([{"group": desc.group, "version": desc.version, "kind": kind}]);
    let written = serde_json::from_str(&custom.schema).unwrap_or_default();
    let mut schema = match form {
        Form::V2 => structural::v2(&written),
        Form::V3 => structural::v3(&written),
    };
    schema["x-kubernetes-group-version-kind"] = gvk(&desc.kind);
    let (own, list) = (name(desc, &desc.kind), desc.list_kind());
    let list_schema = list_schema(&desc.kind, &own, &gvk(&list), form);
    vec![(own, schema), (name(desc, &list), list_schema)]
}

fn list_schema(kind: &str, item: &str, gvk: &Value, form: Form) -> Value {
    let at = match form {
        Form::V2 => "#/definitions/",
        Form::V3 => "#/components/schemas/",
    };
    let meta = json!({"$ref": format!("{at}io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")});
    let text = json!({"type": "string"});
    json!({"type": "object", "description": format!("{kind}List is a list of {kind}"), "required": ["items"],
        "properties": {"apiVersion": text, "kind": text,
            "items": {"type": "array", "description": "List of objects.", "items": {"$ref": format!("{at}{item}")}},
            "metadata": meta},
        "x-kubernetes-group-version-kind": gvk})
}
