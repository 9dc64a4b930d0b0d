//! Kind, version and metadata of objects and of objects within them (`schema/objectmeta`).

use serde_json::Value;

use super::{Structural, child};
use crate::check::{self, type_name};
use crate::meta::Meta;
use crate::names;
use crate::schema::schema;
use crate::status::FieldErrors;

/// The fields every object has without its schema saying so.
pub const TYPE_META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Fits the metadata of an object, and of the objects in it, to what metadata is; unknown fields go and are named.
pub fn coerce(value: &mut Value, schema: &Structural, unknown: &mut Vec<String>) -> Result<(), String> {
    walk(value, schema, "", unknown)
}

fn walk(value: &mut Value, schema: &Structural, path: &str, unknown: &mut Vec<String>) -> Result<(), String> {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                if schema.embedded && TYPE_META.contains(&key.as_str()) {
                    type_meta(key, value, path, unknown)?;
                } else if let Some(of) = schema.field(key).filter(|of| may_embed(of)) {
                    walk(value, of, &child(path, key), unknown)?;
                }
            }
        }
        Value::Array(items) => {
            let Some(of) = schema.items.as_deref().filter(|of| may_embed(of)) else { return Ok(()) };
            for (i, item) in items.iter_mut().enumerate() {
                walk(item, of, &format!("{path}[{i}]"), unknown)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Whether looking into values of this schema can lead to an object in the object.
fn may_embed(schema: &Structural) -> bool {
    schema.embedded || !schema.properties.is_empty() || schema.items.is_some() || schema.field("").is_some()
}

fn type_meta(key: &str, value: &mut Value, path: &str, unknown: &mut Vec<String>) -> Result<(), String> {
    let at = child(path, key);
    if key != "metadata" {
        let got = type_name(value);
        let wrong = !value.is_string();
        return if wrong { Err(format!("{at}: Invalid value: {value}: must be a string, is {got}")) } else { Ok(()) };
    }
    if value.is_null() {
        *value = Value::Object(serde_json::Map::new());
    }
    let Some(ty) = schema().by_name("meta.v1.ObjectMeta") else { return Ok(()) };
    let mut inner = Vec::new();
    check::conform(value, ty, &mut inner)?;
    unknown.extend(inner.into_iter().map(|field| child(&at, &field)));
    Ok(())
}

/// Adds what is wrong with the metadata of the objects within an object (`objectmeta.Validate`); that of the object
/// itself is checked as for every kind.
pub fn check_embedded(value: &Value, schema: &Structural, path: &str, errors: &mut FieldErrors) {
    match value {
        Value::Object(map) => {
            if schema.embedded && !path.is_empty() {
                check_one(value, path, errors);
            }
            for (key, value) in map {
                if schema.embedded && TYPE_META.contains(&key.as_str()) {
                    continue;
                }
                if let Some(of) = schema.field(key).filter(|of| may_embed(of)) {
                    check_embedded(value, of, &child(path, key), errors);
                }
            }
        }
        Value::Array(items) => {
            let Some(of) = schema.items.as_deref().filter(|of| may_embed(of)) else { return };
            for (i, item) in items.iter().enumerate() {
                check_embedded(item, of, &format!("{path}[{i}]"), errors);
            }
        }
        _ => {}
    }
}

fn check_one(value: &Value, path: &str, errors: &mut FieldErrors) {
    for key in ["apiVersion", "kind"] {
        let at = child(path, key);
        match value.get(key) {
            None => errors.required(&at, "must not be empty"),
            Some(Value::String(text)) if text.is_empty() => errors.invalid(&at, &"".into(), "must not be empty"),
            Some(_) => {}
        }
    }
    let at = child(path, "metadata");
    for problem in Some(value.name()).filter(|n| !n.is_empty()).into_iter().flat_map(path_segment) {
        errors.invalid(&child(&at, "name"), &value.name().into(), &problem);
    }
    for (key, label) in value.at(&["metadata", "labels"]).and_then(Value::as_object).into_iter().flatten() {
        let field = child(&at, "labels");
        names::check_qualified_name(key).iter().for_each(|p| errors.invalid(&field, &key.as_str().into(), p));
        names::check_label_value(label.as_str().unwrap_or_default())
            .iter()
            .for_each(|p| errors.invalid(&field, label, p));
    }
    for (key, _) in value.at(&["metadata", "annotations"]).and_then(Value::as_object).into_iter().flatten() {
        for problem in names::check_qualified_name(&key.to_lowercase()) {
            errors.invalid(&child(&at, "annotations"), &key.as_str().into(), &problem);
        }
    }
}

fn path_segment(name: &str) -> Vec<String> {
    names::NameRule::PathSegment.check(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Structural {
        Structural::root(&json!({"type": "object", "properties": {"list": {"type": "array", "items":
            {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}}))
    }

    #[test]
    fn metadata_is_fitted_wherever_it_is() {
        let mut value = json!({"metadata": {"name": "a", "labels": {}, "odd": 1},
            "list": [{"apiVersion": "v1", "kind": "K", "metadata": {"odd": 1, "name": "b"}}]});
        let mut unknown = Vec::new();
        coerce(&mut value, &schema(), &mut unknown).unwrap();
        assert_eq!(unknown, ["metadata.odd", "list[0].metadata.odd"]);
        assert_eq!(value["list"][0]["metadata"], json!({"name": "b"}));
        for (bad, want) in [
            (json!({"metadata": {"labels": 1}}), "json: cannot unmarshal number"),
            (json!({"metadata": 1}), "json: cannot unmarshal number"),
            (json!({"kind": 1}), "kind: Invalid value: 1: must be a string"),
        ] {
            let problem = coerce(&mut bad.clone(), &schema(), &mut Vec::new()).unwrap_err();
            assert!(problem.starts_with(want), "{bad}: {problem}");
        }
    }

    #[test]
    fn objects_within_have_a_kind() {
        let mut errors = FieldErrors::default();
        let value = json!({"list": [{"kind": "", "metadata": {"name": "a/b", "labels": {"x y": "z"}}}]});
        check_embedded(&value, &schema(), "", &mut errors);
        let reported: Vec<_> = errors.0.iter().map(|c| c.field.as_str()).collect();
        let at = "list[0].metadata";
        assert_eq!(reported[..2], ["list[0].apiVersion", "list[0].kind"]);
        assert_eq!(reported[2..], [format!("{at}.name"), format!("{at}.labels")]);
    }
}
