//! The one way statuses leave the node: the newest per pod, several pods at a time, never two writes of one pod at
//! once.
//!
//! A status is due when it is new, and when the API shows another than was last written (`status_manager.go:
//! needsReconcile`).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::status::{CONDITIONS, RESIZE_IN_PROGRESS, RESIZE_PENDING};
use crate::drift::{differences, version};
use crate::pace::Repairs;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kinit_component_base::supervise;
use kinit_component_helpers::pod::is_over;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

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
    /// Nothing is written before.
    not_before: Option<Instant>,
    /// The newest version of the pod that is known, and where its status differs from `status`.
    newest: u64,
    drift: BTreeSet<String>,
    /// Where the API's answer to the last write differed: to say it again would change nothing.
    excused: BTreeSet<String>,
    repairs: Repairs,
}

impl Entry {
    fn is_due(&self) -> bool {
        !self.in_flight && self.uid.is_some() && self.version > *self.sent.borrow()
    }

    /// The API's pod was seen as it is at `newest`.
    fn see(&mut self, newest: u64, pod: &Pod, now: Instant) {
        if newest <= self.newest || self.uid != pod.metadata.uid {
            return;
        }
        self.newest = newest;
        self.drift = drift(pod, &self.status);
        self.repair(now);
    }

    /// Makes the status due again when the API shows another and no write is under way or due.
    fn repair(&mut self, now: Instant) {
        let settled = !self.in_flight && self.version > 0 && self.version == *self.sent.borrow();
        if settled && !self.drift.is_subset(&self.excused) {
            self.version += 1;
            self.not_before = Some(self.repairs.next(now));
        }
    }

    /// `written` was written, and the API answered with `pod`.
    fn wrote(&mut self, written: &PodStatus, pod: &Pod) {
        self.excused = drift(pod, written);
        let newest = version(&pod.metadata);
        if newest >= self.newest {
            self.newest = newest;
            self.drift = self.excused.clone();
        }
    }
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
            not_before: None,
            newest: 0,
            drift: BTreeSet::new(),
            excused: BTreeSet::new(),
            repairs: Repairs::default(),
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

    /// The API holds a pod like this; `uid` is its key in the kubelet.
    pub fn held(&self, uid: &str, pod: &Pod) {
        if let Some(entry) = self.0.entries.lock().get_mut(uid) {
            entry.see(version(&pod.metadata), pod, Instant::now());
        }
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
            let now = Instant::now();
            let (mut due, mut next) = (Vec::new(), None);
            for (key, entry) in self.0.entries.lock().iter().filter(|(_, e)| e.is_due()) {
                match entry.not_before.filter(|at| *at > now) {
                    Some(at) => next = Some(next.map_or(at, |n: Instant| n.min(at))),
                    None => due.push(key.clone()),
                }
            }
            for key in due {
                let Ok(permit) = permits.clone().acquire_owned().await else { return };
                if let Some(entry) = self.0.entries.lock().get_mut(&key) {
                    entry.in_flight = true;
                }
                let (writer, client) = (self.clone(), client.clone());
                supervise::spawn("status", async move {
                    writer.send(&key, client).await;
                    drop(permit);
                });
            }
            let later = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! { () = self.0.wake.notified() => {}, () = later => {} }
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
        let pod = format!("{namespace}/{name}");
        // Whether nothing is left to be done, and else how long to wait.
        let (done, pause) = match &answer {
            Ok(Ok(_)) => (true, Duration::ZERO),
            // Gone, or another pod by that name: nobody is left to tell.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => (true, Duration::ZERO),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400 | 403 | 422) => {
                tracing::warn!(
                    pod,
                    code = status.code,
                    message = status.message,
                    "the API server refused a pod's status"
                );
                (false, Duration::from_secs(5))
            }
            Ok(Err(error)) => {
                tracing::warn!(pod, %error, "write a pod's status");
                (false, Duration::from_secs(1))
            }
            Err(_) => (false, Duration::ZERO),
        };
        if let Some(entry) = self.0.entries.lock().get_mut(key) {
            let now = Instant::now();
            entry.in_flight = false;
            entry.not_before = (!pause.is_zero()).then(|| now + pause);
            if done {
                entry.sent.send_replace(version);
            }
            if let Ok(Ok(pod)) = &answer {
                entry.wrote(&status, pod);
                // What came by watch meanwhile may be newer than the answer.
                entry.repair(now);
            }
        }
        self.0.wake.notify_one();
    }
}

