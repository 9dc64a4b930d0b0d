//! HorizontalPodAutoscalers (`pkg/apis/autoscaling/validation`), in both forms: what is wrong with the one metric of
//! `v1` is told by the name that it has in `v2`.

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::names::NameRule;
use kinit_apimachinery::quantity::Quantity;
use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

use super::tools::{items, one_of};

const LONGEST_PERIOD: i64 = 1800;
const LONGEST_WINDOW: i64 = 3600;
/// Types of metrics, and the field of each.
const SOURCES: [(&str, &str); 5] = [
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

fn number(o: &Value, path: &[&str]) -> Option<i64> {
    o.at(path).and_then(Value::as_i64)
}

fn is_set(o: &Value, key: &str) -> bool {
    o.get(key).is_some_and(|value| !value.is_null())
}

/// Checks an autoscaler.
pub fn validate(o: &Value, errors: &mut FieldErrors) {
    let spec = o.get("spec").unwrap_or(&Value::Null);
    let (min, max) = (number(spec, &["minReplicas"]), number(spec, &["maxReplicas"]).unwrap_or(0));
    if let Some(min) = min.filter(|min| *min < 1) {
        errors.invalid("spec.minReplicas", &min.into(), "must be greater than or equal to 1");
    }
    if max < 1 {
        errors.invalid("spec.maxReplicas", &max.into(), "must be greater than 0");
    }
    if min.is_some_and(|min| max < min) {
        errors.invalid("spec.maxReplicas", &max.into(), "must be greater than or equal to `minReplicas`");
    }
    reference(spec.get("scaleTargetRef").unwrap_or(&Value::Null), "spec.scaleTargetRef", errors);
    if let Some(share) = number(spec, &["targetCPUUtilizationPercentage"]).filter(|share| *share < 1) {
        let field = "spec.metrics[0].resource.target.averageUtilization";
        errors.invalid(field, &share.into(), "must be greater than 0");
    }
    for (i, metric) in items(spec, &["metrics"]).iter().enumerate() {
        source(metric, &format!("spec.metrics[{i}]"), errors);
    }
    for key in ["scaleUp", "scaleDown"] {
        if let Some(rules) = spec.at(&["behavior", key]).filter(|rules| !rules.is_null()) {
            scaling(rules, &format!("spec.behavior.{key}"), errors);
        }
    }
}

fn reference(target: &Value, at: &str, errors: &mut FieldErrors) {
    for key in ["kind", "name"] {
        let (field, text) = (format!("{at}.{key}"), target.str_at(&[key]));
        if text.is_empty() {
            errors.required(&field, "");
        }
        segment(text, &field, errors);
    }
}

/// What stands in a path is no path itself (`IsValidPathSegmentName`).
fn segment(text: &str, field: &str, errors: &mut FieldErrors) {
    if matches!(text, "." | "..") {
        errors.invalid(field, &text.into(), &format!("may not be '{text}'"));
    }
    for c in ['/', '%'].into_iter().filter(|c| text.contains(*c)) {
        errors.invalid(field, &text.into(), &format!("may not contain '{c}'"));
    }
}

/// A metric has the one source that its type says.
fn source(metric: &Value, at: &str, errors: &mut FieldErrors) {
    let kind = metric.str_at(&["type"]);
    let known: Vec<&str> = SOURCES.iter().map(|(kind, _)| *kind).collect();
    if kind.is_empty() {
        errors.required(&format!("{at}.type"), "must specify a metric source type");
    }
    one_of(&kind.into(), &format!("{at}.type"), &known, errors);
    let wanted = SOURCES.iter().find(|(known, _)| *known == kind).map(|(_, field)| *field);
    let present: Vec<&str> = SOURCES.iter().map(|(_, field)| *field).filter(|field| is_set(metric, field)).collect();
    if let [one] = present[..] {
        details(one, &metric[one], &format!("{at}.{one}"), errors);
    }
    if let Some(wanted) = wanted.filter(|wanted| !present.contains(wanted)) {
        errors.required(&format!("{at}.{wanted}"), "must populate information for the given metric source");
    }
    if present.len() != 1 {
        for other in present.iter().filter(|field| Some(**field) != wanted) {
            errors.forbidden(&format!("{at}.{other}"), "must populate the given metric source only");
        }
    }
}

fn details(source: &str, value: &Value, at: &str, errors: &mut FieldErrors) {
    let goal = value.get("target").unwrap_or(&Value::Null);
    let has = |key: &str| is_set(goal, key);
    match source {
        "resource" | "containerResource" => {
            if value.str_at(&["name"]).is_empty() {
                errors.required(&format!("{at}.name"), "must specify a resource name");
            }
            if source == "containerResource" {
                container(value.str_at(&["container"]), &format!("{at}.container"), errors);
            }
        }
        _ => {
            if source == "object" {
                let object = value.get("describedObject").unwrap_or(&Value::Null);
                reference(object, &format!("{at}.describedObject"), errors);
            }
            let (name, field) = (value.str_at(&["metric", "name"]), format!("{at}.metric.name"));
            if name.is_empty() {
                errors.required(&field, "must specify a metric name");
            }
            segment(name, &field, errors);
        }
    }
    target(goal, &format!("{at}.target"), errors);
    let (first, second, missing, both) = match source {
        "object" => ("value", "averageValue", "must set either a target value or averageValue", ""),
        "external" => (
            "value",
            "averageValue",
            "must set either a target value for metric or a per-pod target",
            "may not set both a target value for metric and a per-pod target",
        ),
        "pods" => ("averageValue", "averageValue", "must specify a positive target averageValue", ""),
        _ => (
            "averageValue",
            "averageUtilization",
            "must set either a target raw value or a target utilization",
            "may not set both a target raw value and a target utilization",
        ),
    };
    if !has(first) && !has(second) {
        errors.required(&format!("{at}.target.{second}"), missing);
    } else if has(first) && has(second) && !both.is_empty() {
        errors.forbidden(&format!("{at}.target.{first}"), both);
    }
}

fn container(name: &str, field: &str, errors: &mut FieldErrors) {
    if name.is_empty() {
        return errors.required(field, "must specify a container");
    }
    for problem in NameRule::Label.check(name) {
        errors.invalid(field, &name.into(), &problem);
    }
}

fn target(target: &Value, at: &str, errors: &mut FieldErrors) {
    let kind = target.str_at(&["type"]);
    if kind.is_empty() {
        errors.required(&format!("{at}.type"), "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        errors.invalid(&format!("{at}.type"), &kind.into(), "must be either Utilization, Value, or AverageValue");
    }
    for key in ["value", "averageValue"] {
        let amount = target.get(key).filter(|amount| !amount.is_null());
        let positive = |amount: &Value| {
            let quantity = amount.as_str().and_then(|text| text.parse::<Quantity>().ok());
            quantity.is_none_or(|q| q.thousandths() > 0)
        };
        if let Some(amount) = amount.filter(|amount| !positive(amount)) {
            errors.invalid(&format!("{at}.{key}"), amount, "must be positive");
        }
    }
    if let Some(share) = number(target, &["averageUtilization"]).filter(|share| *share < 1) {
        errors.invalid(&format!("{at}.averageUtilization"), &share.into(), "must be greater than 0");
    }
}

fn scaling(rules: &Value, at: &str, errors: &mut FieldErrors) {
    if let Some(window) = number(rules, &["stabilizationWindowSeconds"]) {
        let field = format!("{at}.stabilizationWindowSeconds");
        if window < 0 {
            errors.invalid(&field, &window.into(), "must be greater than or equal to zero");
        }
        if window > LONGEST_WINDOW {
            errors.invalid(&field, &window.into(), &format!("must be less than or equal to {LONGEST_WINDOW}"));
        }
    }
    if let Some(policy) = rules.get("selectPolicy").filter(|policy| !policy.is_null()) {
        one_of(policy, &format!("{at}.selectPolicy"), &["Disabled", "Max", "Min"], errors);
    }
    let policies = items(rules, &["policies"]);
    if policies.is_empty() {
        errors.required(&format!("{at}.policies"), "must specify at least one Policy");
    }
    for (i, policy) in policies.iter().enumerate() {
        let at = format!("{at}.policies[{i}]");
        one_of(&policy["type"], &format!("{at}.type"), &["Percent", "Pods"], errors);
        for key in ["value", "periodSeconds"] {
            let n = number(policy, &[key]).unwrap_or(0);
            if n <= 0 {
                errors.invalid(&format!("{at}.{key}"), &n.into(), "must be greater than zero");
            }
            if key == "periodSeconds" && n > LONGEST_PERIOD {
                let detail = format!("must be less than or equal to {LONGEST_PERIOD}");
                errors.invalid(&format!("{at}.{key}"), &n.into(), &detail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tools::assert_told;
    use super::*;

    fn with(change: Value) -> Value {
        let mut spec =
            json!({"minReplicas": 1, "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}});
        change.as_object().unwrap().iter().for_each(|(key, value)| spec[key] = value.clone());
        json!({"spec": spec})
    }

    fn reported(table: &[(Value, &[&str])]) {
        for (object, wanted) in table {
            let mut errors = FieldErrors::default();
            validate(object, &mut errors);
            assert_told(&errors, wanted, object);
        }
    }

    #[test]
    fn replicas_targets_and_metrics() {
        let resource = json!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 80}}});
        reported(&[
            (with(json!({"metrics": [resource]})), &[]),
            (with(json!({"minReplicas": 0})), &["spec.minReplicas: must be greater than or equal to 1"]),
            (
                with(json!({"maxReplicas": 0})),
                &[
                    "spec.maxReplicas: must be greater than 0",
                    "spec.maxReplicas: must be greater than or equal to `min",
                ],
            ),
            (
                with(json!({"scaleTargetRef": {"kind": "a/b"}})),
                &["spec.scaleTargetRef.kind: may not contain '/'", "spec.scaleTargetRef.name: Required value"],
            ),
            (
                with(json!({"targetCPUUtilizationPercentage": 0})),
                &["spec.metrics[0].resource.target.averageUtilization: must be greater than 0"],
            ),
            (
                with(json!({"metrics": [{"type": "Odd"}, {"type": "Pods", "resource": {"name": "cpu",
                    "target": {"type": "Value", "averageValue": "1"}}}]})),
                &["spec.metrics[0].type: Unsupported value", "spec.metrics[1].pods: must populate information"],
            ),
            (
                with(json!({"metrics": [{"type": "Resource", "resource": {"target": {"averageUtilization": 0,
                    "averageValue": "-1"}}}]})),
                &[
                    "spec.metrics[0].resource.name: must specify a resource name",
                    "spec.metrics[0].resource.target.type: must specify a metric target type",
                    "spec.metrics[0].resource.target.type: must be either Utilization, Value, or AverageValue",
                    "spec.metrics[0].resource.target.averageValue: must be positive",
                    "spec.metrics[0].resource.target.averageUtilization: must be greater than 0",
                    "spec.metrics[0].resource.target.averageValue: may not set both",
                ],
            ),
            (
                with(json!({"metrics": [{"type": "External", "external": {"metric": {"name": ".."},
                    "target": {"type": "Value"}}}]})),
                &[
                    "spec.metrics[0].external.metric.name: may not be '..'",
                    "spec.metrics[0].external.target.averageValue: must set either a target value for metric",
                ],
            ),
        ]);
    }

    #[test]
    fn behavior() {
        let rules = |rules: Value| with(json!({"behavior": {"scaleUp": rules}}));
        let policy = json!({"type": "Pods", "value": 1, "periodSeconds": 60});
        reported(&[
            (rules(json!({"policies": [policy], "selectPolicy": "Max", "stabilizationWindowSeconds": 3600})), &[]),
            (
                rules(json!({"policies": [], "selectPolicy": "Any", "stabilizationWindowSeconds": 3601})),
                &[
                    "spec.behavior.scaleUp.stabilizationWindowSeconds: must be less than or equal to 3600",
                    "spec.behavior.scaleUp.selectPolicy: Unsupported value",
                    "spec.behavior.scaleUp.policies: must specify at least one Policy",
                ],
            ),
            (
                rules(json!({"policies": [{"type": "Odd", "value": 0, "periodSeconds": 1801}]})),
                &[
                    "spec.behavior.scaleUp.policies[0].type: Unsupported value",
                    "spec.behavior.scaleUp.policies[0].value: must be greater than zero",
                    "spec.behavior.scaleUp.policies[0].periodSeconds: must be less than or equal to 1800",
                ],
            ),
        ]);
    }
}
