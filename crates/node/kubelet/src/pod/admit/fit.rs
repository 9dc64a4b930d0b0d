//! Whether a pod fits beside those that were admitted: upstream's general predicates (`pkg/scheduler.AdmissionCheck`
//! and `pkg/kubelet/lifecycle.generalFilter`). Pure.

use std::collections::BTreeMap;

use super::claim::Claim;
use super::placement::Misfit;
use crate::resources::Asked;

/// What the node has for pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Room {
    /// CPU and memory.
    pub asked: Asked,
    /// The number of pods.
    pub pods: i128,
    /// Ephemeral storage, huge pages and extended resources, in whole units.
    pub others: BTreeMap<String, i128>,
}

/// Why a pod does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// There is too little of a resource.
    Insufficient {
        /// Which.
        resource: String,
        /// What the pod asks for: CPU in thousandths, all else in whole units.
        requested: i128,
        /// What the others have.
        used: i128,
        /// What there is.
        capacity: i128,
    },
    /// The node is not one the pod wants, or its ports are taken.
    Misfit(Misfit),
}

impl Reason {
    /// Reason and message of the pod's status, as upstream has them.
    pub fn words(&self) -> (String, String) {
        match self {
            Self::Insufficient { resource, requested, used, capacity } => (
                format!("OutOf{resource}"),
                format!(
                    "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
                ),
            ),
            Self::Misfit(misfit) => {
                let (name, why) = misfit.words();
                (name.to_owned(), format!("Predicate {name} failed: {why}"))
            }
        }
    }
}

/// All that is in the way of a pod, in upstream's order: the first is the one that is told.
pub fn reasons<'a>(
    claim: &Claim,
    others: impl Iterator<Item = &'a Claim> + Clone,
    room: &Room,
    misfits: &[Misfit],
) -> Vec<Reason> {
    let mut out = Vec::new();
    let mut check = |resource: &str, capacity: i128| {
        let requested = claim.amount(resource);
        let used: i128 = others.clone().map(|o| o.amount(resource)).sum();
        if requested > 0 && used + requested > capacity {
            out.push(Reason::Insufficient { resource: resource.to_owned(), requested, used, capacity });
        }
    };
    check("pods", room.pods);
    check("cpu", room.asked.cpu);
    check("memory", room.asked.memory);
    let storage = "ephemeral-storage";
    for name in [storage].into_iter().chain(claim.others.keys().map(String::as_str).filter(|n| *n != storage)) {
        match room.others.get(name) {
            Some(capacity) => check(name, *capacity),
            // Extended resources that the node does not know are the cluster's affair
            // (`removeMissingExtendedResources`).
            None if is_extended(name) => {}
            None => check(name, 0),
        }
    }
    let clash = others.clone().any(|other| claim.ports.iter().any(|p| other.ports.iter().any(|o| p.clashes(o))));
    let taken = clash.then_some(Misfit::Ports);
    let mut misfits: Vec<Misfit> = misfits.iter().copied().chain(taken).collect();
    misfits.sort();
    out.extend(misfits.into_iter().map(Reason::Misfit));
    out
}

/// `v1helper.IsExtendedResourceName`.
pub fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}
