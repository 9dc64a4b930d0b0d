//! Whether a node is one that a pod may be on: labels, name, taints (`component-helpers/scheduling/corev1`). Pure.

use k8s_openapi::api::core::v1::{Node, Pod};
use kinit_component_helpers::{node_affinity, taints};

/// What does not fit, in the order in which upstream tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Misfit {
    /// `nodeSelector` or the required node affinity.
    Affinity,
    /// `nodeName` is another's.
    Name,
    /// A host port is taken.
    Ports,
    /// A taint `NoExecute` is not tolerated.
    Taint,
}

impl Misfit {
    /// The plugin's name and its reason.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Affinity => ("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"),
            Self::Name => ("NodeName", "node(s) didn't match the requested node name"),
            Self::Ports => ("NodePorts", "node(s) didn't have free ports for the requested pod ports"),
            Self::Taint => ("TaintToleration", "node(s) had taints that the pod didn't tolerate"),
        }
    }
}

/// What of the node does not suit the pod. `known` pods were admitted before and have started: labels and taints that
/// changed since do not end them. Pods from files tolerate every taint.
pub fn misfits(pod: &Pod, node: &Node, known: bool, from_file: bool) -> Vec<Misfit> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut out = Vec::new();
    if !known && !node_affinity::selects(spec, node) {
        out.push(Misfit::Affinity);
    }
    let name = spec.node_name.as_deref().filter(|n| !n.is_empty());
    if name.is_some_and(|n| node.metadata.name.as_deref() != Some(n)) {
        out.push(Misfit::Name);
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let tolerated = || taints::untolerated(node, tolerations, &["NoExecute"]).is_none();
    if !known && !from_file && !tolerated() {
        out.push(Misfit::Taint);
    }
    out
}
