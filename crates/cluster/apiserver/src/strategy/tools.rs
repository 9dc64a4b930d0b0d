//! Short ways to default and check.

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status::FieldErrors;
use serde_json::{Map, Value};

/// Sets `key` when it is absent.
pub fn absent(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut()
        && map.get(key).is_none_or(Value::is_null)
    {
        map.insert(key.to_owned(), value.into());
    }
}

/// Sets `key` when it is absent or the empty string.
pub fn empty(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut()
        && map.get(key).is_none_or(|v| v.is_null() || v == "" || v == 0)
    {
        map.insert(key.to_owned(), value.into());
    }
}

/// The object at `key`, made if absent.
pub fn object<'a>(parent: &'a mut Value, key: &str) -> &'a mut Value {
    if let Some(map) = parent.as_object_mut()
        && !map.get(key).is_some_and(Value::is_object)
    {
        map.insert(key.to_owned(), Value::Object(Map::new()));
    }
    &mut parent[key]
}

/// The elements of the list at `key`; none when it is absent.
pub fn each<'a>(parent: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    parent.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The elements of a list, to read.
pub fn items<'a>(parent: &'a Value, path: &[&str]) -> &'a [Value] {
    parent.at(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Must not be negative.
pub fn not_negative(object: &Value, path: &[&str], errors: &mut FieldErrors) {
    if let Some(value) = object.at(path)
        && value.as_i64().is_some_and(|n| n < 0)
    {
        errors.invalid(&path.join("."), value, "must be greater than or equal to 0");
    }
}

/// Must stay what it was.
pub fn immutable(new: &Value, old: &Value, path: &[&str], errors: &mut FieldErrors) {
    if new.at(path) != old.at(path) {
        errors.invalid(&path.join("."), &new.at(path).cloned().unwrap_or_default(), "field is immutable");
    }
}

/// Must be one of these, when it is given.
pub fn one_of(value: &Value, field: &str, allowed: &[&str], errors: &mut FieldErrors) {
    if value.as_str().is_none_or(|v| !allowed.contains(&v)) {
        errors.not_supported(field, value, allowed);
    }
}

/// A port number.
pub fn port(value: Option<&Value>, field: &str, errors: &mut FieldErrors) {
    match value.and_then(Value::as_i64) {
        None => errors.required(field, ""),
        Some(n) if !(1..=65535).contains(&n) => {
            errors.invalid(field, &n.into(), "must be between 1 and 65535, inclusive");
        }
        Some(_) => {}
    }
}

/// Asserts that these and no other errors were told: `FIELD: ` and the beginning of the detail, in order.
#[cfg(test)]
pub fn assert_told(errors: &FieldErrors, wanted: &[&str], what: &Value) {
    let reported: Vec<String> = errors.0.iter().map(|cause| format!("{} {}", cause.field, cause.message)).collect();
    let fits = |(cause, wanted): (&kinit_apimachinery::Cause, &&str)| {
        let (field, detail) = wanted.split_once(": ").unwrap_or((wanted, ""));
        cause.field == field && cause.message.contains(detail)
    };
    assert!(
        reported.len() == wanted.len() && errors.0.iter().zip(wanted).all(fits),
        "{what}: told {reported:#?}, wanted {wanted:#?}"
    );
}
