//! NodeAffinity: `spec.nodeSelector` and `spec.affinity.nodeAffinity`
//! (`k8s.io/component-helpers/scheduling/corev1/nodeaffinity`).

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

use super::{Plugin, Rejection};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

/// Says no to nodes that the pod does not select.
pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    if selects(pod, node) {
        return Ok(());
    }
    Err(Rejection::one(Plugin::NodeAffinity, "node(s) didn't match Pod's node affinity/selector"))
}

/// Whether the node selector and one of the required terms match.
pub fn selects(pod: &PodInfo, node: &NodeInfo) -> bool {
    let Some(spec) = &pod.pod.spec else { return true };
    let by_labels = spec.node_selector.iter().flatten().all(|(key, value)| node.label(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    by_labels && required.is_none_or(|r| r.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

/// The weights of the preferred terms that match.
pub fn score(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let affinity = pod.pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
    let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let matching = preferred.into_iter().flatten().filter(|t| term_matches(&t.preference, node));
    matching.map(|t| i64::from(t.weight)).sum()
}

/// All expressions and fields must hold; a term with neither matches nothing.
fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let labels = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let any = labels.clone().next().is_some() || fields.clone().next().is_some();
    let name = node.name();
    any && labels.clone().all(|r| holds(r, node.label(&r.key)))
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
