//! Kinds with two faces: events in two groups, autoscalers in two versions. One form is stored, the other is made on
//! the way.

use std::sync::Arc;

use async_trait::async_trait;
use kinit_apimachinery::ApiError;
use kinit_apimachinery::complete::complete;
use kinit_apimachinery::typed::Typed;
use serde_json::{Map, Value};

use super::convert::Converter;
use super::hpa;

/// Conversion by a pair of functions.
struct Face {
    /// Shown to stored.
    to_storage: fn(Value) -> Value,
    /// What is stored.
    stored: Typed,
    /// Its group and version.
    stored_as: (&'static str, &'static str),
    /// Carries what travels in annotations over an update that must not touch it: (new, old, subresource).
    keep: fn(&mut Value, &Value, &str),
    /// Stored to shown.
    from_storage: fn(Value) -> Value,
    /// What is shown.
    shown: Typed,
}

#[async_trait]
impl Converter for Face {
    async fn shown(&self, stored: Vec<Value>) -> Result<Vec<Value>, ApiError> {
        let one = |object| completed((self.from_storage)(object), &self.shown);
        stored.into_iter().map(one).collect()
    }

    async fn stored(&self, object: Value) -> Result<Value, ApiError> {
        completed((self.to_storage)(object), &self.stored)
    }

    fn keep(&self, new: &mut Value, old: &Value, sub: &str) {
        (self.keep)(new, old, sub);
    }
}

fn completed(mut object: Value, ty: &Typed) -> Result<Value, ApiError> {
    ty.complete(&mut object).map_err(ApiError::internal)?;
    Ok(object)
}

/// The face of a resource, if it is not what is stored.
pub fn of(group: &str, version: &str, kind: &str) -> Option<Arc<dyn Converter>> {
    face(group, version, kind).map(|face| Arc::new(face) as Arc<dyn Converter>)
}

fn face(group: &str, version: &str, kind: &str) -> Option<Face> {
    let shown = Typed::of_kind(group, version, kind);
    match (group, version, kind) {
        ("events.k8s.io", "v1", "Event") => Some(Face {
            to_storage: event_to_core,
            stored: Typed::of_kind("", "v1", "Event"),
            stored_as: ("", "v1"),
            keep: |_, _, _| {},
            from_storage: event_from_core,
            shown,
        }),
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => Some(Face {
            to_storage: hpa::to_v2,
            stored: Typed::of_kind("autoscaling", "v2", "HorizontalPodAutoscaler"),
            stored_as: ("autoscaling", "v2"),
            keep: hpa::keep,
            from_storage: hpa::from_v2,
            shown,
        }),
        _ => None,
    }
}

/// An object of a kind with two faces as the other one shows it, and its type.
pub fn converted(object: &Value, from: &str, kind: &str, to: &str) -> Option<(Value, usize)> {
    let split = |api_version| <str>::split_once(api_version, '/').unwrap_or(("", api_version));
    let ((group, version), other) = (split(from), split(to));
    let (mut converted, ty) = match face(group, version, kind).filter(|face| face.stored_as == other) {
        Some(face) => ((face.to_storage)(object.clone()), face.stored),
        None => {
            let face = face(other.0, other.1, kind).filter(|face| face.stored_as == (group, version))?;
            ((face.from_storage)(object.clone()), face.shown)
        }
    };
    let ty = ty.built_in()?;
    complete(&mut converted, ty);
    Some((converted, ty))
}

const EVENT_NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

fn rename(value: Value, api_version: &str, to: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Value::Object(map) = value else { return value };
    let mut out = Map::new();
    for (key, value) in map {
        match to(&key) {
            Some(name) => out.insert(name.to_owned(), value),
            None => out.insert(key, value),
        };
    }
    out.insert("apiVersion".into(), api_version.into());
    Value::Object(out)
}

fn event_to_core(value: Value) -> Value {
    rename(value, "v1", |k| EVENT_NAMES.iter().find(|(new, _)| *new == k).map(|(_, old)| *old))
}

fn event_from_core(value: Value) -> Value {
    rename(value, "events.k8s.io/v1", |k| EVENT_NAMES.iter().find(|(_, old)| *old == k).map(|(new, _)| *new))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_go_both_ways() {
        let new = json!({"apiVersion":"events.k8s.io/v1","kind":"Event","note":"n","regarding":{"kind":"Pod"},"reportingController":"c"});
        let stored = event_to_core(new.clone());
        assert_eq!(stored["message"], "n");
        assert_eq!(stored["involvedObject"]["kind"], "Pod");
        assert_eq!(event_from_core(stored), new);
    }
}
