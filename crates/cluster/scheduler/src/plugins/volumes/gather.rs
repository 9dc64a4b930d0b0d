//! Collects what the volume plugins look at (their `PreFilter`).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kinit_component_helpers::storage::{
    PodClaim, claim_phase, claims_of, class_of_claim, is_bound, is_for_pod, volume_name, waits_for_consumer,
};

use super::{PodVolumes, Waiting};

/// Claims, volumes and classes as they are, or will be when what was decided is written.
pub trait Lookup {
    /// A claim.
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>>;
    /// A volume.
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>>;
    /// A class.
    fn class(&self, name: &str) -> Option<Arc<StorageClass>>;
    /// The volumes that a claim could get: of its class, and reserved for it.
    fn candidates(&self, claim: &PersistentVolumeClaim) -> Vec<Arc<PersistentVolume>>;
    /// The node that was chosen for a claim.
    fn selected(&self, claim: &PersistentVolumeClaim) -> Option<String>;
}

/// Collects.
pub fn gather(pod: &Pod, all: &dyn Lookup) -> PodVolumes {
    let mut out = PodVolumes::default();
    let mut immediate = false;
    for wanted in claims_of(pod) {
        let claim = match usable(pod, &wanted, all) {
            Ok(claim) => claim,
            Err(problem) => return PodVolumes { problem: Some(problem), ..PodVolumes::default() },
        };
        let modes = claim.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
        if modes.iter().any(|m| m == "ReadWriteOncePod") {
            out.exclusive.insert(wanted.claim);
        }
        if is_bound(&claim) {
            match all.volume(volume_name(&claim)) {
                Some(volume) => out.bound.push(volume),
                None => out.missing = true,
            }
            continue;
        }
        let class = all.class(class_of_claim(&claim)).filter(|c| waits_for_consumer(c));
        match class {
            Some(class) if volume_name(&claim).is_empty() => {
                let (selected, candidates) = (all.selected(&claim), all.candidates(&claim));
                out.waiting.push(Waiting { claim, class, selected, candidates });
            }
            _ => immediate = true,
        }
    }
    if immediate {
        out.problem = Some("pod has unbound immediate PersistentVolumeClaims".to_owned());
    }
    out
}

/// A claim that pods may use.
fn usable(pod: &Pod, wanted: &PodClaim, all: &dyn Lookup) -> Result<Arc<PersistentVolumeClaim>, String> {
    let name = &wanted.claim;
    let Some(claim) = all.claim(pod.metadata.namespace.as_deref().unwrap_or(""), name) else {
        return Err(match wanted.ephemeral {
            true => format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"),
            false => format!("persistentvolumeclaim {name:?} not found"),
        });
    };
    if claim_phase(&claim) == "Lost" {
        let volume = volume_name(&claim);
        return Err(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
    }
    if wanted.ephemeral {
        is_for_pod(&claim, pod)?;
    }
    Ok(claim)
}
