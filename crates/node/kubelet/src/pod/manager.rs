//! All pods of the node: a worker for each, woken by the runtime's events.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kinit_component_base::supervise;
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::clean;
use super::worker::{Eviction, Wanted, Worker};
use crate::kubelet::Kubelet;
use crate::names::{self, PodKey};

struct Slot {
    key: PodKey,
    wanted: watch::Sender<Wanted>,
    poke: Arc<Notify>,
    ended: CancellationToken,
}

/// The pods of this node. Cheap to clone.
#[derive(Clone)]
pub struct Manager {
    pub(super) kubelet: Arc<Kubelet>,
    slots: Arc<Mutex<HashMap<String, Slot>>>,
    changed: Arc<Notify>,
    happenings: broadcast::Sender<String>,
}

/// Longest pause before another worker takes over.
const LONGEST: Duration = Duration::from_secs(60);

/// How often things that are nobody's are looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

impl Manager {
    /// No pods yet.
    pub fn new(kubelet: Arc<Kubelet>) -> Self {
        Self {
            kubelet,
            slots: Arc::default(),
            changed: Arc::new(Notify::new()),
            happenings: broadcast::Sender::new(256),
        }
    }

    /// A pod is wanted like this from now on.
    pub fn want(&self, uid: &str, wanted: Wanted) {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(uid) {
            slot.wanted.send_modify(|w| {
                let evicted = w.evicted.take();
                *w = Wanted { evicted, ..wanted };
            });
            return;
        }
        let mut key = PodKey::of(&wanted.pod);
        key.uid = uid.to_owned();
        // A pod of the same name must be gone before its successor starts.
        let before: Vec<CancellationToken> = slots
            .values()
            .filter(|s| s.key.name == key.name && s.key.namespace == key.namespace)
            .map(|s| s.ended.clone())
            .collect();
        let (sender, receiver) = watch::channel(wanted);
        let (poke, ended) = (Arc::new(Notify::new()), CancellationToken::new());
        let worker = Worker::new(self.clone(), key.clone(), receiver.clone(), poke.clone());
        let slot = Slot { key: key.clone(), wanted: sender, poke: poke.clone(), ended: ended.clone() };
        slots.insert(uid.to_owned(), slot);
        drop(slots);
        self.changed.notify_waiters();
        let manager = self.clone();
        tokio::spawn(async move {
            for token in before {
                token.cancelled().await;
            }
            // A worker that panics is replaced: its successor learns from the runtime how things are.
            let mut first = Some(worker);
            let work = || {
                let another = || Worker::new(manager.clone(), key.clone(), receiver.clone(), poke.clone());
                first.take().unwrap_or_else(another).run()
            };
            supervise::persist(LONGEST, work).await;
            manager.kubelet.ledger.leave(&key.uid);
            manager.slots.lock().remove(&key.uid);
            ended.cancel();
            manager.changed.notify_waiters();
        });
    }

    /// A pod is gone from its source.
    pub fn removed(&self, uid: &str) {
        if let Some(slot) = self.slots.lock().get(uid) {
            slot.wanted.send_modify(|w| w.removed = true);
            self.kubelet.ledger.removed(uid);
        }
    }

    /// Ends a pod, because the node runs short or a critical pod needs its room.
    pub fn evict(&self, uid: &str, eviction: Eviction) {
        if let Some(slot) = self.slots.lock().get(uid) {
            slot.wanted.send_modify(|w| w.evicted = Some(eviction));
        }
    }

    /// Uids of all pods a source has given, for finding those it no longer gives.
    pub fn uids(&self, is_static: bool) -> Vec<String> {
        self.slots
            .lock()
            .iter()
            .filter(|(_, s)| s.wanted.borrow().is_static == is_static)
            .map(|(u, _)| u.clone())
            .collect()
    }

    /// Tells a static pod the uid of its copy in the API.
    pub fn mirror(&self, uid: &str, api_uid: Option<String>) {
        if let Some(slot) = self.slots.lock().get(uid) {
            slot.wanted.send_if_modified(|w| {
                let changed = w.api_uid != api_uid;
                w.api_uid = api_uid;
                changed
            });
        }
    }

    /// All pods with the newest status known here.
    pub fn pods(&self) -> Vec<Pod> {
        let slots = self.slots.lock();
        slots
            .iter()
            .map(|(uid, slot)| {
                let mut pod = (*slot.wanted.borrow().pod).clone();
                if let Some(status) = self.kubelet.writer.status_of(uid) {
                    pod.status = Some(status);
                }
                pod
            })
            .collect()
    }

    /// The newest state of the pod with this uid.
    pub fn pod(&self, uid: &str) -> Option<Arc<Pod>> {
        self.slots.lock().get(uid).map(|slot| slot.wanted.borrow().pod.clone())
    }

    /// Finds a pod by name: its uid in the runtime and its spec.
    pub fn find(&self, namespace: &str, name: &str) -> Option<(String, Arc<Pod>)> {
        let slots = self.slots.lock();
        let found = slots.iter().find(|(_, s)| s.key.namespace == namespace && s.key.name == name)?;
        Some((found.0.clone(), found.1.wanted.borrow().pod.clone()))
    }

    /// Wakes when pods come or go.
    pub fn changes(&self) -> Arc<Notify> {
        self.changed.clone()
    }

    /// Ids of containers to which something happens.
    pub fn happenings(&self) -> broadcast::Receiver<String> {
        self.happenings.subscribe()
    }

    fn poke_all(&self) {
        self.slots.lock().values().for_each(|s| s.poke.notify_one());
    }

    /// Follows the runtime's events for ever; when the stream breaks (the runtime restarts) every pod is looked at
    /// again.
    pub async fn follow_runtime(self) {
        let mut pause = Duration::from_millis(500);
        loop {
            match self.kubelet.runtime.container_events().await {
                Ok(mut events) => {
                    pause = Duration::from_millis(500);
                    self.poke_all();
                    loop {
                        match events.message().await {
                            Ok(Some(event)) => {
                                // Nobody listening is fine.
                                let _ = self.happenings.send(event.container_id.clone());
                                let uid = event
                                    .pod_sandbox_status
                                    .and_then(|s| s.labels.get(names::POD_UID).cloned().or(s.metadata.map(|m| m.uid)));
                                let slots = self.slots.lock();
                                match uid.and_then(|u| slots.get(&u)) {
                                    Some(slot) => slot.poke.notify_one(),
                                    // A pod's last event may come without its sandbox.
                                    None => slots.values().for_each(|s| s.poke.notify_one()),
                                }
                            }
                            Ok(None) => break,
                            Err(status) => {
                                tracing::warn!(message = status.message(), "the runtime's event stream broke");
                                break;
                            }
                        }
                    }
                }
                Err(error) => tracing::debug!(%error, "follow the runtime's events"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
            self.poke_all();
        }
    }

    /// Removes what belongs to no pod, once all sources have spoken and then regularly.
    pub async fn keep_house(self, sources_ready: CancellationToken) {
        sources_ready.cancelled().await;
        loop {
            let wanted: BTreeSet<String> = self.slots.lock().keys().cloned().collect();
            if let Err(error) = clean::orphans(&self.kubelet, &wanted).await {
                tracing::warn!(%error, "look for orphans");
            }
            tokio::time::sleep(HOUSEKEEPING).await;
        }
    }
}
