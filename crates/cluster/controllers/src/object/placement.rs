//! Whether a pod may be on a node, by the pod's own wishes and the node's taints.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Toleration};
use kube::ResourceExt;

use crate::node::taints::tolerates;

/// Whether `nodeName`, `nodeSelector` and required node affinity allow the node.
pub fn selects(spec: &PodSpec, node: &Node) -> bool {
    let named = spec.node_name.as_deref().filter(|n| !n.is_empty()).is_none_or(|n| n == node.name_any());
    let labels = node.labels();
    let by_labels = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    named && by_labels && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term_matches(t, node)))
}

fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let (labels, fields) = (term.match_expressions.iter().flatten(), term.match_fields.iter().flatten());
    let any = labels.clone().next().is_some() || fields.clone().next().is_some();
    let name = node.name_any();
    any && labels.clone().all(|r| holds(r, node.labels().get(&r.key).map(String::as_str)))
        && fields.clone().all(|r| r.key == "metadata.name" && holds(r, Some(&name)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|x| x == v));
    let compared = |test: fn(i64, i64) -> bool| {
        let (left, right) = (value.and_then(|v| v.parse().ok()), values.first().and_then(|v| v.parse().ok()));
        left.zip(right).is_some_and(|(l, r)| test(l, r))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(|l, r| l > r),
        "Lt" => compared(|l, r| l < r),
        _ => false,
    }
}

/// Whether all of the node's taints with one of these effects are tolerated.
pub fn tolerates_node(tolerations: &[Toleration], node: &Node, effects: &[&str]) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.filter(|t| effects.contains(&t.effect.as_str())).all(|taint| tolerations.iter().any(|t| tolerates(t, taint)))
}
