//! The index of pods by the node they are bound to.

use k8s_openapi::api::core::v1::Pod;
use kinit_component_helpers::pod::node_name;

/// The index of pods by `spec.nodeName`.
pub const BY_NODE: &str = "node";

/// The name of a node as an index value.
pub fn node_index(pod: &Pod) -> Vec<String> {
    node_name(pod).map(str::to_owned).into_iter().collect()
}
