//! The ConfigMaps and Secrets a pod refers to: held while it is here, and volumes that follow them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Volume};
use kinit_component_base::supervise;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Worker;
use super::act::perform;
use super::done::Done;
use crate::objects::{Changes, Handle};
use crate::pod::memory::VOLUMES;
use crate::pod::{resize, start};
use crate::references;

/// Objects a pod holds.
#[derive(Default)]
pub(super) struct Held {
    _config_maps: Vec<Arc<Handle<k8s_openapi::api::core::v1::ConfigMap>>>,
    _secrets: Vec<Arc<Handle<k8s_openapi::api::core::v1::Secret>>>,
    stop: CancellationToken,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Worker {
    /// Watches what the pod refers to, so that volumes follow their objects.
    pub(super) fn hold(&mut self, pod: &Pod) {
        let refers = references::of(pod);
        let objects = &self.kubelet.objects;
        let namespace = &self.key.namespace;
        let config_maps: Vec<_> =
            refers.config_maps.iter().filter_map(|n| objects.config_map(namespace, n).ok()).collect();
        let secrets: Vec<_> = refers.secrets.iter().filter_map(|n| objects.secret(namespace, n).ok()).collect();
        let stop = CancellationToken::new();
        config_maps.iter().for_each(|handle| follow(handle.changes(), &self.refresh, &stop));
        secrets.iter().for_each(|handle| follow(handle.changes(), &self.refresh, &stop));
        self.held = Held { _config_maps: config_maps, _secrets: secrets, stop };
    }

    pub(super) fn held_downward(&self) -> bool {
        let pod = self.wanted.borrow().pod.clone();
        let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        let parts =
            |v: &Volume| v.projected.iter().flat_map(|p| p.sources.iter().flatten()).any(|s| s.downward_api.is_some());
        volumes.into_iter().any(|v| v.downward_api.is_some() || parts(v))
    }

    /// Brings live volumes up to date, in a task of its own: the API may be slow to answer.
    pub(super) fn mount_again(&mut self) {
        if self.memory.mounting {
            self.stale = true;
            return;
        }
        if !self.memory.volumes_ready {
            // They may fail for want of what has just come.
            self.memory.failures.remove(VOLUMES);
            return;
        }
        if self.tearing || self.torn_down {
            return;
        }
        self.memory.mounting = true;
        let (kubelet, key, done) = (self.kubelet.clone(), self.key.clone(), self.done.0.clone());
        let (pod, mut tokens) = (self.pod.clone(), self.tokens.clone());
        let ips: Vec<String> =
            self.last.iter().flat_map(|s| s.pod_ips.iter().flatten()).map(|ip| ip.ip.clone()).collect();
        let kept = tokens.clone();
        perform(done, |lost| Done::Refreshed(kept, Err(lost)), async move {
            let place = start::place(&kubelet, &ips);
            let result = crate::volumes::set_up(&kubelet, &pod, &key, &place, &mut tokens).await;
            Done::Refreshed(tokens, result)
        });
    }
}

/// Whether downward API volumes say something else of these two states of a pod: what may change is labels, annotations
/// and resources.
pub(super) fn told_differently(before: &Pod, now: &Pod) -> bool {
    let reported = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone(), resize::of(pod));
    reported(before) != reported(now)
}

/// Passes changes of an object on until `stop`.
fn follow<K: Send + Sync + 'static>(mut changes: Changes<K>, refresh: &Arc<Notify>, stop: &CancellationToken) {
    let (refresh, stop) = (refresh.clone(), stop.clone());
    supervise::spawn("object changes", async move {
        loop {
            tokio::select! { () = stop.cancelled() => return, () = changes.next() => refresh.notify_one() }
        }
    });
}
