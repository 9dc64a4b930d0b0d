//! Defaults are values of their own schema (`schema/defaulting.ValidateDefaults`).

use serde_json::Value;

use super::{Structural, check_embedded, coerce};
use crate::meta::Meta;
use crate::status::FieldErrors;

/// Adds what is wrong with the defaults in a schema. `in_meta` is on below `metadata`.
pub(super) fn check(schema: &Value, in_meta: bool, pruned: bool, path: &str, errors: &mut FieldErrors) {
    let embedded = schema.get("x-kubernetes-embedded-resource").and_then(Value::as_bool) == Some(true);
    if let Some(default) = schema.get("default").filter(|d| !d.is_null()) {
        one(&Structural::parse(schema), default, pruned && !in_meta, &format!("{path}.default"), errors);
    }
    // Below additionalProperties of metadata there are none: `check` forbids them.
    if let Some(items) = schema.get("items").filter(|i| i.is_object()) {
        check(items, in_meta && !embedded, pruned, &format!("{path}.items"), errors);
    }
    for (name, field) in schema.at(&["properties"]).and_then(Value::as_object).into_iter().flatten() {
        let meta = (in_meta && !embedded) || (embedded && name == "metadata");
        check(field, meta, pruned, &format!("{path}.properties[{name}]"), errors);
    }
}

fn one(schema: &Structural, default: &Value, pruned: bool, path: &str, errors: &mut FieldErrors) {
    let mut copy = default.clone();
    let mut unknown = Vec::new();
    schema.prune(&mut copy, &mut unknown);
    if pruned && !unknown.is_empty() {
        errors.invalid(path, default, "must not have unknown fields");
    }
    if let Err(problem) = coerce(&mut copy, schema, &mut Vec::new()) {
        return errors.invalid(path, default, &problem);
    }
    let before = errors.0.len();
    check_embedded(default, schema, path, errors);
    if errors.0.len() == before {
        schema.validate(default, None, path, errors);
    }
}