/// Where the API's pod differs from `status` in what is the kubelet's own.
fn drift(pod: &Pod, status: &PodStatus) -> BTreeSet<String> {
    if is_over(pod.status.as_ref()) && !is_over(Some(status)) {
        // Somebody else ended it for good, and the end is not taken back.
        return BTreeSet::new();
    }
    let mut body = patch(None, status)["status"].take();
    if let Some(Value::Array(conditions)) = body.get_mut("conditions") {
        conditions.retain(|c| c["type"].as_str().is_some_and(|t| CONDITIONS.contains(&t)));
    }
    differences(&json!(pod.status), &body)
}

/// A strategic merge patch: our conditions by type, lists of addresses as a whole, and null for what is no longer
/// there.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(version: u64, phase: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u", "resourceVersion": version.to_string()},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}, {"type": "Mine", "status": "x"}]},
        }))
        .unwrap()
    }

    fn writer() -> Writer {
        let writer = Writer::default();
        writer.set("u", "n", "p", Some("u".into()), pod(0, "Running", "True").status.unwrap());
        writer
    }

    /// As if the newest status had been written, and answered with `pod`.
    fn written(writer: &Writer, pod: &Pod) {
        let mut entries = writer.0.entries.lock();
        let entry = entries.get_mut("u").unwrap();
        entry.sent.send_replace(entry.version);
        let status = entry.status.clone();
        entry.wrote(&status, pod);
        entry.repair(Instant::now());
    }

    fn is_due(writer: &Writer) -> bool {
        writer.0.entries.lock()["u"].is_due()
    }

    #[test]
    fn a_status_that_others_changed_is_due_once() {
        for (about, held, due) in [
            ("our own write", pod(5, "Running", "True"), false),
            ("a node that was given up", pod(6, "Running", "False"), true),
            ("an older state", pod(4, "Running", "False"), false),
            ("the end of a pod", pod(6, "Failed", "False"), false),
        ] {
            let writer = writer();
            assert!(is_due(&writer), "{about}: never written");
            written(&writer, &pod(5, "Running", "True"));
            assert!(!is_due(&writer), "{about}: written");
            writer.held("u", &held);
            assert_eq!(is_due(&writer), due, "{about}");
            if due {
                let version = writer.0.entries.lock()["u"].version;
                writer.held("u", &pod(7, "Running", "False"));
                assert_eq!(writer.0.entries.lock()["u"].version, version, "{about}: due already");
                written(&writer, &pod(8, "Running", "True"));
                assert!(!is_due(&writer), "{about}: repaired");
            }
        }
    }

    #[test]
    fn what_the_api_does_not_take_is_not_said_again() {
        let writer = writer();
        written(&writer, &pod(5, "Pending", "True"));
        assert!(!is_due(&writer));
        writer.held("u", &pod(6, "Pending", "True"));
        assert!(!is_due(&writer));
        writer.held("u", &pod(7, "Pending", "False"));
        assert!(is_due(&writer), "another difference");
    }

    #[test]
    fn what_came_during_a_write_counts_when_it_is_newer() {
        for (seen, due) in [(7, true), (5, false)] {
            let writer = writer();
            writer.0.entries.lock().get_mut("u").unwrap().in_flight = true;
            writer.held("u", &pod(seen, "Running", "False"));
            writer.0.entries.lock().get_mut("u").unwrap().in_flight = false;
            written(&writer, &pod(6, "Running", "True"));
            assert_eq!(is_due(&writer), due, "version {seen}");
        }
    }
}
