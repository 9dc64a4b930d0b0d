//! Tolerations of pods (`ValidateTolerations`).

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::names::{check_label_value, check_qualified_name};
use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

use super::tools::items;

/// Checks `tolerations` of a pod's spec at the path `at`. The operators `Lt` and `Gt` are refused: their feature
/// (TaintTolerationComparisonOperators) is off by default in v1.36.
pub fn validate(spec: &Value, at: &str, errors: &mut FieldErrors) {
    for (i, toleration) in items(spec, &["tolerations"]).iter().enumerate() {
        one(toleration, &format!("{at}.tolerations[{i}]"), errors);
    }
}

fn one(toleration: &Value, at: &str, errors: &mut FieldErrors) {
    let text = |key: &str| toleration.str_at(&[key]);
    let (key, operator, value, effect) = (text("key"), text("operator"), text("value"), text("effect"));
    if !key.is_empty() {
        for problem in check_qualified_name(key) {
            errors.invalid(&format!("{at}.key"), &key.into(), &problem);
        }
    } else if operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.invalid(&format!("{at}.operator"), &operator.into(), detail);
    }
    if toleration.get("tolerationSeconds").is_some() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.invalid(&format!("{at}.effect"), &effect.into(), detail);
    }
    match operator {
        "" | "Equal" => {
            let problems = check_label_value(value);
            if !problems.is_empty() {
                errors.invalid(&format!("{at}.operator"), &value.into(), &problems.join(";"));
            }
        }
        "Exists" if value.is_empty() => {}
        "Exists" => {
            errors.invalid(&format!("{at}.operator"), &value.into(), "value must be empty when `operator` is 'Exists'");
        }
        other => errors.not_supported(&format!("{at}.operator"), &other.into(), &["Equal", "Exists"]),
    }
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if !effect.is_empty() && !effects.contains(&effect) {
        errors.not_supported(&format!("{at}.effect"), &effect.into(), &effects);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn mistakes_are_named() {
        for (toleration, field) in [
            (json!({"operator": "Exists"}), ""),
            (json!({"key": "a/b", "value": "v", "effect": "NoExecute", "tolerationSeconds": 5}), ""),
            (json!({"key": "a", "operator": "Exists", "effect": "PreferNoSchedule"}), ""),
            (json!({"value": "v"}), "operator"),
            (json!({"key": "a b", "operator": "Exists"}), "key"),
            (json!({"key": "a", "value": "no label"}), "operator"),
            (json!({"key": "a", "operator": "Exists", "value": "v"}), "operator"),
            (json!({"key": "a", "operator": "Lt", "value": "5"}), "operator"),
            (json!({"key": "a", "operator": "Like", "value": "v"}), "operator"),
            (json!({"key": "a", "operator": "Exists", "effect": "Never"}), "effect"),
            (json!({"key": "a", "operator": "Exists", "tolerationSeconds": 5}), "effect"),
        ] {
            let mut errors = FieldErrors::default();
            validate(&json!({"tolerations": [toleration]}), "spec", &mut errors);
            let fields: Vec<&str> = errors.0.iter().map(|c| c.field.as_str()).collect();
            let expected = format!("spec.tolerations[0].{field}");
            let expected = if field.is_empty() { vec![] } else { vec![expected.as_str()] };
            assert_eq!(fields, expected, "{toleration}");
        }
    }
}
