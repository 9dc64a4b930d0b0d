//! Writes a choice and waits for what others make of it (`BindPodVolumes`).

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kinit_client::informer::key_of;
use kinit_component_helpers::storage::{
    BOUND_BY_CONTROLLER, SELECTED_NODE, annotation, claim_ref, is_bound, is_bound_to, reaches, volume_name,
};
use kube::api::{Api, PostParams};
use kube::{Client, Resource, ResourceExt};

use super::Volumes;
use crate::plugins::volumes::{Choice, Lookup};

/// Upstream's default `bindTimeoutSeconds`.
const PATIENCE: Duration = Duration::from_secs(600);

impl Volumes {
    /// Binds and provisions for a pod that is to run on `node`, until all its claims are bound.
    pub async fn bind(&self, client: &Client, choice: &Choice, pod: &Pod, node: &Node) -> Result<()> {
        let written = self.write(client, choice, &node.name_any()).await?;
        let wait = async {
            loop {
                // Before the look, so that what comes in between is not missed.
                let changed = self.changed.notified();
                ensure!(
                    self.pods.get(&key_of(pod)).is_some_and(|p| p.uid() == pod.uid()),
                    "pod does not exist any more"
                );
                if self.all_bound(choice, &written, node)? {
                    return Ok(());
                }
                changed.await;
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, wait).await;
        outcome.map_err(|_| anyhow!("timed out waiting for its claims to be bound"))?.context("binding volumes")
    }

    /// Writes it; returns the claims that a node was written into, as they are then.
    async fn write(&self, client: &Client, choice: &Choice, node: &str) -> Result<Vec<PersistentVolumeClaim>> {
        let api: Api<PersistentVolume> = Api::all(client.clone());
        for (volume, claim) in &choice.bindings {
            let name = volume.name_any();
            let Some(current) = self.volume(&name) else { bail!("persistentvolume {name:?} not found") };
            if is_bound_to(&current, claim) {
                continue;
            }
            ensure!(claim_ref(&current).is_none(), "volume {name:?} was taken by another claim");
            let mut wanted = (*current).clone();
            wanted.spec.get_or_insert_default().claim_ref = Some(claim.object_ref(&()));
            wanted.annotations_mut().insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
            let result = api.replace(&name, &PostParams::default(), &wanted).await;
            result.with_context(|| format!("bind volume {name} to claim {}", key_of(&**claim)))?;
        }
        let mut written = Vec::new();
        for claim in &choice.provisions {
            if annotation(&**claim, SELECTED_NODE) == Some(node) {
                continue;
            }
            let mut wanted = (**claim).clone();
            wanted.annotations_mut().insert(SELECTED_NODE.to_owned(), node.to_owned());
            let api: Api<PersistentVolumeClaim> =
                Api::namespaced(client.clone(), &claim.namespace().unwrap_or_default());
            let result = api.replace(&claim.name_any(), &PostParams::default(), &wanted).await;
            written.push(result.with_context(|| format!("choose node {node} for claim {}", key_of(&**claim)))?);
        }
        Ok(written)
    }

    /// Whether all is bound; an error when it will not be, so that the pod is to be scheduled anew (`checkBindings`).
    fn all_bound(&self, choice: &Choice, written: &[PersistentVolumeClaim], node: &Node) -> Result<bool> {
        let current = |claim: &PersistentVolumeClaim| {
            let found = self.claim(&claim.namespace().unwrap_or_default(), &claim.name_any());
            found.filter(|c| c.uid() == claim.uid()).with_context(|| format!("PVC {} is gone", key_of(claim)))
        };
        let name = node.name_any();
        for (volume, claim) in &choice.bindings {
            let (claim, volume) = (current(claim)?, self.volume(&volume.name_any()));
            let volume = volume.with_context(|| format!("PV of claim {} is gone", key_of(&*claim)))?;
            ensure!(reaches(&volume, node), "pv {:?} node affinity doesn't match node {name:?}", volume.name_any());
            if !is_bound(&claim) {
                return Ok(false);
            }
            ensure!(is_bound_to(&volume, &claim), "PVC {:?} was bound to another volume", claim.name_any());
        }
        for wanted in &choice.provisions {
            let claim = current(wanted)?;
            let after = written.iter().find(|w| w.uid() == wanted.uid());
            if after.is_some_and(|w| version(w) > version(&claim)) {
                return Ok(false);
            }
            let selected = annotation(&*claim, SELECTED_NODE);
            ensure!(selected == Some(&name), "provisioning failed for PVC {:?}", claim.name_any());
            if let Some(volume) = self.volume(volume_name(&claim)) {
                ensure!(reaches(&volume, node), "pv {:?} node affinity doesn't match node {name:?}", volume.name_any());
            }
            if !is_bound(&claim) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Resource versions are revisions of one store, and so in order.
fn version(claim: &PersistentVolumeClaim) -> u64 {
    claim.resource_version().and_then(|v| v.parse().ok()).unwrap_or(0)
}
