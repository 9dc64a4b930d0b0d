//! A definition's schema as OpenAPI shows it (`pkg/controller/openapi/builder`, `openapi/v2`).

use serde_json::{Map, Value, json};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// The schema of a kind for OpenAPI v3: as it was written, with kind, version and metadata. `written` is
/// `openAPIV3Schema`.
pub fn v3(written: &Value) -> Value {
    let mut out = if written.is_object() { written.clone() } else { any_object() };
    // Whose root takes anything has no fields that a client could be told of.
    with_meta(&mut out, "#/components/schemas/");
    out
}

/// The same for OpenAPI v2, which knows less: no alternatives, no null, and nothing of what is below fields that take
/// anything.
pub fn v2(written: &Value) -> Value {
    let mut out = if written.is_object() { less(written) } else { any_object() };
    with_meta(&mut out, "#/definitions/");
    out
}

fn any_object() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn with_meta(schema: &mut Value, references: &str) {
    let closed = schema.get("x-kubernetes-preserve-unknown-fields").is_none();
    let Some(map) = schema.as_object_mut() else { return };
    if references.starts_with("#/definitions") && !closed && !map.contains_key("properties") {
        // kubectl takes any field of a type without properties.
        return;
    }
    add_meta(map, references);
    for (_, inner) in map.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        embedded(inner, references);
    }
}

fn add_meta(map: &mut Map<String, Value>, references: &str) {
    let properties = map.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    let Some(properties) = properties.as_object_mut() else { return };
    let reference = json!({"$ref": format!("{references}{META}")});
    let metadata = match references.starts_with("#/definitions") {
        true => json!({"description": METADATA, "$ref": reference["$ref"]}),
        false => json!({"description": METADATA, "allOf": [reference]}),
    };
    properties.insert("metadata".into(), metadata);
    properties.insert("apiVersion".into(), json!({"description": API_VERSION, "type": "string"}));
    properties.insert("kind".into(), json!({"description": KIND, "type": "string"}));
}

/// Objects within an object have kind, version and metadata, too.
fn embedded(schema: &mut Value, references: &str) {
    let Some(map) = schema.as_object_mut() else { return };
    if map.get("x-kubernetes-embedded-resource").and_then(Value::as_bool) == Some(true)
        && map.contains_key("properties")
    {
        add_meta(map, references);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            embedded(inner, references);
        }
    }
    for (_, inner) in map.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        embedded(inner, references);
    }
}

/// `ToStructuralOpenAPIV2`.
fn less(schema: &Value) -> Value {
    let Some(map) = schema.as_object() else { return schema.clone() };
    let is_on = |key: &str| map.get(key).and_then(Value::as_bool) == Some(true);
    let nullable = is_on("nullable");
    let open = is_on("x-kubernetes-preserve-unknown-fields") || is_on("x-kubernetes-int-or-string");
    let mut out = Map::new();
    for (key, value) in map {
        match key.as_str() {
            "allOf" | "anyOf" | "oneOf" | "not" | "nullable" | "default" | "example" => {}
            // What may be null, or anything, has no type that kubectl would hold values to.
            "type" | "items" | "properties" | "additionalProperties" | "enum"
                if nullable || is_typeless(map, key, open) => {}
            "items" | "additionalProperties" => {
                out.insert(key.clone(), less(value));
            }
            "properties" => {
                let inner = value.as_object().into_iter().flatten().map(|(name, s)| (name.clone(), less(s)));
                out.insert(key.clone(), inner.collect());
            }
            _ => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    out.into()
}

fn is_typeless(map: &Map<String, Value>, key: &str, open: bool) -> bool {
    let is_object = map.get("type").and_then(Value::as_str) == Some("object");
    match key {
        "type" => open && !is_object,
        "properties" | "items" => open,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions() {
        let schema = json!({"type": "object", "description": "d", "properties": {
            "spec": {"type": "object", "nullable": true, "properties": {"a": {"type": "string"}}},
            "any": {"type": "string", "default": "x", "oneOf": [{"pattern": "a"}], "maxLength": 3}}});
        let three = v3(&schema);
        assert_eq!(three["properties"]["spec"], schema["properties"]["spec"]);
        assert_eq!(three["properties"]["metadata"]["allOf"][0]["$ref"], format!("#/components/schemas/{META}"));
        let two = v2(&schema);
        assert_eq!((&two["description"], &two["properties"]["spec"]), (&json!("d"), &json!({})));
        assert_eq!(two["properties"]["any"], json!({"type": "string", "maxLength": 3}));
        assert_eq!(v3(&Value::Null)["x-kubernetes-preserve-unknown-fields"], true);
        let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {}}});
        assert_eq!(v2(&open), json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    }
}
