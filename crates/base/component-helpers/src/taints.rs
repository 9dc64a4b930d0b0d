//! Taints of nodes and who tolerates them (`k8s.io/component-helpers/scheduling/corev1`).

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

/// Whether a toleration covers a taint (`v1.Toleration.ToleratesTaint`). The operators `Lt` and `Gt` belong to a
/// feature that is off by default in v1.36 (TaintTolerationComparisonOperators) and cover nothing.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or("");
    let key = toleration.key.as_deref().unwrap_or("");
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("") {
        "" | "Equal" => toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
        "Exists" => true,
        _ => false,
    }
}

/// Whether one of the tolerations covers the taint (`TolerationsTolerateTaint`).
pub fn is_tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

/// The first of the node's taints with one of these effects that no toleration covers (`FindMatchingUntoleratedTaint`).
pub fn untolerated<'a>(node: &'a Node, tolerations: &[Toleration], effects: &[&str]) -> Option<&'a Taint> {
    of_node(node).find(|taint| effects.contains(&taint.effect.as_str()) && !is_tolerated(taint, tolerations))
}

/// Effects that keep a pod off a node (`DoNotScheduleTaintsFilterFunc`).
pub const KEEP_OFF: &[&str] = &["NoSchedule", "NoExecute"];

/// The node's taints.
pub fn of_node(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn toleration(value: &Value) -> Toleration {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn tolerations_cover_taints() {
        let taint = Taint { key: "k".into(), value: Some("v".into()), effect: "NoExecute".into(), time_added: None };
        for (value, yes) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), true),
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "operator": "Equal", "value": "v"}), true),
            (json!({"key": "k", "value": "w"}), false),
            (json!({"key": "k"}), false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), false),
            (json!({"key": "x", "operator": "Exists"}), false),
            (json!({"key": "k", "operator": "Other", "value": "v"}), false),
        ] {
            assert_eq!(tolerates(&toleration(&value), &taint), yes, "{value}");
        }
        let number = Taint { value: Some("5".into()), ..taint };
        for operator in ["Lt", "Gt"] {
            let value = json!({"key": "k", "operator": operator, "value": "5"});
            assert!(!tolerates(&toleration(&value), &number), "{value}");
        }
    }

    #[test]
    fn the_first_taint_that_counts_and_is_not_tolerated() {
        let node: Node = serde_json::from_value(json!({"metadata": {}, "spec": {"taints": [
            {"key": "soft", "effect": "PreferNoSchedule"}, {"key": "a", "effect": "NoSchedule"},
            {"key": "b", "effect": "NoExecute"}]}}))
        .unwrap();
        let key =
            |tolerations: &[Toleration], effects| untolerated(&node, tolerations, effects).map(|t| t.key.as_str());
        let a = toleration(&json!({"key": "a", "operator": "Exists"}));
        assert_eq!(key(&[], KEEP_OFF), Some("a"));
        assert_eq!(key(std::slice::from_ref(&a), KEEP_OFF), Some("b"));
        assert_eq!(key(&[a], &["NoSchedule"]), None);
        assert_eq!(key(&[toleration(&json!({"operator": "Exists"}))], KEEP_OFF), None);
    }
}
