//! NodeAffinity: `spec.nodeSelector` and `spec.affinity.nodeAffinity`.

use kinit_component_helpers::node_affinity;

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
    let both = pod.pod.spec.as_ref().zip(node.node.as_ref());
    both.is_some_and(|(spec, node)| node_affinity::selects(spec, node))
}

/// The weights of the preferred terms that match.
pub fn score(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let both = pod.pod.spec.as_ref().zip(node.node.as_ref());
    both.map_or(0, |(spec, node)| node_affinity::score(spec, node))
}
