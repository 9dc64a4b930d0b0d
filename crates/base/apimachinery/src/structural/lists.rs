//! Sets hold no value twice, maps no key (`schema/listtype`).

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{ListType, Structural, child, key_of};
use crate::status::FieldErrors;

impl Structural {
    /// Adds what is there twice in the lists of a value.
    pub fn check_lists(&self, value: &Value, path: &str, errors: &mut FieldErrors) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    if let Some(of) = self.field(key) {
                        of.check_lists(value, &child(path, key), errors);
                    }
                }
            }
            Value::Array(items) => {
                self.check_unique(items, path, errors);
                let Some(of) = self.items.as_deref() else { return };
                for (i, item) in items.iter().enumerate() {
                    of.check_lists(item, &format!("{path}[{i}]"), errors);
                }
            }
            _ => {}
        }
    }

    fn check_unique(&self, items: &[Value], path: &str, errors: &mut FieldErrors) {
        let (mut seen, mut reported) = (HashSet::new(), HashSet::new());
        for (i, item) in items.iter().enumerate() {
            let (key, shown) = match &self.list {
                ListType::Atomic => return,
                ListType::Set => (item.to_string(), item.clone()),
                ListType::Map(keys) => {
                    let Some(key) = key_of(item, keys) else { continue };
                    let parts = keys.iter().filter_map(|k| Some((k.clone(), item.get(k)?.clone())));
                    (key, Value::Object(parts.collect::<Map<_, _>>()))
                }
            };
            // A third one tells nothing new.
            if !seen.insert(key.clone()) && reported.insert(key) {
                errors.duplicate(&format!("{path}[{i}]"), &shown);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn duplicates_are_told_once() {
        let schema = Structural::parse(&json!({"type": "object", "properties": {
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"],
                "items": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"},
                    "in": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}}}}},
            "free": {"type": "array", "items": {"type": "string"}}}}));
        let mut errors = FieldErrors::default();
        let value = json!({"set": ["x", "y", "x", "x"], "free": ["x", "x"],
            "map": [{"a": "1", "b": 1}, {"a": "1", "b": 2}, {"a": "1", "b": 1, "in": [1, 1]}]});
        schema.check_lists(&value, "spec", &mut errors);
        let reported: Vec<_> = errors.0.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        assert_eq!(
            reported,
            [
                "spec.set[2]: Duplicate value: \"x\"",
                "spec.map[2]: Duplicate value: {\"a\":\"1\",\"b\":1}",
                "spec.map[2].in[1]: Duplicate value: 1",
            ]
        );
    }
}
