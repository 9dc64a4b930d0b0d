//! A node, the pods on it, and what they take.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::ResourceExt;

use crate::pod_info::{HostPort, PodInfo};
use crate::resources::Amounts;

/// See the module. Shared by snapshots; the cache copies it to change it.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    /// The object; `None` while pods name a node that was not seen.
    pub node: Option<Arc<Node>>,
    /// Pods on it, assumed ones included, by key.
    pub pods: BTreeMap<String, Arc<PodInfo>>,
    /// What it has to give.
    pub allocatable: Amounts,
    /// What the pods asked for.
    pub requested: Amounts,
    /// The same, where pods without requests count a little.
    pub scored: Amounts,
    /// Host ports in use.
    pub ports: BTreeSet<HostPort>,
    /// Images it has, by name, with their sizes.
    pub images: BTreeMap<String, i64>,
}

impl NodeInfo {
    /// Its name, empty while it was not seen.
    pub fn name(&self) -> String {
        self.node.as_ref().map(|n| n.name_any()).unwrap_or_default()
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.as_ref()?.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// Its taints.
    pub fn taints(&self) -> impl Iterator<Item = &Taint> {
        self.node.iter().flat_map(|n| n.spec.iter()).flat_map(|s| s.taints.iter().flatten())
    }

    /// Takes over the object.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        self.allocatable = Amounts::of(status.and_then(|s| s.allocatable.as_ref()));
        let images = status.into_iter().flat_map(|s| s.images.iter().flatten());
        self.images = images
            .flat_map(|i| i.names.iter().flatten().map(move |n| (n.clone(), i.size_bytes.unwrap_or(0))))
            .collect();
        self.node = Some(node);
    }

    /// Puts a pod on it, in the place of one with its key.
    pub fn add(&mut self, key: &str, pod: Arc<PodInfo>) {
        self.remove(key);
        self.requested.add(&pod.request.exact);
        self.scored.add(&pod.request.scored);
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.insert(key.to_owned(), pod);
    }

    /// Takes a pod off it.
    pub fn remove(&mut self, key: &str) {
        let Some(pod) = self.pods.remove(key) else { return };
        self.requested.subtract(&pod.request.exact);
        self.scored.subtract(&pod.request.scored);
        // Two pods cannot hold one port, but a mistaken pair must not free the other's.
        self.ports = self.pods.values().flat_map(|p| p.ports.iter().cloned()).collect();
    }
}
