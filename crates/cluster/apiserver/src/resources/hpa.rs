//! HorizontalPodAutoscalers: stored as `autoscaling/v2`, also shown as `autoscaling/v1`.
//!
//! What v1 has no field for travels in annotations (`pkg/apis/autoscaling/annotations.go`, `v1/conversion.go`): metrics
//! other than the CPU utilization and their current values in an older flat form, conditions and behavior as they are.
//! A client that reads v1 and writes it back loses nothing.

use kinit_apimachinery::meta::Meta;
use serde_json::{Map, Value, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// The two uses of a metric: what is wanted, and what is.
#[derive(Clone, Copy)]
struct Use {
    /// The field of v2 that holds the values.
    values: &'static str,
    /// The field of v1 for the CPU utilization.
    cpu: &'static str,
    /// What the flat form's fields begin with.
    prefix: &'static str,
}

const SPEC: Use = Use { values: "target", cpu: "targetCPUUtilizationPercentage", prefix: "target" };
const STATUS: Use = Use { values: "current", cpu: "currentCPUUtilizationPercentage", prefix: "current" };

/// v1 to what is stored.
pub fn to_v2(mut value: Value) -> Value {
    let mut annotated = |key: &str| -> Option<Value> {
        let annotations = value.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()?;
        // As upstream: an annotation that does not parse is dropped like the others.
        serde_json::from_str(annotations.shift_remove(key)?.as_str()?).ok()
    };
    let (metrics, current) = (annotated(METRICS), annotated(CURRENT_METRICS));
    let (conditions, behavior) = (annotated(CONDITIONS), annotated(BEHAVIOR));
    if let Some(Value::Object(spec)) = value.get_mut("spec") {
        metrics_to_v2(spec, metrics, "metrics", SPEC);
        if let Some(behavior) = behavior.filter(Value::is_object) {
            spec.insert("behavior".into(), behavior);
        }
    }
    if let Some(Value::Object(status)) = value.get_mut("status") {
        metrics_to_v2(status, current, "currentMetrics", STATUS);
        if let Some(conditions) = conditions.filter(Value::is_array) {
            status.insert("conditions".into(), conditions);
        }
    }
    drop_empty_annotations(&mut value);
    value["apiVersion"] = "autoscaling/v2".into();
    value
}

/// What is stored to v1.
pub fn from_v2(mut value: Value) -> Value {
    let mut notes: Vec<(&str, Value)> = Vec::new();
    if let Some(Value::Object(spec)) = value.get_mut("spec") {
        notes.extend(metrics_from_v2(spec, "metrics", SPEC).map(|others| (METRICS, others)));
        notes.extend(spec.shift_remove("behavior").filter(|b| !b.is_null()).map(|behavior| (BEHAVIOR, behavior)));
    }
    if let Some(Value::Object(status)) = value.get_mut("status") {
        notes.extend(metrics_from_v2(status, "currentMetrics", STATUS).map(|others| (CURRENT_METRICS, others)));
        let conditions = status.shift_remove("conditions");
        notes.extend(conditions.filter(|c| c.as_array().is_some_and(|c| !c.is_empty())).map(|c| (CONDITIONS, c)));
    }
    if !notes.is_empty()
        && let Some(annotations) = value.object_at(&["metadata", "annotations"])
    {
        annotations.extend(notes.into_iter().map(|(key, note)| (key.to_owned(), note.to_string().into())));
    }
    value["apiVersion"] = "autoscaling/v1".into();
    value
}

/// An update of the object keeps its status, one of the status keeps the spec, also where they travel in annotations.
pub fn keep(new: &mut Value, old: &Value, sub: &str) {
    let keys = if sub == "status" { [METRICS, BEHAVIOR] } else { [CURRENT_METRICS, CONDITIONS] };
    for key in keys {
        match old.annotation(key) {
            Some(text) => {
                if let Some(annotations) = new.object_at(&["metadata", "annotations"]) {
                    annotations.insert(key.to_owned(), text.into());
                }
            }
            None => {
                if let Some(Value::Object(annotations)) = new.get_mut("metadata").and_then(|m| m.get_mut("annotations"))
                {
                    annotations.shift_remove(key);
                }
            }
        }
    }
    drop_empty_annotations(new);
}

fn drop_empty_annotations(value: &mut Value) {
    if let Some(Value::Object(meta)) = value.get_mut("metadata")
        && meta.get("annotations").and_then(Value::as_object).is_some_and(Map::is_empty)
    {
        meta.shift_remove("annotations");
    }
}

/// The metrics of the annotation, then the CPU utilization.
fn metrics_to_v2(part: &mut Map<String, Value>, annotated: Option<Value>, field: &str, usage: Use) {
    let flat = annotated.as_ref().and_then(Value::as_array);
    let mut metrics: Vec<Value> = flat.into_iter().flatten().filter_map(|metric| from_flat(metric, usage)).collect();
    if let Some(cpu) = part.shift_remove(usage.cpu).filter(|cpu| !cpu.is_null()) {
        let mut values = json!({"averageUtilization": cpu});
        if usage.values == SPEC.values {
            values["type"] = "Utilization".into();
        }
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", usage.values: values}}));
    }
    if !metrics.is_empty() {
        part.insert(field.to_owned(), metrics.into());
    }
}

/// Moves the CPU utilization to its field; the other metrics in the flat form.
fn metrics_from_v2(part: &mut Map<String, Value>, field: &str, usage: Use) -> Option<Value> {
    let mut others = Vec::new();
    for metric in part.shift_remove(field)?.as_array()? {
        match metric.at(&["resource", usage.values, "averageUtilization"]).filter(|cpu| !cpu.is_null()) {
            Some(cpu) if metric.str_at(&["type"]) == "Resource" && metric.str_at(&["resource", "name"]) == "cpu" => {
                part.insert(usage.cpu.to_owned(), cpu.clone());
            }
            _ => others.extend(to_flat(metric, usage)),
        }
    }
    (!others.is_empty()).then(|| others.into())
}

/// The member of a metric that its type names.
fn source_of(metric: &Value) -> Option<&'static str> {
    Some(match metric.str_at(&["type"]) {
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "External" => "external",
        _ => return None,
    })
}

