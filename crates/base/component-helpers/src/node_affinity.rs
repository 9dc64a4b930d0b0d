//! The nodes that a pod selects (`k8s.io/component-helpers/scheduling/corev1/nodeaffinity`).

use k8s_openapi::api::core::v1::{
    Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec,
};

/// Whether a node has the labels of `spec.nodeSelector` and matches the required node affinity
/// (`GetRequiredNodeAffinity(pod).Match(node)`). `spec.nodeName` is not looked at.
pub fn selects(spec: &PodSpec, node: &Node) -> bool {
    let by_labels = spec.node_selector.iter().flatten().all(|(key, value)| label(node, key) == Some(value));
    let required = affinity(spec).and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    by_labels && required.is_none_or(|selector| matches(selector, node))
}

/// Whether one of the selector's terms matches (`NodeSelector.Match`).
pub fn matches(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

/// The sum of the weights of the preferred terms that match (`PreferredSchedulingTerms.Score`).
pub fn score(spec: &PodSpec, node: &Node) -> i64 {
    let preferred = affinity(spec).and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let matching = preferred.into_iter().flatten().filter(|term| term_matches(&term.preference, node));
    matching.map(|term| i64::from(term.weight)).sum()
}

fn affinity(spec: &PodSpec) -> Option<&NodeAffinity> {
    spec.affinity.as_ref()?.node_affinity.as_ref()
}

fn label<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// All expressions and fields must hold; a term with neither matches nothing.
fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    !(labels.is_empty() && fields.is_empty())
        && labels.iter().all(|r| label_holds(r, label(node, &r.key)))
        && fields.iter().all(|r| field_holds(r, node))
}

/// `labels.Requirement.Matches`. A requirement that `labels.NewRequirement` refuses holds nowhere.
fn label_holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|one| one == v));
    let compared = || {
        let [limit] = values else { return None };
        Some((value?.parse::<i64>().ok()?, limit.parse::<i64>().ok()?))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !values.is_empty() && !listed,
        "Exists" => values.is_empty() && value.is_some(),
        "DoesNotExist" => values.is_empty() && value.is_none(),
        "Gt" => compared().is_some_and(|(value, limit)| value > limit),
        "Lt" => compared().is_some_and(|(value, limit)| value < limit),
        _ => false,
    }
}

/// The only field is the name, and it is compared with one value; another field reads as empty.
fn field_holds(requirement: &NodeSelectorRequirement, node: &Node) -> bool {
    let Some([wanted]) = requirement.values.as_deref() else { return false };
    let name = node.metadata.name.as_deref().unwrap_or("");
    let value = if requirement.key == "metadata.name" { name } else { "" };
    match requirement.operator.as_str() {
        "In" => value == wanted,
        "NotIn" => value != wanted,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node() -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"zone": "a", "cores": "8", "word": "x"}}}))
            .unwrap()
    }

    fn spec(affinity: Value, selector: Value) -> PodSpec {
        serde_json::from_value(
            json!({"containers": [], "nodeSelector": selector, "affinity": {"nodeAffinity": affinity}}),
        )
        .unwrap()
    }

    fn required(terms: Value) -> PodSpec {
        spec(json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}), json!({}))
    }

    #[test]
    fn operators() {
        let r =
            |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
        for (expression, yes) in [
            (r("zone", "In", &["a", "b"]), true),
            (r("zone", "In", &["b"]), false),
            (r("none", "In", &["a"]), false),
            (r("zone", "NotIn", &["b"]), true),
            (r("zone", "NotIn", &["a"]), false),
            (r("none", "NotIn", &["a"]), true),
            (r("none", "NotIn", &[]), false),
            (r("zone", "Exists", &[]), true),
            (r("zone", "Exists", &["a"]), false),
            (r("none", "Exists", &[]), false),
            (r("none", "DoesNotExist", &[]), true),
            (r("zone", "DoesNotExist", &[]), false),
            (r("cores", "Gt", &["7"]), true),
            (r("cores", "Gt", &["8"]), false),
            (r("cores", "Lt", &["9"]), true),
            (r("cores", "Lt", &["9", "10"]), false),
            (r("word", "Gt", &["1"]), false),
            (r("none", "Lt", &["1"]), false),
            (r("zone", "Like", &["a"]), false),
        ] {
            let spec = required(json!([{"matchExpressions": [expression]}]));
            assert_eq!(selects(&spec, &node()), yes, "{expression}");
        }
        for (field, yes) in [
            (r("metadata.name", "In", &["n1"]), true),
            (r("metadata.name", "In", &["n2"]), false),
            (r("metadata.name", "In", &["n1", "n2"]), false),
            (r("metadata.name", "NotIn", &["n2"]), true),
            (r("metadata.name", "Exists", &[]), false),
            (r("spec.unschedulable", "In", &["true"]), false),
        ] {
            assert_eq!(selects(&required(json!([{"matchFields": [field]}])), &node()), yes, "{field}");
        }
    }

    #[test]
    fn terms_are_alternatives_and_their_parts_are_not() {
        let a = json!({"key": "zone", "operator": "In", "values": ["a"]});
        let b = json!({"key": "zone", "operator": "In", "values": ["b"]});
        for (terms, yes) in [
            (json!([]), false),
            (json!([{}]), false),
            (json!([{"matchExpressions": [a, b]}]), false),
            (json!([{"matchExpressions": [b]}, {"matchExpressions": [a]}]), true),
            (json!([{}, {"matchExpressions": [a]}]), true),
        ] {
            assert_eq!(selects(&required(terms.clone()), &node()), yes, "{terms}");
        }
        assert!(selects(&spec(json!({}), json!({"zone": "a"})), &node()));
        assert!(!selects(&spec(json!({}), json!({"zone": "a", "none": ""})), &node()));
    }

    #[test]
    fn weights_of_matching_preferences_add_up() {
        let zone = |z: &str| json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [z]}]});
        let spec = spec(
            json!({"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 5, "preference": zone("a")},
                {"weight": 50, "preference": zone("b")},
                {"weight": 1, "preference": zone("a")},
                {"weight": 100, "preference": {}}]}),
            json!({}),
        );
        assert_eq!(score(&spec, &node()), 6);
    }
}
