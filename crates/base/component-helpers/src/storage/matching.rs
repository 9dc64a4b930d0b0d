//! Which volume a claim gets (`FindMatchingVolume`, `checkVolumeSatisfyClaim`).

use std::borrow::Borrow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{
    capacity, claim_ref, class_of_claim, class_of_volume, is_bound_to, mode_of_claim, mode_of_volume, phase, reaches,
    request,
};

/// For whom a volume is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The claim.
    pub claim: &'a PersistentVolumeClaim,
    /// The node that the volume must reach; the binder, which knows none, does not say.
    pub node: Option<&'a Node>,
    /// The claim waits for its first consumer: without a node, only a volume that is reserved for it will do.
    pub waits: bool,
}

/// The volume for a claim: the one reserved for it, or else the one with the fewest access modes beyond those asked
/// for, and of these the smallest that is large enough, the first by name.
pub fn find<'a, V: Borrow<PersistentVolume>>(wish: Wish<'_>, volumes: &'a [V]) -> Option<&'a V> {
    let mut best: Option<(&V, _)> = None;
    for candidate in volumes {
        let volume = candidate.borrow();
        if claim_ref(volume).is_some() {
            // One that is reserved for the claim is the only one it may get.
            if is_bound_to(volume, wish.claim) && misfit_of_reserved(volume, wish.claim).is_none() {
                return wish.node.is_none_or(|node| reaches(volume, node)).then_some(candidate);
            }
            continue;
        }
        if !suits(volume, wish) {
            continue;
        }
        let modes = volume.spec.as_ref().and_then(|s| s.access_modes.as_ref()).map_or(0, Vec::len);
        let rank = (modes, capacity(volume), volume.metadata.name.as_deref());
        if best.as_ref().is_none_or(|(_, other)| rank < *other) {
            best = Some((candidate, rank));
        }
    }
    best.map(|(candidate, _)| candidate)
}

/// Whether a volume that nobody has would do.
fn suits(volume: &PersistentVolume, wish: Wish<'_>) -> bool {
    let selector = wish.claim.spec.as_ref().and_then(|s| s.selector.as_ref());
    (wish.node.is_some() || !wish.waits)
        && phase(volume) == "Available"
        && misfit(volume, wish.claim).is_none()
        && selector.is_none_or(|s| selects(s, volume.metadata.labels.as_ref()))
        && wish.node.is_none_or(|node| reaches(volume, node))
}

/// Why a volume is not what a claim asks for, in upstream's words; nothing when it is.
pub fn misfit(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    if volume.metadata.deletion_timestamp.is_some() {
        let name = volume.metadata.name.as_deref().unwrap_or("");
        return Some(format!("the volume is marked for deletion {name:?}"));
    }
    let attributes = |name: Option<&String>| name.cloned().unwrap_or_default();
    let of_volume = attributes(volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_ref()));
    let of_claim = attributes(claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_ref()));
    let reason = if capacity(volume) < request(claim) || capacity(volume).is_none() {
        "requested PV is too small"
    } else if class_of_volume(volume) != class_of_claim(claim) {
        "storageClassName does not match"
    } else if of_volume != of_claim {
        "volumeAttributesClassName does not match"
    } else if mode_of_volume(volume) != mode_of_claim(claim) {
        "incompatible volumeMode"
    } else if !has_modes(volume, claim) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(reason.to_owned())
}

/// Of a reserved volume neither class nor access modes are compared: who reserved it knew them.
fn misfit_of_reserved(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<()> {
    let fits = volume.metadata.deletion_timestamp.is_none()
        && capacity(volume).is_some()
        && capacity(volume) >= request(claim)
        && mode_of_volume(volume) == mode_of_claim(claim);
    (!fits).then_some(())
}

/// Whether a volume has all the access modes that a claim asks for (`CheckAccessModes`).
fn has_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let has = volume.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
    let wants = claim.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
    wants.iter().all(|mode| has.contains(mode))
}

/// A label selector that is malformed selects nothing.
fn selects(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let label = |key: &str| labels.and_then(|l| l.get(key));
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| label(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|term| {
            let values = term.values.as_deref().unwrap_or_default();
            let listed = label(&term.key).is_some_and(|v| values.contains(v));
            match term.operator.as_str() {
                "In" => listed,
                "NotIn" => !values.is_empty() && !listed,
                "Exists" => label(&term.key).is_some(),
                "DoesNotExist" => label(&term.key).is_none(),
                _ => false,
            }
        })
}
