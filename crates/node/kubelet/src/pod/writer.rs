//! The one way statuses leave the node: the newest per pod, several pods at a time, never two writes of one pod at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::status::{RESIZE_IN_PROGRESS, RESIZE_PENDING};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, watch};

/// Writes in flight at once.
const PARALLEL: usize = 16;

#[derive(Debug)]
struct Entry {
    namespace: String,
    name: String,
    /// Uid in the API; for static pods that of the mirror.
    uid: Option<String>,
    status: PodStatus,
    /// Counts changes; what was sent is told through `sent`.
    version: u64,
    sent: watch::Sender<u64>,
    in_flight: bool,
}

#[derive(Debug, Default)]
struct Inner {
    entries: Mutex<HashMap<String, Entry>>,
    wake: Notify,
}

/// A handle to the writer.
#[derive(Debug, Clone, Default)]
pub struct Writer(Arc<Inner>);

impl Writer {
    /// Sets a pod's newest status; `uid` is the pod's key in the kubelet, `api_uid` the one to write under.
    pub fn set(&self, uid: &str, namespace: &str, name: &str, api_uid: Option<String>, status: PodStatus) {
        let mut entries = self.0.entries.lock();
        let entry = entries.entry(uid.to_owned()).or_insert_with(|| Entry {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: api_uid.clone(),
            status: PodStatus::default(),
            version: 0,
            sent: watch::Sender::new(0),
            in_flight: false,
        });
        if entry.status == status && entry.uid == api_uid && entry.version > 0 {
            return;
        }
        entry.status = status;
        entry.uid = api_uid;
        entry.version += 1;
        drop(entries);
        self.0.wake.notify_one();
    }

    /// Waits until the newest status of a pod was written, at most `patience`.
    pub async fn flush(&self, uid: &str, patience: Duration) -> bool {
        let found = self.0.entries.lock().get(uid).map(|e| (e.version, e.sent.subscribe()));
        let Some((version, mut sent)) = found else { return true };
        matches!(tokio::time::timeout(patience, sent.wait_for(|v| *v >= version)).await, Ok(Ok(_)))
    }

    /// Forgets a pod.
    pub fn forget(&self, uid: &str) {
        self.0.entries.lock().remove(uid);
    }

    /// The newest status of every pod, for the kubelet's own API.
    pub fn status_of(&self, uid: &str) -> Option<PodStatus> {
        self.0.entries.lock().get(uid).map(|e| e.status.clone())
    }

    /// Writes for ever.
    pub async fn run(self, client: Client) {
        let permits = Arc::new(Semaphore::new(PARALLEL));
        loop {
            let due: Vec<String> = {
                let entries = self.0.entries.lock();
                entries
                    .iter()
                    .filter(|(_, e)| !e.in_flight && e.uid.is_some() && e.version > *e.sent.borrow())
                    .map(|(k, _)| k.clone())
                    .collect()
            };
            for key in due {
                let Ok(permit) = permits.clone().acquire_owned().await else { return };
                if let Some(entry) = self.0.entries.lock().get_mut(&key) {
                    entry.in_flight = true;
                }
                let (writer, client) = (self.clone(), client.clone());
                tokio::spawn(async move {
                    writer.send(&key, client).await;
                    drop(permit);
                });
            }
            self.0.wake.notified().await;
        }
    }

    async fn send(&self, key: &str, client: Client) {
        let found = self
            .0
            .entries
            .lock()
            .get(key)
            .map(|e| (e.namespace.clone(), e.name.clone(), e.uid.clone(), e.status.clone(), e.version));
        let Some((namespace, name, uid, status, version)) = found else { return };
        let api: Api<Pod> = Api::namespaced(client, &namespace);
        let patch = Patch::Strategic(patch(uid.as_deref(), &status));
        let answer =
            tokio::time::timeout(Duration::from_secs(20), api.patch_status(&name, &PatchParams::default(), &patch))
                .await;
        let done = match answer {
            Ok(Ok(_)) => true,
            // Gone, or another pod by that name: nobody is left to tell.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => true,
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400 | 403 | 422) => {
                tracing::warn!(pod = %format!("{namespace}/{name}"), code = status.code, message = status.message, "the API server refused a pod's status");
                tokio::time::sleep(Duration::from_secs(5)).await;
                false
            }
            Ok(Err(error)) => {
                tracing::warn!(pod = %format!("{namespace}/{name}"), %error, "write a pod's status");
                tokio::time::sleep(Duration::from_secs(1)).await;
                false
            }
            Err(_) => false,
        };
        if let Some(entry) = self.0.entries.lock().get_mut(key) {
            entry.in_flight = false;
            if done {
                entry.sent.send_replace(version);
            }
        }
        self.0.wake.notify_one();
    }
}

/// A strategic merge patch: our conditions by type, lists of addresses as a whole, and null for what is no longer there.
fn patch(uid: Option<&str>, status: &PodStatus) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_else(|_| json!({}));
    if let Value::Object(fields) = &mut value {
        for name in ["reason", "message"] {
            fields.entry(name).or_insert(Value::Null);
        }
        for name in ["podIPs", "hostIPs"] {
            if let Some(Value::Array(list)) = fields.get_mut(name) {
                list.insert(0, json!({"$patch": "replace"}));
            }
        }
        if let Some(Value::Array(conditions)) = fields.get_mut("conditions") {
            for gone in [RESIZE_PENDING, RESIZE_IN_PROGRESS] {
                if !conditions.iter().any(|c| c["type"] == gone) {
                    conditions.push(json!({"$patch": "delete", "type": gone}));
                }
            }
            for condition in
                conditions.iter_mut().filter(|c| c.get("$patch").is_none()).filter_map(Value::as_object_mut)
            {
                for name in ["reason", "message"] {
                    condition.entry(name).or_insert(Value::Null);
                }
            }
        }
    }
    json!({"metadata": {"uid": uid}, "status": value})
}
