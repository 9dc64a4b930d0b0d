//! Writes what was decided. A binding is four writes, of which each is left out when it has been done: the volume's
//! reference, its phase, the claim's reference, its phase. Whatever interrupts them, the next look goes on.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
};
use kinit_client::events::Recorder;
use kinit_component_helpers::storage::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONER, PROVISIONER_BETA, annotation, claim_phase, is_bound_to, phase,
    volume_name,
};
use kube::api::{Api, PostParams};
use kube::{Client, Resource, ResourceExt};

use super::claim::ClaimStep;
use super::volume::VolumeStep;
use crate::object::now;
use crate::volume::Note;

/// See the module.
pub struct Writer {
    /// Writes as the binder.
    pub client: Client,
    /// Events.
    pub recorder: Recorder,
}

impl Writer {
    /// Does what was decided about a claim.
    pub async fn claim(&self, claim: &Arc<PersistentVolumeClaim>, step: ClaimStep) -> Result<()> {
        match step {
            ClaimStep::Bind(volume) => self.bind(claim, &volume).await,
            ClaimStep::Wait(note) => {
                note.iter().for_each(|n| n.publish(&self.recorder, &**claim));
                self.claim_status(claim, "Pending", None).await.map(drop)
            }
            ClaimStep::Class(class) => {
                let mut wanted = (**claim).clone();
                wanted.spec.get_or_insert_default().storage_class_name = Some(class);
                self.replace_claim(&wanted).await.context("give it the default class").map(drop)
            }
            ClaimStep::Ask(provisioner) => self.ask(claim, &provisioner).await,
            ClaimStep::Lost(note) => {
                if claim_phase(claim) != "Lost" {
                    self.claim_status(claim, "Lost", None).await?;
                    note.publish(&self.recorder, &**claim);
                }
                Ok(())
            }
        }
    }

    /// Does what was decided about a volume.
    pub async fn volume(&self, volume: &Arc<PersistentVolume>, step: VolumeStep) -> Result<()> {
        match step {
            VolumeStep::Available => self.volume_phase(volume, "Available", None).await.map(drop),
            VolumeStep::Bound => self.volume_phase(volume, "Bound", None).await.map(drop),
            VolumeStep::Claim => Ok(()),
            VolumeStep::Warn(note) => {
                note.publish(&self.recorder, &**volume);
                Ok(())
            }
            VolumeStep::Unbind => self.unbind(volume).await,
            // That something failed stays to be seen.
            VolumeStep::Release if phase(volume) == "Failed" => Ok(()),
            VolumeStep::Release => self.volume_phase(volume, "Released", None).await.map(drop),
            VolumeStep::Fail(note) => {
                if phase(volume) != "Failed" {
                    self.volume_phase(volume, "Failed", Some(&note)).await?;
                    note.publish(&self.recorder, &**volume);
                }
                Ok(())
            }
        }
    }

    async fn bind(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<()> {
        let name = volume.name_any();
        let volume = match referring(volume, claim) {
            None => volume.clone(),
            Some(wanted) => {
                tracing::info!(claim = claim.name_any(), volume = name, "bind");
                let api: Api<PersistentVolume> = Api::all(self.client.clone());
                api.replace(&name, &PostParams::default(), &wanted)
                    .await
                    .with_context(|| format!("bind volume {name}"))?
            }
        };
        let volume = self.volume_phase(&volume, "Bound", None).await?;
        let claim = match naming(claim, &name) {
            None => claim.clone(),
            Some(wanted) => self.replace_claim(&wanted).await.with_context(|| format!("bind it to volume {name}"))?,
        };
        self.claim_status(&claim, "Bound", Some(&volume)).await.map(drop)
    }

    async fn unbind(&self, volume: &PersistentVolume) -> Result<()> {
        let mut wanted = volume.clone();
        let by_controller = wanted.annotations_mut().remove(BOUND_BY_CONTROLLER).is_some();
        let spec = wanted.spec.get_or_insert_default();
        match &mut spec.claim_ref {
            // Who reserved it for the claim goes on doing so.
            Some(reference) if !by_controller => reference.uid = None,
            reference => *reference = None,
        }
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let written = api.replace(&volume.name_any(), &PostParams::default(), &wanted).await.context("unbind it")?;
        self.volume_phase(&written, "Available", None).await.map(drop)
    }

    /// Names the provisioner in the claim, under both names of the annotation (`setClaimProvisioner`).
    async fn ask(&self, claim: &PersistentVolumeClaim, provisioner: &str) -> Result<()> {
        let note = Note::normal(
            "ExternalProvisioning",
            format!(
                "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by \
                 the system administrator. If volume creation is delayed, please verify that the provisioner is \
                 running and correctly registered."
            ),
        );
        let said = [PROVISIONER, PROVISIONER_BETA].iter().all(|key| annotation(claim, key) == Some(provisioner));
        let mut current = claim.clone();
        if !said {
            for key in [PROVISIONER, PROVISIONER_BETA] {
                current.annotations_mut().insert(key.to_owned(), provisioner.to_owned());
            }
            current = self.replace_claim(&current).await.with_context(|| format!("ask {provisioner} for a volume"))?;
            note.publish(&self.recorder, claim);
        }
        self.claim_status(&current, "Pending", None).await.map(drop)
    }

    async fn replace_claim(&self, wanted: &PersistentVolumeClaim) -> Result<PersistentVolumeClaim> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &namespace(wanted));
        Ok(api.replace(&wanted.name_any(), &PostParams::default(), wanted).await?)
    }

    async fn claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<PersistentVolumeClaim> {
        let status = status_of_claim(claim.status.as_ref(), phase, volume);
        if claim.status.as_ref() == Some(&status) {
            return Ok(claim.clone());
        }
        let wanted = PersistentVolumeClaim { status: Some(status), ..claim.clone() };
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &namespace(claim));
        let written = api.replace_status(&claim.name_any(), &PostParams::default(), &wanted).await;
        written.with_context(|| format!("write its phase {phase}"))
    }

    async fn volume_phase(
        &self,
        volume: &PersistentVolume,
        wanted: &str,
        note: Option<&Note>,
    ) -> Result<PersistentVolume> {
        if phase(volume) == wanted {
            return Ok(volume.clone());
        }
        let mut changed = volume.clone();
        let status = changed.status.get_or_insert_default();
        status.phase = Some(wanted.to_owned());
        status.message = note.map(|n| n.message.clone());
        status.reason = note.map(|n| n.reason.to_owned());
        status.last_phase_transition_time = Some(now());
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let written = api.replace_status(&volume.name_any(), &PostParams::default(), &changed).await;
        written.with_context(|| format!("write the phase {wanted} of volume {}", volume.name_any()))
    }
}

