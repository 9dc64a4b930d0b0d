//! What makes a schema structural (`schema.ValidateStructural`): every field has one type, said outside of `allOf` and
//! its kin, and metadata is nobody's business but the server's.

use serde_json::{Map, Value};

use super::pattern;
use crate::meta::Meta;
use crate::status::FieldErrors;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Adds what keeps a schema from being structural, in the order of the messages.
pub(super) fn check(schema: &Value, path: &str, errors: &mut FieldErrors) {
    let mut found = FieldErrors::default();
    invariants(schema, Level::Root, path, &mut found);
    complete(schema, schema, path, path, &mut found);
    found.0.sort_by(|a, b| (&a.field, &a.message).cmp(&(&b.field, &b.message)));
    errors.0.extend(found.0);
}

fn on(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool) == Some(true)
}

fn fields(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten()
}

fn each<'a>(schema: &'a Value, key: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    schema.get(key).and_then(Value::as_array).into_iter().flatten().enumerate()
}

fn object<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    schema.get(key).filter(|v| v.is_object())
}

fn invariants(s: &Value, level: Level, path: &str, errors: &mut FieldErrors) {
    let ty = s.str_at(&["type"]);
    match object(s, "items") {
        Some(items) => invariants(items, Level::Item, &format!("{path}.items"), errors),
        None if ty == "array" => errors.required(&format!("{path}.items"), "must be specified"),
        None => {}
    }
    for (name, field) in fields(s) {
        invariants(field, Level::Field, &format!("{path}.properties[{name}]"), errors);
    }
    if s.get("additionalProperties").is_some() && level == Level::Root {
        errors.forbidden(&format!("{path}.additionalProperties"), "must not be used at the root");
    }
    if let Some(of) = object(s, "additionalProperties") {
        invariants(of, Level::Field, &format!("{path}.additionalProperties"), errors);
    }
    extensions(s, path, errors);
    let first = s.get("allOf").and_then(|a| a.get(0)).is_some_and(is_int_or_string);
    restrictions(s, is_int_or_string(s), first, path, errors);
    types(s, ty, level, path, errors);
    metadata(s, level, path, errors);
}

fn extensions(s: &Value, path: &str, errors: &mut FieldErrors) {
    if !on(s, "x-kubernetes-int-or-string") {
        return;
    }
    for key in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        if on(s, key) {
            let detail = "must be false if x-kubernetes-int-or-string is true";
            errors.invalid(&format!("{path}.{key}"), &true.into(), detail);
        }
    }
}

fn types(s: &Value, ty: &str, level: Level, path: &str, errors: &mut FieldErrors) {
    let at = format!("{path}.type");
    let (embedded, open) = (on(s, "x-kubernetes-embedded-resource"), on(s, "x-kubernetes-preserve-unknown-fields"));
    if embedded && ty != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        if ty.is_empty() { errors.required(&at, detail) } else { errors.invalid(&at, &ty.into(), detail) }
    } else if ty.is_empty() && !open && !on(s, "x-kubernetes-int-or-string") {
        errors.required(
            &at,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        );
    }
    if embedded && s.get("additionalProperties").is_some() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.forbidden(&format!("{path}.additionalProperties"), detail);
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.invalid(&at, &ty.into(), "must be object at the root");
    }
    if embedded && !open && fields(s).next().is_none() {
        let detail =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.required(&format!("{path}.properties"), detail);
    }
}

fn metadata(s: &Value, level: Level, path: &str, errors: &mut FieldErrors) {
    let is_resource = level == Level::Root || on(s, "x-kubernetes-embedded-resource");
    for (key, wanted) in [("kind", "string"), ("apiVersion", "string"), ("metadata", "object")] {
        let Some(field) = s.at(&["properties", key]).filter(|_| is_resource) else { continue };
        let ty = field.str_at(&["type"]);
        if ty != wanted {
            errors.invalid(&format!("{path}.properties[{key}].type"), &ty.into(), &format!("must be {wanted}"));
        }
    }
    let Some(meta) = s.at(&["properties", "metadata"]).filter(|_| level == Level::Root) else { return };
    let known = |key: &str, value: &Value| match key {
        "type" | "default" => true,
        "properties" => {
            value.as_object().is_some_and(|p| p.keys().all(|k| matches!(k.as_str(), "name" | "generateName")))
        }
        _ => false,
    };
    if !meta.as_object().is_some_and(|m| m.iter().all(|(k, v)| known(k, v))) {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.forbidden(&format!("{path}.properties[metadata]"), detail);
    }
}