/// Pairs of a path in v2's form of a metric and the field of the flat form.
fn names(source: &str, usage: Use) -> Vec<(Vec<&'static str>, String)> {
    let prefixed = |name: &str| format!("{}{name}", usage.prefix);
    let mut out: Vec<(Vec<&'static str>, String)> = match source {
        "resource" | "containerResource" => {
            vec![(vec!["name"], "name".into()), (vec!["container"], "container".into())]
        }
        "external" => {
            vec![(vec!["metric", "name"], "metricName".into()), (vec!["metric", "selector"], "metricSelector".into())]
        }
        _ => vec![(vec!["metric", "name"], "metricName".into()), (vec!["metric", "selector"], "selector".into())],
    };
    if source == "object" {
        out.push((vec!["describedObject"], "target".into()));
        out.push((vec![usage.values, "averageValue"], "averageValue".into()));
    } else {
        out.push((vec![usage.values, "averageValue"], prefixed("AverageValue")));
    }
    out.push((vec![usage.values, "value"], prefixed("Value")));
    out.push((vec![usage.values, "averageUtilization"], prefixed("AverageUtilization")));
    out
}

fn to_flat(metric: &Value, usage: Use) -> Option<Value> {
    let source = source_of(metric)?;
    let body = metric.get(source)?;
    let mut flat = Map::new();
    for (path, name) in names(source, usage) {
        if let Some(found) = body.at(&path).filter(|found| !found.is_null()) {
            flat.insert(name, found.clone());
        }
    }
    // The flat form of an object's metric has no way to be without a value.
    if source == "object" {
        flat.entry(format!("{}Value", usage.prefix)).or_insert_with(|| "0".into());
    }
    Some(json!({"type": metric.get("type"), source: flat}))
}

