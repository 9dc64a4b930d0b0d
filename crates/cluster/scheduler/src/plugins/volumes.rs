//! VolumeBinding, VolumeRestrictions and VolumeZone: nodes that the pod's volumes reach, or could
//! (`pkg/scheduler/framework/plugins/volumebinding`, `volumerestrictions`, `volumezone`).
//!
//! Upstream's NodeVolumeLimits counts volumes of CSI drivers only, of which there are none here.

mod gather;
#[cfg(test)]
mod tests;

pub use gather::{Lookup, gather};

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kinit_component_helpers::storage::{NO_PROVISIONER, Wish, allows, find, reaches, request};

use super::{Plugin, Rejection};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

/// A pod's claims, with the volumes that they are bound to or could be.
#[derive(Debug, Clone, Default)]
pub struct PodVolumes {
    /// Why no node will do, whatever it is like.
    pub problem: Option<String>,
    /// The volumes of bound claims.
    pub bound: Vec<Arc<PersistentVolume>>,
    /// A bound claim's volume does not exist.
    pub missing: bool,
    /// Claims that wait for this decision.
    pub waiting: Vec<Waiting>,
    /// The names of claims that only one pod may use at a time.
    pub exclusive: BTreeSet<String>,
}

/// A claim that gets its volume when the pod gets its node.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The claim.
    pub claim: Arc<PersistentVolumeClaim>,
    /// Its class.
    pub class: Arc<StorageClass>,
    /// The node that was chosen for it already.
    pub selected: Option<String>,
    /// Volumes that it could get.
    pub candidates: Vec<Arc<PersistentVolume>>,
}

/// What becomes of a pod's claims on one node.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// These volumes are bound.
    pub bindings: Vec<(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>)>,
    /// For these a volume is made.
    pub provisions: Vec<Arc<PersistentVolumeClaim>>,
}

impl Choice {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty() && self.provisions.is_empty()
    }
}

/// VolumeRestrictions: whether another pod uses a claim that only one may use. Upstream looks at all nodes, too: the
/// claim is no freer elsewhere.
pub fn is_taken(pod: &PodInfo, nodes: &[&NodeInfo], volumes: &PodVolumes) -> bool {
    let uses = |other: &PodInfo| {
        other.pod.metadata.namespace == pod.pod.metadata.namespace
            && other.pod.metadata.uid != pod.pod.metadata.uid
            && other.claims.iter().any(|claim| volumes.exclusive.contains(claim))
    };
    !volumes.exclusive.is_empty() && nodes.iter().any(|n| n.pods.values().any(|p| uses(p)))
}

/// VolumeBinding on one node.
pub fn binding(volumes: &PodVolumes, node: &NodeInfo) -> Result<(), Rejection> {
    let no = |reason: &str| Err(Rejection::one(Plugin::VolumeBinding, reason));
    if volumes.missing {
        return no("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)");
    }
    let Some(object) = &node.node else { return Ok(()) };
    if !volumes.bound.iter().all(|v| reaches(v, object)) {
        return no("node(s) had volume node affinity conflict");
    }
    match choose(volumes, object) {
        Some(_) => Ok(()),
        None => no("node(s) didn't find available persistent volumes to bind"),
    }
}

/// What becomes of the claims that wait; nothing when the node does not do (`FindPodVolumes`).
pub fn choose(volumes: &PodVolumes, node: &Node) -> Option<Choice> {
    let mut choice = Choice::default();
    let name = node.metadata.name.as_deref().unwrap_or("");
    // The smallest first, so that it does not take what only fits a larger one.
    let mut waiting: Vec<&Waiting> = volumes.waiting.iter().collect();
    waiting.sort_by_key(|w| request(&w.claim));
    for one in waiting {
        if let Some(selected) = &one.selected {
            if selected != name {
                return None;
            }
            choice.provisions.push(one.claim.clone());
            continue;
        }
        let taken = |v: &PersistentVolume| choice.bindings.iter().any(|(t, _)| t.metadata.name == v.metadata.name);
        let left: Vec<&PersistentVolume> = one.candidates.iter().map(AsRef::as_ref).filter(|v| !taken(v)).collect();
        let wish = Wish { claim: &one.claim, node: Some(node), waits: true };
        let found =
            find(wish, &left).and_then(|found| one.candidates.iter().find(|v| v.metadata.name == found.metadata.name));
        match found {
            Some(volume) => choice.bindings.push((volume.clone(), one.claim.clone())),
            // One that is reserved, but on another node, rules this node out.
            None if one.is_reserved() || one.class.provisioner == NO_PROVISIONER || !allows(&one.class, node) => {
                return None;
            }
            None => choice.provisions.push(one.claim.clone()),
        }
    }
    Some(choice)
}

impl Waiting {
    /// Whether a volume is reserved for the claim: without a node none but such a one is found.
    fn is_reserved(&self) -> bool {
        find(Wish { claim: &self.claim, node: None, waits: true }, &self.candidates).is_some()
    }
}

const ZONES: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// VolumeZone: the older way to say where a volume is, by labels. A node without any such label is anywhere.
pub fn zone(volumes: &PodVolumes, node: &NodeInfo) -> Result<(), Rejection> {
    if ZONES.iter().all(|key| node.label(key).is_none()) {
        return Ok(());
    }
    for volume in &volumes.bound {
        for (key, zones) in volume.metadata.labels.iter().flatten().filter(|(k, _)| ZONES.contains(&k.as_str())) {
            let Some(here) = node.label(key).or_else(|| node.label(&other_name(key))) else {
                return Err(Rejection::one(Plugin::VolumeZone, "node(s) had no available volume zone"));
            };
            if !zones.split("__").any(|zone| zone == here) {
                return Err(Rejection::one(Plugin::VolumeZone, "node(s) had no available volume zone"));
            }
        }
    }
    Ok(())
}

/// The present name of a label that has an older one, and the other way round.
fn other_name(key: &str) -> String {
    match key.strip_prefix("failure-domain.beta.kubernetes.io/") {
        Some(rest) => format!("topology.kubernetes.io/{rest}"),
        None => key.replace("topology.kubernetes.io/", "failure-domain.beta.kubernetes.io/"),
    }
}
