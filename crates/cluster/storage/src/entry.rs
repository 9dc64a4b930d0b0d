//! One object as the cache keeps it: its bytes, and what selectors ask for.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::error::Error;

/// An encoded object.
#[derive(Debug, Clone)]
pub struct Entry {
    /// `namespace/name` or `name`.
    pub key: Box<str>,
    /// JSON, with `metadata.resourceVersion` set.
    pub bytes: Bytes,
    /// The object's revision.
    pub revision: u64,
    labels: Box<[(Box<str>, Box<str>)]>,
    fields: Box<[(&'static str, Box<str>)]>,
    /// Where the digits of the resource version are in `bytes`.
    version_at: (u32, u32),
}

/// Gives the values of a resource's selectable fields.
pub type FieldsOf = fn(&Value) -> Vec<(&'static str, String)>;

const METADATA: &[u8] = b"\"metadata\":{";

impl Entry {
    /// From the JSON text in etcd (which has no resource version).
    pub fn from_stored(key: &str, stored: &[u8], revision: u64, fields: FieldsOf) -> Result<Self, Error> {
        let corrupt = |reason: String| Error::Corrupt { key: key.to_owned(), reason };
        let value: Value =
            serde_json::from_slice(stored).map_err(|e| corrupt(format!("not JSON at column {}", e.column())))?;
        let head = stored.len().min(300);
        let at = stored[..head].windows(METADATA.len()).position(|w| w == METADATA).map(|i| i + METADATA.len());
        let (bytes, version_at) = match at {
            Some(at) => splice(stored, at, revision),
            None => {
                let canonical =
                    kinit_apimachinery::encode::to_vec(&canonical(&value)).map_err(|e| corrupt(e.to_string()))?;
                let at = canonical.windows(METADATA.len()).position(|w| w == METADATA).map(|i| i + METADATA.len());
                splice(&canonical, at.ok_or_else(|| corrupt("no metadata".into()))?, revision)
            }
        };
        let labels = value.get("metadata").and_then(|m| m.get("labels")).and_then(Value::as_object);
        let labels = labels
            .map(|map| map.iter().filter_map(|(k, v)| Some((k.as_str().into(), v.as_str()?.into()))).collect())
            .unwrap_or_default();
        let fields = fields(&value).into_iter().map(|(k, v)| (k, v.into_boxed_str())).collect();
        Ok(Self { key: key.into(), bytes, revision, labels, fields, version_at })
    }

    /// The same object with another resource version: what a DELETED event carries.
    pub fn at_revision(&self, revision: u64) -> Self {
        let (start, end) = (self.version_at.0 as usize, self.version_at.1 as usize);
        let digits = revision.to_string();
        let mut bytes = Vec::with_capacity(self.bytes.len() + digits.len());
        bytes.extend_from_slice(&self.bytes[..start]);
        bytes.extend_from_slice(digits.as_bytes());
        bytes.extend_from_slice(&self.bytes[end..]);
        let version_at = (self.version_at.0, self.version_at.0 + u32::try_from(digits.len()).unwrap_or(0));
        Self {
            key: self.key.clone(),
            bytes: bytes.into(),
            revision,
            labels: self.labels.clone(),
            fields: self.fields.clone(),
            version_at,
        }
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
    }

    /// A selectable field's value; `metadata.name` and `metadata.namespace` come from the key.
    pub fn field(&self, path: &str) -> Option<&str> {
        match path {
            "metadata.name" => Some(self.name()),
            "metadata.namespace" => Some(self.namespace()),
            _ => self.fields.iter().find(|(k, _)| *k == path).map(|(_, v)| &**v),
        }
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        self.key.rsplit_once('/').map_or(&*self.key, |(_, name)| name)
    }

    /// The object's namespace, "" for cluster-scoped ones.
    pub fn namespace(&self) -> &str {
        self.key.rsplit_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The object, parsed.
    pub fn value(&self) -> Value {
        // The bytes were JSON when the entry was made.
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }
}

fn splice(stored: &[u8], at: usize, revision: u64) -> (Bytes, (u32, u32)) {
    let digits = revision.to_string();
    let open = b"\"resourceVersion\":\"";
    let empty = stored.get(at) == Some(&b'}');
    let mut out = Vec::with_capacity(stored.len() + open.len() + digits.len() + 2);
    out.extend_from_slice(&stored[..at]);
    out.extend_from_slice(open);
    let start = out.len();
    out.extend_from_slice(digits.as_bytes());
    let end = out.len();
    out.extend_from_slice(if empty { b"\"" } else { b"\"," });
    out.extend_from_slice(&stored[at..]);
    let position = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    (out.into(), (position(start), position(end)))
}

/// The object in the order it is stored: apiVersion, kind, metadata (without a resource version), the rest.
pub fn canonical(object: &Value) -> Value {
    let mut out = Map::new();
    let Some(map) = object.as_object() else { return object.clone() };
    for key in ["apiVersion", "kind", "metadata"] {
        if let Some(value) = map.get(key) {
            out.insert(key.into(), value.clone());
        }
    }
    let metadata = out.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.shift_remove("resourceVersion");
    }
    for (key, value) in map {
        if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            out.insert(key.clone(), value.clone());
        }
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_spliced_and_replaced() {
        let stored =
            br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","labels":{"x":"y"}},"data":{"k":"v"}}"#;
        let entry = Entry::from_stored("ns/a", stored, 42, |_| vec![("type", "t".into())]).unwrap();
        assert_eq!(entry.value()["metadata"]["resourceVersion"], "42");
        assert_eq!((entry.name(), entry.namespace(), entry.label("x")), ("a", "ns", Some("y")));
        assert_eq!(entry.field("metadata.namespace"), Some("ns"));
        let later = entry.at_revision(12345);
        assert_eq!(later.value()["metadata"]["resourceVersion"], "12345");
        assert_eq!(later.value()["data"]["k"], "v");
        assert!(Entry::from_stored("ns/a", b"{", 1, |_| vec![]).is_err());
    }
}
