//! What autoscalers go by (`pkg/printers/internalversion`: `formatHPAMetrics`).

use kinit_apimachinery::meta::Meta;
use serde_json::{Value, json};

/// So many metrics are shown.
const MOST: usize = 2;
const UNKNOWN: &str = "<unknown>";

/// What each metric is now, and what it is to be.
pub fn targets(object: &Value) -> Value {
    let list = |path: &[&str]| object.at(path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let (specs, statuses) = (list(&["spec", "metrics"]), list(&["status", "currentMetrics"]));
    if specs.is_empty() {
        return json!(of_v1(object).unwrap_or_else(|| "<none>".to_owned()));
    }
    let none = Value::Null;
    let shown = specs.iter().enumerate().take(MOST).map(|(i, spec)| metric(spec, statuses.get(i).unwrap_or(&none)));
    let text = shown.collect::<Vec<_>>().join(", ");
    match specs.len() {
        count if count > MOST => json!(format!("{text} + {} more...", count - MOST)),
        _ => json!(text),
    }
}

/// `autoscaling/v1` has a CPU utilization alone.
fn of_v1(object: &Value) -> Option<String> {
    let percent = |path: &[&str]| object.at(path).and_then(Value::as_i64).map(|p| format!("{p}%"));
    let target = percent(&["spec", "targetCPUUtilizationPercentage"])?;
    let current = percent(&["status", "currentCPUUtilizationPercentage"]);
    Some(format!("cpu: {}/{target}", current.as_deref().unwrap_or(UNKNOWN)))
}

fn metric(spec: &Value, status: &Value) -> String {
    let field = match spec.str_at(&["type"]) {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".to_owned(),
    };
    let (source, current) = (spec.at(&[field]).unwrap_or(spec), status.at(&[field, "current"]));
    let value = |of: Option<&Value>, key: &str| -> Option<String> {
        match of?.get(key)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(percent) => Some(format!("{percent}%")),
            _ => None,
        }
    };
    let target = source.at(&["target"]);
    let pair = |key: &str, otherwise: &str| {
        let now = value(current, key).unwrap_or_else(|| UNKNOWN.to_owned());
        format!("{now}/{}", value(target, key).unwrap_or_else(|| otherwise.to_owned()))
    };
    let is_average = value(target, "averageValue").is_some();
    match field {
        "resource" | "containerResource" => {
            let key = if is_average { "averageValue" } else { "averageUtilization" };
            format!("{}: {}", source.str_at(&["name"]), pair(key, "<auto>"))
        }
        "pods" => pair("averageValue", UNKNOWN),
        _ if is_average => format!("{} (avg)", pair("averageValue", UNKNOWN)),
        _ => pair("value", UNKNOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_upstream_prints_them() {
        let resource = |target: Value| json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
        let now = |current: Value| json!({"type": "Resource", "resource": {"name": "cpu", "current": current}});
        let external =
            json!({"type": "External", "external": {"metric": {"name": "q"}, "target": {"averageValue": "5"}}});
        let percent = resource(json!({"type": "Utilization", "averageUtilization": 50}));
        for (metrics, current, expected) in [
            (json!([]), json!([]), "<none>"),
            (json!([percent]), json!([]), "cpu: <unknown>/50%"),
            (json!([percent]), json!([now(json!({"averageUtilization": 40, "averageValue": "40m"}))]), "cpu: 40%/50%"),
            (
                json!([resource(json!({"averageValue": "1"}))]),
                json!([now(json!({"averageValue": "500m"}))]),
                "cpu: 500m/1",
            ),
            (
                json!([external, percent, percent]),
                json!([{"type": ""}]),
                "<unknown>/5 (avg), cpu: <unknown>/50% + 1 more...",
            ),
        ] {
            let object = json!({"spec": {"metrics": metrics}, "status": {"currentMetrics": current}});
            assert_eq!(targets(&object), expected);
        }
        let v1 = json!({"spec": {"targetCPUUtilizationPercentage": 80}});
        assert_eq!(targets(&v1), "cpu: <unknown>/80%");
    }
}