fn namespace(claim: &PersistentVolumeClaim) -> String {
    claim.namespace().unwrap_or_default()
}

/// The volume with its reference to the claim, unless it has it already (`GetBindVolumeToClaim`).
fn referring(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let reserved = is_bound_to(volume, claim);
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    if reserved && reference.is_some_and(|r| r.uid == claim.metadata.uid) {
        return None;
    }
    let mut wanted = volume.clone();
    wanted.spec.get_or_insert_default().claim_ref =
        Some(ObjectReference { resource_version: claim.resource_version(), ..claim.object_ref(&()) });
    if !reserved {
        wanted.annotations_mut().insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    Some(wanted)
}

/// The claim with the volume's name, unless it has it already.
fn naming(claim: &PersistentVolumeClaim, volume: &str) -> Option<PersistentVolumeClaim> {
    let named = volume_name(claim) == volume;
    if named && annotation(claim, BIND_COMPLETED).is_some() {
        return None;
    }
    let mut wanted = claim.clone();
    wanted.spec.get_or_insert_default().volume_name = Some(volume.to_owned());
    wanted.annotations_mut().insert(BIND_COMPLETED.to_owned(), "yes".to_owned());
    if !named {
        wanted.annotations_mut().insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    Some(wanted)
}

/// A bound claim says what its volume gives. A size that it has already is kept: it may be growing
/// (`updateClaimStatus`).
fn status_of_claim(
    had: Option<&PersistentVolumeClaimStatus>,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> PersistentVolumeClaimStatus {
    let mut status = had.cloned().unwrap_or_default();
    let first = status.phase.as_deref() != Some("Bound") || status.capacity.is_none();
    status.phase = Some(phase.to_owned());
    match volume.and_then(|v| v.spec.as_ref()) {
        None => (status.access_modes, status.capacity) = (None, None),
        Some(spec) => {
            status.access_modes = spec.access_modes.clone();
            if first {
                status.capacity = spec.capacity.clone();
            }
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(annotations: Value, volume: &str) -> PersistentVolumeClaim {
        serde_json::from_value(
            json!({"metadata": {"name": "c", "namespace": "n", "uid": "u", "annotations": annotations},
            "spec": {"volumeName": volume}}),
        )
        .unwrap()
    }

    fn volume(holder: Option<Value>) -> PersistentVolume {
        let spec = json!({"claimRef": holder, "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}});
        serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).unwrap()
    }

    #[test]
    fn who_bound_is_remembered() {
        let plain = claim(json!({}), "");
        let bound = referring(&volume(None), &plain).unwrap();
        assert!(is_bound_to(&bound, &plain) && annotation(&bound, BOUND_BY_CONTROLLER).is_some());
        let reserved = volume(Some(json!({"name": "c", "namespace": "n"})));
        let bound = referring(&reserved, &plain).unwrap();
        assert_eq!(bound.spec.as_ref().unwrap().claim_ref.as_ref().unwrap().uid.as_deref(), Some("u"));
        assert!(annotation(&bound, BOUND_BY_CONTROLLER).is_none(), "a user reserved it");
        assert!(referring(&bound, &plain).is_none(), "nothing is left to do");
        let named = naming(&plain, "v").unwrap();
        assert!(annotation(&named, BIND_COMPLETED).is_some() && annotation(&named, BOUND_BY_CONTROLLER).is_some());
        assert!(annotation(&naming(&claim(json!({}), "v"), "v").unwrap(), BOUND_BY_CONTROLLER).is_none());
        assert!(naming(&named, "v").is_none());
    }

    #[test]
    fn a_claim_says_what_it_has() {
        let status = status_of_claim(None, "Bound", Some(&volume(None)));
        assert_eq!(status.capacity.as_ref().unwrap()["storage"].0, "2Gi");
        assert_eq!(status.access_modes.as_deref(), Some(["ReadWriteOnce".to_owned()].as_slice()));
        let lost = status_of_claim(Some(&status), "Lost", None);
        assert_eq!((lost.capacity, lost.access_modes), (None, None));
        let mut grown = volume(None);
        let size = grown.spec.as_mut().unwrap().capacity.as_mut().unwrap();
        size.insert("storage".into(), serde_json::from_value(json!("9Gi")).unwrap());
        assert_eq!(status_of_claim(Some(&status), "Bound", Some(&grown)), status, "growth is written by who grows it");
    }
}
