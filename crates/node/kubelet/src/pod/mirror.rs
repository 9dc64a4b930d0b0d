//! Mirrors: the API's copies of static pods (`pkg/kubelet/pod/mirror_client.go`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::manager::Manager;
use crate::names;

#[derive(Default)]
struct Inner {
    /// Mirrors in the API by namespace and name: (uid, digest of the static pod).
    known: Mutex<HashMap<(String, String), (String, String)>>,
    wake: Notify,
    synced: std::sync::atomic::AtomicBool,
}

/// What the API holds of mirrors.
#[derive(Clone, Default)]
pub struct Mirrors(Arc<Inner>);

fn place(pod: &Pod) -> (String, String) {
    let text = |f: &Option<String>| f.clone().unwrap_or_default();
    (text(&pod.metadata.namespace), text(&pod.metadata.name))
}

impl Mirrors {
    /// The API has this mirror.
    pub fn seen(&self, pod: Pod) {
        let hash =
            pod.metadata.annotations.as_ref().and_then(|a| a.get(names::CONFIG_MIRROR)).cloned().unwrap_or_default();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        // One that is being deleted serves nobody.
        let hash = if pod.metadata.deletion_timestamp.is_some() { String::new() } else { hash };
        self.0.known.lock().insert(place(&pod), (uid, hash));
        self.0.wake.notify_one();
    }

    /// The API has it no more.
    pub fn lost(&self, pod: &Pod) {
        self.0.known.lock().remove(&place(pod));
        self.0.wake.notify_one();
    }

    /// The first list is complete.
    pub fn synced(&self) {
        self.0.synced.store(true, std::sync::atomic::Ordering::Release);
        self.0.wake.notify_one();
    }

    /// Keeps mirrors in step with static pods for ever.
    pub async fn run(self, client: Client, manager: Manager, node_name: String) {
        let changes = manager.changes();
        let mut node_uid = None;
        loop {
            if self.0.synced.load(std::sync::atomic::Ordering::Acquire) {
                if node_uid.is_none() {
                    let api: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
                    node_uid = api.get_opt(&node_name).await.ok().flatten().and_then(|n| n.metadata.uid);
                }
                if let Some(uid) = &node_uid {
                    self.align(&client, &manager, &node_name, uid).await;
                }
            }
            tokio::select! {
                () = self.0.wake.notified() => {}
                () = changes.notified() => {}
                () = tokio::time::sleep(Duration::from_secs(20)) => {}
            }
        }
    }

    async fn align(&self, client: &Client, manager: &Manager, node_name: &str, node_uid: &str) {
        let known = self.0.known.lock().clone();
        let mut wanted = HashMap::new();
        for pod in manager.pods() {
            let annotations = pod.metadata.annotations.clone().unwrap_or_default();
            if annotations.get(names::CONFIG_SOURCE).is_some_and(|s| s == "file") {
                wanted.insert(place(&pod), pod);
            }
        }
        for ((namespace, name), (uid, hash)) in &known {
            let current = wanted.get(&(namespace.clone(), name.clone()));
            let digest = current.and_then(|p| p.metadata.uid.clone());
            if let Some(digest) = digest.filter(|d| d == hash) {
                manager.mirror(&digest, Some(uid.clone()));
                continue;
            }
            let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
            let preconditions = Some(Preconditions { uid: Some(uid.clone()), resource_version: None });
            let params = DeleteParams { grace_period_seconds: Some(0), preconditions, ..Default::default() };
            if let Err(error) = api.delete(name, &params).await {
                tracing::debug!(name, %error, "delete an outdated mirror");
            }
        }
        for ((namespace, name), pod) in wanted.iter().filter(|(place, _)| !known.contains_key(*place)) {
            let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
            if let Err(error) = api.create(&PostParams::default(), &copy(pod, node_name, node_uid)).await {
                tracing::warn!(name, %error, "create the mirror of a static pod");
            }
        }
    }
}

fn copy(pod: &Pod, node_name: &str, node_uid: &str) -> Pod {
    let mut annotations = pod.metadata.annotations.clone().unwrap_or_default();
    annotations.insert(names::CONFIG_MIRROR.into(), pod.metadata.uid.clone().unwrap_or_default());
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node_name.into(),
        uid: node_uid.into(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    Pod {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            labels: pod.metadata.labels.clone(),
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        spec: pod.spec.clone(),
        status: None,
    }
}
