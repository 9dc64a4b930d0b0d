//! Kinds with two faces: events in two groups, autoscalers in two versions. One form is stored, the other is made on the way.

use kinit_apimachinery::meta::Meta;
use serde_json::{Map, Value, json};

/// Conversion between what a resource shows and what is stored.
#[derive(Debug)]
pub struct Face {
    /// Shown to stored.
    pub to_storage: fn(Value) -> Value,
    /// Stored to shown.
    pub from_storage: fn(Value) -> Value,
}

static EVENTS: Face = Face { to_storage: event_to_core, from_storage: event_from_core };
static HPA_V1: Face = Face { to_storage: hpa_to_v2, from_storage: hpa_from_v2 };

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

const HPA_METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";

fn hpa_to_v2(mut value: Value) -> Value {
    if let Some(spec) = value.object_at(&["spec"])
        && let Some(target) = spec.shift_remove("targetCPUUtilizationPercentage").filter(|t| !t.is_null())
    {
        let metric = json!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": target}}});
        spec.insert("metrics".into(), json!([metric]));
    }
    if let Some(Value::Object(status)) = value.get_mut("status")
        && let Some(current) = status.shift_remove("currentCPUUtilizationPercentage")
    {
        status.insert(
            "currentMetrics".into(),
            json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": current}}}]),
        );
    }
    value["apiVersion"] = "autoscaling/v2".into();
    value
}

fn cpu_of(list: Option<&Value>, part: &str) -> Option<Value> {
    list?
        .as_array()?
        .iter()
        .find(|m| m.str_at(&["resource", "name"]) == "cpu")
        .and_then(|m| m.at(&["resource", part, "averageUtilization"]))
        .cloned()
}

fn hpa_from_v2(mut value: Value) -> Value {
    let target = cpu_of(value.at(&["spec", "metrics"]), "target");
    let current = cpu_of(value.at(&["status", "currentMetrics"]), "current");
    let others: Vec<Value> = value
        .at(&["spec", "metrics"])
        .and_then(Value::as_array)
        .map(|l| l.iter().filter(|m| m.str_at(&["resource", "name"]) != "cpu").cloned().collect())
        .unwrap_or_default();
    if let Some(spec) = value.object_at(&["spec"]) {
        spec.shift_remove("metrics");
        spec.shift_remove("behavior");
        if let Some(target) = target {
            spec.insert("targetCPUUtilizationPercentage".into(), target);
        }
    }
    if let Some(Value::Object(status)) = value.get_mut("status") {
        status.shift_remove("currentMetrics");
        status.shift_remove("conditions");
        if let Some(current) = current {
            status.insert("currentCPUUtilizationPercentage".into(), current);
        }
    }
    // Upstream keeps what v1 cannot say in an annotation.
    if !others.is_empty()
        && let (Some(annotations), Ok(text)) =
            (value.object_at(&["metadata", "annotations"]), serde_json::to_string(&others))
    {
        annotations.insert(HPA_METRICS.into(), text.into());
    }
    value["apiVersion"] = "autoscaling/v1".into();
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_go_both_ways() {
        let new = json!({"apiVersion":"events.k8s.io/v1","kind":"Event","note":"n","regarding":{"kind":"Pod"},"reportingController":"c"});
        let stored = event_to_core(new.clone());
        assert_eq!(stored["message"], "n");
        assert_eq!(stored["involvedObject"]["kind"], "Pod");
        assert_eq!(event_from_core(stored), new);
    }

    #[test]
    fn the_cpu_target_of_v1_is_a_metric_of_v2() {
        let v1 = json!({"apiVersion":"autoscaling/v1","spec":{"maxReplicas":3,"targetCPUUtilizationPercentage":80}});
        let v2 = hpa_to_v2(v1.clone());
        assert_eq!(v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        assert_eq!(hpa_from_v2(v2), v1);
    }
}
