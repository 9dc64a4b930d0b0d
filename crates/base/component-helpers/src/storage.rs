//! Claims and volumes: what binder, scheduler and kubelet have to read from them in one way
//! (`k8s.io/component-helpers/storage/volume`, `storage/ephemeral`).

mod local_path;
mod matching;
mod pod;

pub use local_path::LocalPath;
pub use matching::{Wish, find, misfit};
pub use pod::{PodClaim, claims_of, ephemeral_claim_name, is_for_pod};

use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{Node, ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kinit_apimachinery::quantity::Quantity;

use crate::node_affinity;

/// Annotation of a claim whose binding is complete.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Annotation of a claim or volume whose reference to the other was written by a controller, not by a user.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Annotation of a volume: the provisioner that made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Annotation of a claim: the provisioner that is to make a volume.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The older name of [`PROVISIONER`], which provisioners may still look for.
pub const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// Annotation of a claim: the node that the scheduler chose for its first consumer.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Annotation of the class that claims without a class get.
pub const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// The provisioner of classes whose volumes are made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";

/// A claim's class, empty when it has none (`GetPersistentVolumeClaimClass`).
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let beta = claim.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_BETA));
    let class = beta.or_else(|| claim.spec.as_ref()?.storage_class_name.as_ref());
    class.map_or("", String::as_str)
}

/// Whether a claim names a class at all; the empty name counts (`PersistentVolumeClaimHasClass`).
pub fn names_class(claim: &PersistentVolumeClaim) -> bool {
    let beta = claim.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(CLASS_BETA));
    beta || claim.spec.as_ref().is_some_and(|s| s.storage_class_name.is_some())
}

/// A volume's class, empty when it has none (`GetPersistentVolumeClass`).
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let beta = volume.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_BETA));
    let class = beta.or_else(|| volume.spec.as_ref()?.storage_class_name.as_ref());
    class.map_or("", String::as_str)
}

/// Whether volumes of this class are bound when a pod that uses the claim is scheduled.
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// An annotation's value.
pub fn annotation<'a, K: Metadata<Ty = ObjectMeta>>(object: &'a K, name: &str) -> Option<&'a str> {
    object.metadata().annotations.as_ref()?.get(name).map(String::as_str)
}

/// The name of the volume that a claim is bound to or asks for; empty when there is none.
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or("")
}

/// Whether a claim is bound for good (`isPVCFullyBound`).
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_name(claim).is_empty() && annotation(claim, BIND_COMPLETED).is_some()
}

/// The claim that a volume is bound to or reserved for.
pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether a volume is bound to this claim, or reserved for it by name (`IsVolumeBoundToClaim`).
pub fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|reference| {
        let uid = reference.uid.as_deref().unwrap_or("");
        reference.name == claim.metadata.name
            && reference.namespace == claim.metadata.namespace
            && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
    })
}

/// A volume's phase.
pub fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// A claim's phase.
pub fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// What happens to a volume when its claim goes.
pub fn reclaim_policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

/// `Filesystem` or `Block`.
pub fn mode_of_volume(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|s| s.volume_mode.as_deref()).unwrap_or("Filesystem")
}

/// `Filesystem` or `Block`.
pub fn mode_of_claim(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_mode.as_deref()).unwrap_or("Filesystem")
}

/// A volume's size; nothing for one without a readable size.
pub fn capacity(volume: &PersistentVolume) -> Option<Quantity> {
    volume.spec.as_ref()?.capacity.as_ref()?.get("storage")?.0.parse().ok()
}

/// The size that a claim asks for.
pub fn request(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?.0.parse().ok()
}

/// Whether a volume may be used on a node (`CheckNodeAffinity`).
pub fn reaches(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required.as_ref());
    required.is_none_or(|selector| node_affinity::matches(selector, node))
}

/// Whether a class allows volumes on a node (`MatchTopologySelectorTerms`): one term, all of whose labels fit.
pub fn allows(class: &StorageClass, node: &Node) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key);
    let fits = |term: &k8s_openapi::api::core::v1::TopologySelectorTerm| {
        let list = term.match_label_expressions.as_deref().unwrap_or_default();
        !list.is_empty() && list.iter().all(|e| label(&e.key).is_some_and(|value| e.values.contains(value)))
    };
    terms.is_empty() || terms.iter().any(fits)
}

/// The class that claims without one get: of several that are marked the newest, then the first by name
/// (`pkg/volume/util.GetDefaultClass`).
pub fn default_class<'a>(classes: impl IntoIterator<Item = &'a StorageClass>) -> Option<&'a StorageClass> {
    let marked = classes.into_iter().filter(|c| annotation(*c, DEFAULT_CLASS) == Some("true"));
    marked.max_by(|a, b| {
        let at = |c: &StorageClass| c.metadata.creation_timestamp.as_ref().map(|t| t.0);
        at(a).cmp(&at(b)).then_with(|| b.metadata.name.cmp(&a.metadata.name))
    })
}

#[cfg(test)]
mod tests;
