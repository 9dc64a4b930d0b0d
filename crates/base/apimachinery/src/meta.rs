//! Typed looks into an object that is plain JSON.

use serde_json::{Map, Value};

/// Short ways to read and write what every object has.
pub trait Meta {
    /// The string at a path of object keys; "" when absent.
    fn str_at(&self, path: &[&str]) -> &str;
    /// The value at a path of object keys.
    fn at(&self, path: &[&str]) -> Option<&Value>;
    /// The object at a path, made on the way; `None` when something else than an object is in the way.
    fn object_at(&mut self, path: &[&str]) -> Option<&mut Map<String, Value>>;
    /// `metadata.name`.
    fn name(&self) -> &str {
        self.str_at(&["metadata", "name"])
    }
    /// `metadata.namespace`.
    fn namespace(&self) -> &str {
        self.str_at(&["metadata", "namespace"])
    }
    /// `metadata.uid`.
    fn uid(&self) -> &str {
        self.str_at(&["metadata", "uid"])
    }
    /// `metadata.resourceVersion`.
    fn resource_version(&self) -> &str {
        self.str_at(&["metadata", "resourceVersion"])
    }
    /// Whether `metadata.deletionTimestamp` is set.
    fn is_deleting(&self) -> bool {
        self.at(&["metadata", "deletionTimestamp"]).is_some_and(|v| !v.is_null())
    }
    /// `metadata.finalizers`.
    fn finalizers(&self) -> Vec<String> {
        strings(self.at(&["metadata", "finalizers"]))
    }
    /// A label's value.
    fn label(&self, key: &str) -> Option<&str>;
    /// An annotation's value.
    fn annotation(&self, key: &str) -> Option<&str>;
}

/// The strings of a JSON array.
pub fn strings(value: Option<&Value>) -> Vec<String> {
    value
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default()
}

impl Meta for Value {
    fn str_at(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or_default()
    }

    fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |value, key| value.get(key))
    }

    fn object_at(&mut self, path: &[&str]) -> Option<&mut Map<String, Value>> {
        let mut at = self;
        for key in path {
            let map = at.as_object_mut()?;
            at = map.entry(*key).or_insert_with(|| Value::Object(Map::new()));
            if at.is_null() {
                *at = Value::Object(Map::new());
            }
        }
        at.as_object_mut()
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.at(&["metadata", "labels"])?.get(key)?.as_str()
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.at(&["metadata", "annotations"])?.get(key)?.as_str()
    }
}