fn from_flat(flat: &Value, usage: Use) -> Option<Value> {
    let source = source_of(flat)?;
    let fields = flat.get(source)?;
    let mut body = json!({usage.values: {}});
    for (path, name) in names(source, usage) {
        let Some(found) = fields.get(&name).filter(|found| !found.is_null()) else { continue };
        let (last, parents) = path.split_last()?;
        body.object_at(parents)?.insert((*last).to_owned(), found.clone());
    }
    let values = body.object_at(&[usage.values])?;
    if source == "object" && values.contains_key("averageValue") {
        values.shift_remove("value");
    }
    if usage.values == SPEC.values {
        let kind = match () {
            () if values.contains_key("averageUtilization") => "Utilization",
            () if values.contains_key("averageValue") => "AverageValue",
            () => "Value",
        };
        values.insert("type".into(), kind.into());
    }
    Some(json!({"type": flat.get("type"), source: body}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_metric(values: &str, target: bool) -> Value {
        let value = |key: &str, kind: &str, number: Value| {
            let mut out = json!({key: number});
            if target {
                out["type"] = kind.into();
            }
            out
        };
        let metric = json!({"name": "hits", "selector": {"matchLabels": {"a": "b"}}});
        let object = json!({"kind": "Ingress", "name": "i", "apiVersion": "networking.k8s.io/v1"});
        json!([
            {"type": "Pods", "pods": {"metric": metric, values: value("averageValue", "AverageValue", "1k".into())}},
            {"type": "Object", "object": {"metric": metric, "describedObject": object, values: value("value", "Value", "2".into())}},
            {"type": "Object", "object": {"metric": metric, "describedObject": object,
                values: value("averageValue", "AverageValue", "2".into())}},
            {"type": "Resource", "resource": {"name": "memory", values: value("averageValue", "AverageValue", "1Gi".into())}},
            {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
                values: value("averageUtilization", "Utilization", 50.into())}},
            {"type": "External", "external": {"metric": metric, values: value("value", "Value", "30".into())}},
            {"type": "Resource", "resource": {"name": "cpu", values: value("averageUtilization", "Utilization", 80.into())}},
        ])
    }

    #[test]
    fn a_round_trip_through_v1_loses_nothing() {
        let v2 = json!({"apiVersion": "autoscaling/v2", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "metrics": every_metric("target", true),
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 15}]}}},
            "status": {"desiredReplicas": 2, "currentMetrics": every_metric("current", false),
                "conditions": [{"type": "AbleToScale", "status": "True"}]}});
        let v1 = from_v2(v2.clone());
        assert_eq!(v1["spec"], json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 80}));
        assert_eq!(v1["status"], json!({"desiredReplicas": 2, "currentCPUUtilizationPercentage": 80}));
        let annotations = v1["metadata"]["annotations"].as_object().unwrap();
        assert_eq!(annotations.len(), 4, "{annotations:?}");
        let flat: Value = serde_json::from_str(annotations[METRICS].as_str().unwrap()).unwrap();
        assert_eq!(
            flat[0],
            json!({"type": "Pods", "pods": {"metricName": "hits", "selector": {"matchLabels": {"a": "b"}}, "targetAverageValue": "1k"}})
        );
        assert_eq!(to_v2(v1), v2);
    }

    #[test]
    fn the_cpu_target_of_v1_is_a_metric_of_v2() {
        let v1 =
            json!({"apiVersion": "autoscaling/v1", "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 80}});
        let v2 = to_v2(v1.clone());
        assert_eq!(
            v2["spec"]["metrics"][0]["resource"]["target"],
            json!({"averageUtilization": 80, "type": "Utilization"})
        );
        assert_eq!(from_v2(v2), v1);
    }

    #[test]
    fn spoilt_annotations_are_dropped() {
        let v1 = json!({"metadata": {"annotations": {METRICS: "{", BEHAVIOR: "5", CONDITIONS: "{}", CURRENT_METRICS: "[1]"}},
            "spec": {"maxReplicas": 3}, "status": {}});
        let v2 = to_v2(v1);
        assert_eq!((&v2["metadata"], &v2["spec"], &v2["status"]), (&json!({}), &json!({"maxReplicas": 3}), &json!({})));
    }
}
