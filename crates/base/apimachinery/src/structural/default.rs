//! Absent fields get their defaults (`schema/defaulting`).

use serde_json::Value;

use super::{Additional, Structural};

/// Bytes that defaults may add to one object: lists multiply them.
const MOST: usize = 3 * 1024 * 1024;

/// Defaults that would make an object larger than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the defaults of its schema add more than {MOST} bytes")]
pub struct TooLarge;

impl Structural {
    /// Takes out nulls that are no values and have no default, and fills in defaults; whether anything changed. After
    /// an error `value` is of no use.
    pub fn default(&self, value: &mut Value) -> Result<bool, TooLarge> {
        let mut filling = Filling { left: MOST, changed: false };
        drop_nulls(value, self, &mut filling.changed);
        filling.fill(value, self)?;
        Ok(filling.changed)
    }
}

fn is_no_value(value: &Value, schema: &Structural) -> bool {
    value.is_null() && !schema.nullable
}

/// `PruneNonNullableNullsWithoutDefaults`.
fn drop_nulls(value: &mut Value, schema: &Structural, changed: &mut bool) {
    match value {
        Value::Object(map) => map.retain(|key, child| {
            let Some(of) = schema.field(key) else { return true };
            if is_no_value(child, of) && of.default.is_none() {
                *changed = true;
                return false;
            }
            drop_nulls(child, of, changed);
            true
        }),
        Value::Array(items) => {
            if let Some(of) = schema.items.as_deref() {
                items.iter_mut().for_each(|item| drop_nulls(item, of, changed));
            }
        }
        _ => {}
    }
}

struct Filling {
    left: usize,
    changed: bool,
}

impl Filling {
    fn fill(&mut self, value: &mut Value, schema: &Structural) -> Result<(), TooLarge> {
        match value {
            Value::Object(map) => {
                for (name, of) in &schema.properties {
                    if let Some(default) = &of.default
                        && map.get(name).is_none_or(|v| is_no_value(v, of))
                    {
                        map.insert(name.clone(), self.copy(default)?);
                    }
                }
                for (name, child) in map.iter_mut() {
                    match (schema.properties.get(name), &schema.additional) {
                        (Some(of), _) => self.fill(child, of)?,
                        (None, Additional::Of(of)) => self.fill_element(child, of)?,
                        (None, _) => {}
                    }
                }
            }
            Value::Array(items) => {
                let Some(of) = schema.items.as_deref() else { return Ok(()) };
                for item in items {
                    self.fill_element(item, of)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn fill_element(&mut self, value: &mut Value, of: &Structural) -> Result<(), TooLarge> {
        if is_no_value(value, of)
            && let Some(default) = &of.default
        {
            *value = self.copy(default)?;
        }
        self.fill(value, of)
    }

    fn copy(&mut self, default: &Value) -> Result<Value, TooLarge> {
        self.left = self.left.checked_sub(size(default)).ok_or(TooLarge)?;
        self.changed = true;
        Ok(default.clone())
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(size).sum::<usize>(),
        Value::Object(map) => 2 + map.iter().map(|(k, v)| k.len() + 4 + size(v)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_fields_and_nulls() {
        let schema = Structural::root(&json!({"type": "object", "properties": {
            "a": {"type": "string", "default": "A"},
            "b": {"type": "object", "default": {}, "properties": {"c": {"type": "string", "default": "C"}}},
            "d": {"type": "object", "properties": {"e": {"type": "string", "default": "E"}}},
            "f": {"type": "string", "nullable": true, "default": "F"},
            "g": {"type": "string"},
            "h": {"type": "array", "items": {"type": "object", "properties": {"i": {"type": "integer", "default": 1}}}},
            "j": {"type": "object", "additionalProperties": {"type": "object", "properties": {"k": {"type": "integer", "default": 2}}}}}}));
        for (given, want) in [
            (json!({}), json!({"a": "A", "b": {"c": "C"}, "f": "F"})),
            (json!({"a": null, "b": {"c": "x"}, "f": null, "g": null}), json!({"a": "A", "b": {"c": "x"}, "f": null})),
            (
                json!({"a": "", "b": {}, "d": {}, "f": "", "h": [{}], "j": {"x": {}}}),
                json!({"a": "", "b": {"c": "C"}, "d": {"e": "E"}, "f": "", "h": [{"i": 1}], "j": {"x": {"k": 2}}}),
            ),
        ] {
            let mut value = given.clone();
            assert_eq!(schema.default(&mut value), Ok(true), "{given}");
            assert_eq!(value, want, "{given}");
            assert_eq!(schema.default(&mut value), Ok(false), "a second time changes nothing");
        }
    }

    #[test]
    fn what_multiplies_is_bounded() {
        let schema = Structural::root(&json!({"type": "object", "properties": {"l": {"type": "array", "items": {
            "type": "object", "properties": {"x": {"type": "string", "default": "x".repeat(100_000)}}}}}}));
        let mut value = json!({"l": vec![json!({}); 100]});
        assert_eq!(schema.default(&mut value), Err(TooLarge));
    }
}
