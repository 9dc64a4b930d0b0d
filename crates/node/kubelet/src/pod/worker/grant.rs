//! What the pod was granted of what it asks for; kept in a file, so that a restart of the kubelet changes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::Worker;
use crate::names::PodKey;
use crate::pod::ledger::Refusal;
use crate::pod::memory::RESIZE;
use crate::pod::observe::Observed;
use crate::pod::resize::{self, Allocation};
use crate::pod::step::Intent;
use crate::resources;
use crate::volumes::files::write_atomically;

fn file(kubelet: &crate::kubelet::Kubelet, key: &PodKey) -> PathBuf {
    kubelet.paths.pod(&key.uid).join("allocated.json")
}

/// Whether a grant of the pod is on file: it was admitted before this process started.
pub(super) fn is_kept(kubelet: &crate::kubelet::Kubelet, key: &PodKey) -> bool {
    file(kubelet, key).exists()
}

/// What the pod was granted before this process started, or all it asks for.
pub(super) fn known(kubelet: &crate::kubelet::Kubelet, key: &PodKey, pod: &Pod) -> Allocation {
    let path = file(kubelet, key);
    match std::fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(allocation) => return allocation,
            Err(error) => tracing::warn!(pod = %key, %error, "read what the pod was granted"),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(pod = %key, %error, "read what the pod was granted"),
    }
    resize::of(pod)
}

impl Worker {
    /// The pod with what it was granted. Grants what it asks for if there is room.
    pub(super) fn granted(&mut self, pod: &Arc<Pod>, intent: &Intent) -> Arc<Pod> {
        let wanted = resize::of(pod);
        if wanted == self.allocation {
            self.refusal = None;
            return pod.clone();
        }
        if *intent == Intent::Run {
            match self.kubelet.ledger.change(&self.key.uid, resources::asked(pod), &self.poke) {
                Ok(()) => {
                    self.refusal = None;
                    self.memory.failures.remove(RESIZE);
                    self.allocation = wanted;
                    self.save();
                    self.kubelet.events.pod(pod, None, false, "ResizeStarted", "Pod resize started");
                    return pod.clone();
                }
                Err(refusal) => self.refuse(pod, refusal),
            }
        }
        Arc::new(resize::with(pod, &self.allocation))
    }

    fn refuse(&mut self, pod: &Pod, refusal: Refusal) {
        if self.refusal.as_ref() != Some(&refusal) {
            let reason = if refusal.reason == "Deferred" { "ResizeDeferred" } else { "ResizeInfeasible" };
            self.kubelet.events.pod(
                pod,
                None,
                true,
                reason,
                format!("Pod resize {}: {}", refusal.reason, refusal.message),
            );
        }
        self.refusal = Some(refusal);
    }

    /// Writes the grant down; a pod without a directory has none to lose yet.
    pub(super) fn save(&self) {
        let path = file(&self.kubelet, &self.key);
        if !path.parent().is_some_and(std::path::Path::is_dir) {
            return;
        }
        let written = serde_json::to_vec(&self.allocation)
            .map_err(std::io::Error::other)
            .and_then(|bytes| write_atomically(&path, &bytes, 0o600));
        if let Err(error) = written {
            tracing::warn!(pod = %self.key, %error, "write down what the pod was granted");
        }
    }

    /// Whether limits are being changed, and what is in the way: the condition `PodResizeInProgress`.
    pub(super) fn resize_in_progress(&mut self, pod: &Pod, seen: &Observed) -> Option<Option<String>> {
        self.memory.given.retain(|id, _| seen.containers.iter().any(|c| c.id == *id));
        self.memory.renewed.retain(|id| seen.containers.iter().any(|c| c.id == *id));
        let failure = self.memory.failures.get(RESIZE).map(|f| f.message.clone());
        let now = (resize::in_progress(pod, seen, &self.memory) || failure.is_some()).then_some(failure);
        if self.was_resizing && now.is_none() {
            self.kubelet.events.pod(pod, None, false, "ResizeCompleted", "Pod resize completed");
        }
        self.was_resizing = now.is_some();
        now
    }
}