/// `anyOf: [{type: integer}, {type: string}]`, which int-or-string may spell out.
fn is_int_or_string(s: &Value) -> bool {
    let of = |value: &Value, ty: &str| {
        value.as_object().is_some_and(|m| m.len() == 1 && m.get("type").is_some_and(|t| t == ty))
    };
    matches!(s.get("anyOf").and_then(Value::as_array).map(Vec::as_slice), Some([a, b]) if of(a, "integer") && of(b, "string"))
}

fn restrictions(s: &Value, skip_any: bool, skip_first: bool, path: &str, errors: &mut FieldErrors) {
    for (i, of) in each(s, "anyOf").filter(|_| !skip_any) {
        nested(of, false, &format!("{path}.anyOf[{i}]"), errors);
    }
    for (i, of) in each(s, "allOf") {
        nested(of, skip_first && i == 0, &format!("{path}.allOf[{i}]"), errors);
    }
    for (i, of) in each(s, "oneOf") {
        nested(of, false, &format!("{path}.oneOf[{i}]"), errors);
    }
    if let Some(not) = object(s, "not") {
        nested(not, false, &format!("{path}.not"), errors);
    }
    let text = s.str_at(&["pattern"]);
    if let Some(problem) = Some(text).filter(|t| !t.is_empty()).and_then(|t| pattern::compile(t).err()) {
        let detail = format!("must be a valid regular expression, but isn't: {problem}");
        errors.invalid(&format!("{path}.pattern"), &text.into(), &detail);
    }
}

fn nested(s: &Value, skip_any: bool, path: &str, errors: &mut FieldErrors) {
    restrictions(s, skip_any, false, path, errors);
    if let Some(items) = object(s, "items") {
        nested(items, false, &format!("{path}.items"), errors);
    }
    for (name, field) in fields(s) {
        nested(field, false, &format!("{path}.properties[{name}]"), errors);
        if name == "metadata" {
            errors.forbidden(&format!("{path}.properties[metadata]"), "must not be specified in a nested context");
        }
    }
    let mut forbid = |key: &str, must: &str| {
        let is_set = s.as_object().and_then(|m: &Map<String, Value>| m.get(key)).is_some_and(|v| match v {
            Value::Bool(on) => *on || key == "additionalProperties",
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Null => false,
            _ => true,
        });
        if is_set {
            errors.forbidden(&format!("{path}.{key}"), &format!("must be {must} to be structural"));
        }
    };
    for (key, must) in [
        ("type", "empty"),
        ("additionalProperties", "undefined"),
        ("default", "undefined"),
        ("title", "empty"),
        ("description", "empty"),
        ("nullable", "false"),
        ("x-kubernetes-preserve-unknown-fields", "false"),
        ("x-kubernetes-embedded-resource", "false"),
        ("x-kubernetes-int-or-string", "false"),
        ("x-kubernetes-list-map-keys", "empty"),
        ("x-kubernetes-list-type", "undefined"),
        ("x-kubernetes-map-type", "undefined"),
        ("x-kubernetes-validations", "empty"),
    ] {
        forbid(key, must);
    }
}

/// Every field that a restriction talks about is a field of the schema itself (`validateStructuralCompleteness`).
fn complete(v: &Value, s: &Value, s_path: &str, v_path: &str, errors: &mut FieldErrors) {
    for key in ["allOf", "anyOf", "oneOf"] {
        for (i, of) in each(v, key) {
            complete_nested(of, Some(s), s_path, &format!("{v_path}.{key}[{i}]"), errors);
        }
    }
    if let Some(not) = object(v, "not") {
        complete_nested(not, Some(s), s_path, &format!("{v_path}.not"), errors);
    }
}

fn complete_nested(v: &Value, s: Option<&Value>, s_path: &str, v_path: &str, errors: &mut FieldErrors) {
    let Some(s) = s else {
        return errors.required(s_path, &format!("because it is defined in {v_path}"));
    };
    complete(v, s, s_path, v_path, errors);
    if let Some(items) = object(v, "items") {
        let (s_at, v_at) = (format!("{s_path}.items"), format!("{v_path}.items"));
        complete_nested(items, object(s, "items"), &s_at, &v_at, errors);
    }
    for (name, field) in fields(v) {
        let (s_at, v_at) = (format!("{s_path}.properties[{name}]"), format!("{v_path}.properties[{name}]"));
        complete_nested(field, s.at(&["properties", name]), &s_at, &v_at, errors);
    }
}
