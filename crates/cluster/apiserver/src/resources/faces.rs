//! Kinds with two faces: events in two groups, autoscalers in two versions. One form is stored, the other is made on
//! the way.

use serde_json::{Map, Value};

use super::hpa;

/// Conversion between what a resource shows and what is stored.
#[derive(Debug)]
pub struct Face {
    /// Shown to stored.
    pub to_storage: fn(Value) -> Value,
    /// Group, version and kind of what is stored.
    pub stored_as: (&'static str, &'static str, &'static str),
    /// Carries what travels in annotations over an update that must not touch it: (new, old, subresource).
    pub keep: fn(&mut Value, &Value, &str),
    /// Stored to shown.
    pub from_storage: fn(Value) -> Value,
}

static EVENTS: Face = Face {
    to_storage: event_to_core,
    stored_as: ("", "v1", "Event"),
    keep: |_, _, _| {},
    from_storage: event_from_core,
};
static HPA_V1: Face = Face {
    to_storage: hpa::to_v2,
    stored_as: ("autoscaling", "v2", "HorizontalPodAutoscaler"),
    keep: hpa::keep,
    from_storage: hpa::from_v2,
};

/// The face of a resource, if it is not what is stored.
pub fn of(group: &str, version: &str, kind: &str) -> Option<&'static Face> {
    match (group, version, kind) {
        ("events.k8s.io", "v1", "Event") => Some(&EVENTS),
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => Some(&HPA_V1),
        _ => None,
    }
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
