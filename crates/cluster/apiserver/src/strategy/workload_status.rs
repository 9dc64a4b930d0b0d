//! Updates of the status of what makes pods (`ValidateReplicaSetStatus` and its like in `pkg/apis/apps/validation`).

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

/// Counters are counters, and a part is not more than the whole.
pub fn validate(sub: &str, new: &Value, old: &Value, errors: &mut FieldErrors) {
    if sub != "status" {
        return;
    }
    let count = |key: &str| new.at(&["status", key]).and_then(Value::as_i64);
    for (key, value) in new.get("status").and_then(Value::as_object).into_iter().flatten() {
        if value.as_i64().is_some_and(|n| n < 0) {
            errors.invalid(&format!("status.{key}"), value, "must be greater than or equal to 0");
        }
    }
    for (part, whole) in [
        ("fullyLabeledReplicas", "replicas"),
        ("readyReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("updatedReplicas", "replicas"),
        ("currentReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ] {
        if let Some(n) = count(part)
            && n > count(whole).unwrap_or(0)
        {
            let text = match whole {
                "replicas" => "cannot be greater than status.replicas",
                _ => "cannot be greater than readyReplicas",
            };
            errors.invalid(&format!("status.{part}"), &n.into(), text);
        }
    }
    if let (Some(before), Some(n)) =
        (old.at(&["status", "collisionCount"]).and_then(Value::as_i64), count("collisionCount"))
        && n < before
    {
        errors.invalid("status.collisionCount", &n.into(), "cannot be decremented");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_are_not_more_than_the_whole() {
        for (status, wrong) in [
            (json!({"replicas": 3, "readyReplicas": 2, "availableReplicas": 2}), 0),
            (json!({"replicas": 1, "readyReplicas": 2}), 1),
            (json!({"replicas": 3, "readyReplicas": 1, "availableReplicas": 2}), 1),
            (json!({"replicas": -1}), 1),
            (json!({"currentNumberScheduled": 3, "desiredNumberScheduled": 2}), 0),
            (json!({"collisionCount": 1}), 1),
        ] {
            let mut errors = FieldErrors::default();
            let old = json!({"status": {"collisionCount": 2}});
            validate("status", &json!({"status": status}), &old, &mut errors);
            assert_eq!(errors.0.len(), wrong, "{status}");
        }
    }
}
