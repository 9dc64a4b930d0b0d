//! Events on pods, their containers, and the node.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, Pod};
use kinit_client::events::Recorder;
use kube::Resource;
use kube::runtime::events::EventType;
use tokio::time::Instant;

use crate::pace::Bucket;

/// Publishes where there is an API server, logs where there is none.
#[derive(Clone, Debug)]
pub struct Events {
    recorder: Option<Recorder>,
    /// Events beyond `eventRecordQPS` are dropped.
    limit: Arc<Option<Bucket>>,
}

impl Events {
    /// Through `recorder`, or into the log only.
    pub fn new(recorder: Option<Recorder>, limit: Option<Bucket>) -> Self {
        Self { recorder, limit: Arc::new(limit) }
    }

    /// On a pod, or on one of its containers (`fieldPath` `spec.containers{NAME}`).
    pub fn pod(&self, pod: &Pod, container: Option<&str>, warning: bool, reason: &str, note: impl Into<String>) {
        let note = note.into();
        let name = pod.metadata.name.as_deref().unwrap_or("");
        tracing::info!(pod = name, container, reason, note, "event");
        let mut object = pod.object_ref(&());
        object.field_path = container.map(|c| field_path(pod, c));
        self.send(object, warning, reason, note);
    }

    /// A warning on a PersistentVolume.
    pub fn volume(&self, volume: &PersistentVolume, reason: &str, note: impl Into<String>) {
        self.send(volume.object_ref(&()), true, reason, note.into());
    }

    /// On the node.
    pub fn node(&self, name: &str, warning: bool, reason: &str, note: impl Into<String>) {
        let object = ObjectReference {
            kind: Some("Node".into()),
            api_version: Some("v1".into()),
            name: Some(name.into()),
            uid: Some(name.into()),
            ..Default::default()
        };
        self.send(object, warning, reason, note.into());
    }

    fn send(&self, object: ObjectReference, warning: bool, reason: &str, note: String) {
        let type_ = if warning { EventType::Warning } else { EventType::Normal };
        if self.limit.as_ref().as_ref().is_some_and(|limit| !limit.take(Instant::now())) {
            return tracing::warn!(reason, note, "too many events: dropped");
        }
        if let Some(recorder) = &self.recorder {
            recorder.send(object, type_, reason, note);
        }
    }
}

fn field_path(pod: &Pod, container: &str) -> String {
    let init = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).any(|c| c.name == container);
    let ephemeral = pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten()).any(|c| c.name == container);
    let list = if init {
        "initContainers"
    } else if ephemeral {
        "ephemeralContainers"
    } else {
        "containers"
    };
    format!("spec.{list}{{{container}}}")
}
