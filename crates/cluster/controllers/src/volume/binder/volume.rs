//! What is to be done about a volume (`syncVolume`, `reclaimVolume`). No IO.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kinit_component_helpers::storage::{
    PROVISIONED_BY, annotation, claim_ref, mode_of_claim, mode_of_volume, reclaim_policy, volume_name,
};

use crate::volume::Note;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeStep {
    /// It is free, or reserved for a claim that has not come.
    Available,
    /// It is bound.
    Bound,
    /// Its claim is to be looked at: it is on its way.
    Claim,
    /// Its claim took another volume: it is set free, or goes on being reserved.
    Unbind,
    /// It cannot serve its claim.
    Warn(Note),
    /// Its claim is gone; who made it deletes it, or nobody.
    Release,
    /// Its claim is gone, and nobody here can do what its policy says.
    Fail(Note),
}

/// Decides. `claim` is the one that the volume refers to by name, if it exists.
pub fn volume_step(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumeStep {
    let Some(reference) = claim_ref(volume) else { return VolumeStep::Available };
    let uid = reference.uid.as_deref().unwrap_or("");
    if uid.is_empty() {
        return VolumeStep::Available;
    }
    let Some(claim) = claim.filter(|c| c.metadata.uid.as_deref() == Some(uid)) else { return reclaim(volume) };
    let named = volume_name(claim);
    if named.is_empty() {
        if mode_of_volume(volume) != mode_of_claim(claim) {
            let name = claim.metadata.name.as_deref().unwrap_or("");
            let message = format!(
                "Cannot bind PersistentVolume to requested PersistentVolumeClaim {name:?} due to incompatible volumeMode."
            );
            return VolumeStep::Warn(Note::warning("VolumeMismatch", message));
        }
        return VolumeStep::Claim;
    }
    if volume.metadata.name.as_deref() == Some(named) {
        return VolumeStep::Bound;
    }
    // A volume that was made for this claim alone is of no use to anybody else.
    if annotation(volume, PROVISIONED_BY).is_some() && reclaim_policy(volume) == "Delete" {
        return reclaim(volume);
    }
    VolumeStep::Unbind
}

fn reclaim(volume: &PersistentVolume) -> VolumeStep {
    let provisioner = annotation(volume, PROVISIONED_BY).unwrap_or("");
    let external = !provisioner.is_empty() && !provisioner.starts_with("kubernetes.io/");
    match reclaim_policy(volume) {
        "Delete" if !external => {
            let name = volume.metadata.name.as_deref().unwrap_or("");
            let message =
                format!("error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched");
            VolumeStep::Fail(Note::warning("VolumeFailedDelete", message))
        }
        "Recycle" => VolumeStep::Fail(Note::warning("VolumeFailedRecycle", "No recycler plugin found for the volume!")),
        // Retain, and what a provisioner of its own deletes.
        _ => VolumeStep::Release,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(policy: &str, by: Option<&str>, holder: Option<Value>) -> PersistentVolume {
        let annotations = by.map(|by| json!({PROVISIONED_BY: by}));
        serde_json::from_value(json!({"metadata": {"name": "v", "annotations": annotations}, "spec": {
            "persistentVolumeReclaimPolicy": policy, "claimRef": holder}}))
        .unwrap()
    }

    fn claim(uid: &str, volume: &str, mode: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": uid},
            "spec": {"volumeName": volume, "volumeMode": mode}}))
        .unwrap()
    }

    #[test]
    fn lives_of_volumes() {
        let holder = |uid: &str| Some(json!({"name": "c", "namespace": "n", "uid": uid}));
        let plain = |policy| volume(policy, None, holder("u"));
        let made = |policy| volume(policy, Some("example.com/p"), holder("u"));
        let (here, other) = (claim("u", "v", "Filesystem"), claim("u", "w", "Filesystem"));
        let failed = |reason| move |step: &VolumeStep| matches!(step, VolumeStep::Fail(n) if n.reason == reason);
        assert_eq!(volume_step(&volume("Retain", None, None), None), VolumeStep::Available);
        assert_eq!(volume_step(&volume("Retain", None, holder("")), None), VolumeStep::Available, "reserved");
        assert_eq!(volume_step(&plain("Retain"), Some(&here)), VolumeStep::Bound);
        assert_eq!(volume_step(&plain("Retain"), Some(&claim("u", "", "Filesystem"))), VolumeStep::Claim);
        assert!(matches!(volume_step(&plain("Retain"), Some(&claim("u", "", "Block"))), VolumeStep::Warn(_)));
        assert_eq!(volume_step(&plain("Retain"), None), VolumeStep::Release);
        assert_eq!(volume_step(&plain("Retain"), Some(&claim("later", "v", "Filesystem"))), VolumeStep::Release);
        assert_eq!(volume_step(&made("Delete"), None), VolumeStep::Release, "its provisioner deletes it");
        assert!(failed("VolumeFailedDelete")(&volume_step(&plain("Delete"), None)));
        assert!(failed("VolumeFailedRecycle")(&volume_step(&plain("Recycle"), None)));
        assert_eq!(volume_step(&plain("Delete"), Some(&other)), VolumeStep::Unbind);
        assert_eq!(volume_step(&made("Retain"), Some(&other)), VolumeStep::Unbind);
        assert_eq!(volume_step(&made("Delete"), Some(&other)), VolumeStep::Release, "it was made in vain");
    }
}
