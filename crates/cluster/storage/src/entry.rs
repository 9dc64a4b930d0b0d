//! One object as the cache keeps it: its bytes, and what selectors ask for.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use kinit_apimachinery::complete::complete;
use kinit_apimachinery::proto;
use kinit_apimachinery::schema::schema;
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
    /// Whether what is stored was brought up to date for it, or is encrypted with a key that writes no more: then a
    /// write that changes nothing else is one all the same.
    pub refreshed: bool,
    labels: Box<[(Box<str>, Box<str>)]>,
    fields: Box<[(Cow<'static, str>, Box<str>)]>,
    /// Where the digits of the resource version are in `bytes`.
    version_at: (u32, u32),
}

/// Values of selectable fields, by path.
pub type Fields = Vec<(Cow<'static, str>, String)>;
type Refresh = dyn Fn(&mut Value) -> bool + Send + Sync;

/// How what is stored of a resource is read.
#[derive(Clone)]
pub struct Reading {
    fields: Arc<dyn Fn(&Value) -> Fields + Send + Sync>,
    refresh: Option<Arc<Refresh>>,
}

impl Reading {
    /// Objects are shown as they are stored; `fields` gives the values of their selectable fields.
    pub fn new(fields: impl Fn(&Value) -> Fields + Send + Sync + 'static) -> Self {
        Self { fields: Arc::new(fields), refresh: None }
    }

    /// Objects are brought up to date when they are read; `refresh` tells whether it changed one.
    #[must_use]
    pub fn refreshed(self, refresh: impl Fn(&mut Value) -> bool + Send + Sync + 'static) -> Self {
        Self { refresh: Some(Arc::new(refresh)), ..self }
    }
}

impl Default for Reading {
    fn default() -> Self {
        Self::new(|_| Vec::new())
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("refreshes", &self.refresh.is_some()).finish_non_exhaustive()
    }
}

/// What upstream's server wrote, as this one would have.
fn of_protobuf(stored: &[u8]) -> Result<Value, String> {
    let envelope = proto::open(stored).map_err(|e| e.to_string())?;
    let (group, version) = envelope.api_version.rsplit_once('/').unwrap_or(("", &envelope.api_version));
    let known = schema().by_kind(group, version, &envelope.kind);
    let ty = known.ok_or_else(|| format!("{} {} is not a kind of this server", envelope.api_version, envelope.kind))?;
    let mut value = proto::decode(ty, envelope.raw).map_err(|e| e.to_string())?;
    if let Some(object) = value.as_object_mut() {
        object.shift_insert(0, "kind".to_owned(), envelope.kind.into());
        object.shift_insert(1, "apiVersion".to_owned(), envelope.api_version.into());
    }
    complete(&mut value, ty);
    Ok(value)
}

const METADATA: &[u8] = b"\"metadata\":{";

impl Entry {
    /// From the JSON text in etcd (which has no resource version), or the protobuf that upstream's server writes.
    pub fn from_stored(key: &str, stored: &[u8], revision: u64, reading: &Reading) -> Result<Self, Error> {
        let corrupt = |reason: String| Error::Corrupt { resource: String::new(), key: key.to_owned(), reason };
        let foreign = proto::is_enveloped(stored);
        let mut value: Value = match foreign {
            true => of_protobuf(stored).map_err(corrupt)?,
            false => {
                serde_json::from_slice(stored).map_err(|e| corrupt(format!("not JSON at column {}", e.column())))?
            }
        };
        let object = value.as_object().ok_or_else(|| corrupt("not an object".into()))?;
        let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
        if object.get("metadata").and_then(|m| m.get("name")).and_then(Value::as_str) != Some(name) {
            return Err(corrupt("its metadata.name is not the one of its key".into()));
        }
        let plain = if foreign { None } else { metadata_at(object, stored) };
        let refreshed = reading.refresh.as_ref().is_some_and(|refresh| refresh(&mut value));
        let changed = foreign || refreshed;
        let (bytes, version_at) = match plain.filter(|_| !changed) {
            Some(at) => splice(stored, at, revision),
            None => {
                let canonical =
                    kinit_apimachinery::encode::to_vec(&canonical(&value)).map_err(|e| corrupt(e.to_string()))?;
                splice(&canonical, find_metadata(&canonical).ok_or_else(|| corrupt("no metadata".into()))?, revision)
            }
        };
        let labels = value.get("metadata").and_then(|m| m.get("labels")).and_then(Value::as_object);
        let labels = labels
            .map(|map| map.iter().filter_map(|(k, v)| Some((k.as_str().into(), v.as_str()?.into()))).collect())
            .unwrap_or_default();
        let fields = (reading.fields)(&value).into_iter().map(|(k, v)| (k, v.into_boxed_str())).collect();
        Ok(Self { key: key.into(), bytes, revision, refreshed: changed, labels, fields, version_at })
    }

    /// An object of which only the name is known.
    pub(crate) fn name_only(key: &str, revision: u64) -> Self {
        let (namespace, name) = key.rsplit_once('/').unwrap_or(("", key));
        let object = serde_json::json!({"metadata": {"name": name, "namespace": namespace}}).to_string();
        let at = find_metadata(object.as_bytes()).unwrap_or(0);
        let (bytes, version_at) = splice(object.as_bytes(), at, revision);
        Self {
            key: key.into(),
            bytes,
            revision,
            refreshed: false,
            labels: Box::default(),
            fields: Box::default(),
            version_at,
        }
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
            refreshed: self.refreshed,
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

/// Where the fields of `metadata` begin in the stored text, if that is as we write it: nothing but the type before it,
/// and no resource version in it.
fn metadata_at(object: &Map<String, Value>, stored: &[u8]) -> Option<usize> {
    let typed =
        object.keys().take_while(|key| *key != "metadata").all(|key| matches!(key.as_str(), "apiVersion" | "kind"));
    let bare = object.get("metadata").is_some_and(|m| m.get("resourceVersion").is_none());
    if typed && bare { find_metadata(&stored[..stored.len().min(300)]) } else { None }
}

fn find_metadata(text: &[u8]) -> Option<usize> {
    text.windows(METADATA.len()).position(|window| window == METADATA).map(|at| at + METADATA.len())
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
        let entry =
            Entry::from_stored("ns/a", stored, 42, &Reading::new(|_| vec![("type".into(), "t".into())])).unwrap();
        assert_eq!(entry.value()["metadata"]["resourceVersion"], "42");
        assert_eq!((entry.name(), entry.namespace(), entry.label("x")), ("a", "ns", Some("y")));
        assert_eq!(entry.field("metadata.namespace"), Some("ns"));
        let later = entry.at_revision(12345);
        assert_eq!(later.value()["metadata"]["resourceVersion"], "12345");
        assert_eq!(later.value()["data"]["k"], "v");
    }

    #[test]
    fn what_is_no_object_of_its_key_is_an_error() {
        for garbage in
            ["{", "5", "\"text\"", "[]", "{}", r#"{"metadata":{}}"#, r#"{"metadata":{"name":"b"}}"#, "k8s\0bytes"]
        {
            let error = Entry::from_stored("ns/a", garbage.as_bytes(), 1, &Reading::default()).unwrap_err().to_string();
            assert!(error.contains("\"ns/a\""), "{garbage}: {error}");
        }
    }

    #[test]
    fn foreign_orders_of_fields_are_read() {
        let stored = br#"{"kind":"X","data":{"metadata":{"a":"b"}},"metadata":{"resourceVersion":"7","name":"a"}}"#;
        let entry = Entry::from_stored("a", stored, 42, &Reading::default()).unwrap();
        assert_eq!(entry.value()["metadata"]["resourceVersion"], "42");
        assert_eq!(entry.value()["data"]["metadata"], serde_json::json!({"a": "b"}));
        assert_eq!(entry.at_revision(9).value()["metadata"]["resourceVersion"], "9");
    }

    #[test]
    fn what_is_stored_is_brought_up_to_date() {
        let reading = Reading::default().refreshed(|v| {
            let old = v["data"] == 1;
            v["data"] = 2.into();
            old
        });
        for stored in [r#"{"metadata":{"name":"a"},"data":1}"#, r#"{"metadata":{"name":"a"},"data":2}"#] {
            let entry = Entry::from_stored("a", stored.as_bytes(), 7, &reading).unwrap();
            assert_eq!(
                entry.value(),
                serde_json::json!({"metadata": {"resourceVersion": "7", "name": "a"}, "data": 2})
            );
            assert_eq!(entry.at_revision(8).value()["metadata"]["resourceVersion"], "8");
        }
    }
}
