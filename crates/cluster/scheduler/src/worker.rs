//! Takes pods from the queue one at a time and binds them; feeds the cache and the queue from the informers.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod, ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Status, Time};
use kinit_client::events::Recorder;
use kinit_client::informer::{Change, Store, key_of};
use kinit_component_base::Shutdown;
use kinit_component_base::supervise::{guarded, guarded_sync};
use kinit_component_helpers::pod::{disruption_target, is_terminal, node_name};
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{Expression, Selector};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;

use crate::cache::{Cache, Snapshot};
use crate::metrics::{Outcome, attempted};
use crate::plugins::Surroundings;
use crate::plugins::volumes::gather;
use crate::pod_info::PodInfo;
use crate::preempt::{Budget, Preemption, preempt, priority};
use crate::queue::{ClusterEvent, Queue, Turn};
use crate::schedule::{NoFit, schedule};
use crate::volumes::{Place, VolumeStores, Volumes};

/// The one profile.
pub const PROFILE: &str = "default-scheduler";

/// The shared stores.
pub struct Stores {
    /// All pods that are not over.
    pub pods: Arc<Store<Pod>>,
    /// All nodes.
    pub nodes: Arc<Store<Node>>,
    /// For namespace selectors.
    pub namespaces: Arc<Store<Namespace>>,
    /// For the default spread.
    pub services: Arc<Store<Service>>,
    /// For the default spread.
    pub replica_sets: Arc<Store<ReplicaSet>>,
    /// For the default spread.
    pub stateful_sets: Arc<Store<StatefulSet>>,
    /// For the default spread.
    pub replication_controllers: Arc<Store<ReplicationController>>,
    /// For preemption.
    pub budgets: Arc<Store<PodDisruptionBudget>>,
    /// For the volume plugins.
    pub volumes: VolumeStores,
}

impl Stores {
    /// Waits for the first lists.
    pub async fn synced(&self) {
        self.nodes.synced().await;
        self.pods.synced().await;
        self.namespaces.synced().await;
        self.services.synced().await;
        self.replica_sets.synced().await;
        self.stateful_sets.synced().await;
        self.replication_controllers.synced().await;
        self.budgets.synced().await;
        self.volumes.synced().await;
    }
}

/// See the module.
pub struct Worker {
    client: Client,
    stores: Stores,
    cache: Arc<Cache>,
    queue: Arc<Queue>,
    recorder: Recorder,
    volumes: Volumes,
    /// Pods for which room was made, by key: where, and what they need.
    nominated: Mutex<HashMap<String, (String, Arc<PodInfo>)>>,
}

impl Worker {
    /// Hooks cache and queue up to the stores.
    pub fn new(client: Client, stores: Stores, recorder: Recorder) -> Arc<Self> {
        let (cache, queue) = (Arc::new(Cache::default()), Arc::new(Queue::default()));
        watch_nodes(&stores.nodes, &cache, &queue);
        watch_pods(&stores.pods, &cache, &queue);
        let on_namespace = queue.clone();
        stores.namespaces.on_change(move |_| on_namespace.happened(ClusterEvent::Namespace));
        let on_volume = queue.clone();
        let volumes = Volumes::new(stores.volumes.clone(), stores.pods.clone(), move || {
            on_volume.happened(ClusterEvent::Volumes)
        });
        Arc::new(Self { client, stores, cache, queue, recorder, volumes, nominated: Mutex::default() })
    }

    /// Schedules until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: Shutdown) {
        loop {
            let turn = tokio::select! { () = shutdown.cancelled() => return, turn = self.queue.pop() => turn };
            // A pod that makes a plugin panic is no reason to leave all others waiting.
            let started = Instant::now();
            if guarded_sync("scheduling of a pod", || self.clone().try_one(turn.clone())).is_err() {
                attempted(Outcome::Error, started.elapsed());
                self.queue.put_back(&turn, BTreeSet::new());
            }
        }
    }

    /// Decides without waiting; what has to be written is written in the background.
    fn try_one(self: Arc<Self>, turn: Turn) {
        let started = Instant::now();
        let Some(pod) = self.stores.pods.get(&turn.key).filter(|p| wants_node(p)) else { return };
        if self.cache.is_assumed(&turn.key, &pod.uid().unwrap_or_default()) {
            return;
        }
        let info = PodInfo::new(pod.clone());
        let labels = |name: &str| self.stores.namespaces.get(name).and_then(|n| n.metadata.labels.clone());
        let volumes = gather(&pod, &self.volumes);
        let around = Surroundings { namespace_labels: &labels, workload: self.workload(&pod), volumes: &volumes };
        let mut pick = |count: usize| rand::random_range(0..count.max(1));
        let snapshot = self.with_nominated(&turn.key, &info);
        match schedule(&info, &snapshot, &around, &mut pick) {
            Ok(node) => {
                self.nominated.lock().remove(&turn.key);
                let place = Place::new(&snapshot, node, &volumes);
                self.cache.assume(&info, &place.node);
                self.volumes.reserve(&place.choice, &place.node);
                tokio::spawn(async move {
                    let choice = place.choice.clone();
                    if guarded("binding of a pod", self.clone().bind(turn.clone(), pod, place, started)).await.is_err()
                    {
                        self.cache.forget(&turn.key);
                        self.queue.put_back(&turn, BTreeSet::new());
                    }
                    self.volumes.release(&choice);
                });
            }
            Err(no_fit) => {
                tracing::debug!(pod = turn.key, message = no_fit.message, "no node");
                let budgets: Vec<Budget> = self.stores.budgets.list().iter().filter_map(|b| Budget::of(b)).collect();
                let preemption = preempt(&info, &snapshot, &around, &budgets);
                attempted(Outcome::Unschedulable, started.elapsed());
                if let Some(preemption) = &preemption {
                    let place = (preemption.node.clone(), info.clone());
                    self.nominated.lock().insert(turn.key.clone(), place);
                }
                tokio::spawn(async move {
                    // Whatever becomes of the report, the pod is to be tried again.
                    let _ = guarded("report of a pod", self.report(&pod, "Unschedulable", &no_fit)).await;
                    // Before the victims go: their end must find the pod waiting.
                    self.queue.put_back(&turn, no_fit.plugins);
                    if let Some(preemption) = preemption
                        && let Ok(Err(error)) = guarded("preemption", self.make_room(&pod, &preemption)).await
                    {
                        tracing::warn!(pod = turn.key, error = format!("{error:#}"), "preempt");
                    }
                });
            }
        }
    }

    /// The snapshot with pods on it that wait for room made for them, unless they matter less than this one.
    fn with_nominated(&self, key: &str, pod: &PodInfo) -> Snapshot {
        let mut snapshot = self.cache.snapshot();
        let mut nominated = self.nominated.lock();
        nominated.retain(|key, _| self.stores.pods.get(key).is_some_and(|p| wants_node(&p)));
        for (other_key, (node, other)) in nominated.iter() {
            if other_key == key
                || priority(other) < priority(pod)
                || self.cache.is_assumed(other_key, &other.pod.uid().unwrap_or_default())
            {
                continue;
            }
            if let Some(info) = snapshot.iter_mut().find(|n| n.name() == *node) {
                Arc::make_mut(info).add(other_key, other.clone());
            }
        }
        snapshot
    }

    /// Ends the victims and says for whom the room is.
    async fn make_room(&self, pod: &Pod, preemption: &Preemption) -> Result<()> {
        let name = pod.name_any();
        for key in &preemption.victims {
            let Some(victim) = self.stores.pods.get(key).filter(|v| v.metadata.deletion_timestamp.is_none()) else {
                continue;
            };
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &victim.namespace().unwrap_or_default());
            let message = format!("{PROFILE}: preempting to accommodate a higher priority pod");
            let condition = disruption_target("PreemptionByScheduler", &message, jiff::Timestamp::now());
            let patch = json!({"metadata": {"uid": victim.uid()}, "status": {"conditions": [condition]}});
            gone(api.patch_status(&victim.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await)
                .with_context(|| format!("mark pod {key} as preempted"))?;
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid: victim.uid(), resource_version: None }),
                ..Default::default()
            };
            gone(api.delete(&victim.name_any(), &params).await).with_context(|| format!("preempt pod {key}"))?;
            let note = format!("Preempted by pod {} on node {}", pod.uid().unwrap_or_default(), preemption.node);
            self.recorder.normal(&*victim, "Preempted", note);
            tracing::info!(victim = key, by = name, node = preemption.node, "preempted");
        }
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"nominatedNodeName": preemption.node}});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        gone(api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await)
            .context("write the nominated node")?;
        Ok(())
    }

    /// The selector of the Services, ReplicaSet, ReplicationController or StatefulSet the pod belongs to
    /// (`helper.DefaultSelector`).
    fn workload(&self, pod: &Pod) -> Option<Selector> {
        let namespace = pod.namespace().unwrap_or_default();
        let mut selector = Selector::default();
        for service in self.stores.services.in_namespace(&namespace) {
            let labels = service.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
            if !labels.is_empty() && labels.iter().all(|(k, v)| pod.labels().get(k) == Some(v)) {
                selector.extend(labels.into_iter().map(|(k, v)| Expression::Equal(k, v)));
            }
        }
        let owner = pod.owner_references().iter().find(|o| o.controller == Some(true));
        let own = owner.and_then(|owner| self.selector_of(&format!("{namespace}/{}", owner.name), &owner.kind));
        if let Some(own) = own.and_then(|own| Selector::try_from(own).ok()) {
            selector.extend(own);
        }
        (!selector.selects_all()).then_some(selector)
    }

    fn selector_of(&self, key: &str, kind: &str) -> Option<LabelSelector> {
        match kind {
            "ReplicaSet" => self.stores.replica_sets.get(key)?.spec.as_ref().map(|s| s.selector.clone()),
            "StatefulSet" => self.stores.stateful_sets.get(key)?.spec.as_ref().map(|s| s.selector.clone()),
            "ReplicationController" => {
                let match_labels = self.stores.replication_controllers.get(key)?.spec.as_ref()?.selector.clone();
                Some(LabelSelector { match_labels, match_expressions: None })
            }
            _ => None,
        }
    }

    async fn bind(self: Arc<Self>, turn: Turn, pod: Arc<Pod>, place: Place, started: Instant) {
        let written = match self.bind_volumes(&pod, &place).await {
            Ok(()) => self.write_binding(&pod, &place.node).await,
            failed => failed,
        };
        let node = place.node;
        match written {
            Ok(()) => {
                tracing::info!(pod = turn.key, node, "bound");
                attempted(Outcome::Scheduled, started.elapsed());
                self.queue.remove(&turn.key);
                self.recorder.normal(&*pod, "Scheduled", format!("Successfully assigned {} to {node}", turn.key));
            }
            Err(error) => {
                self.cache.forget(&turn.key);
                if self.stores.pods.get(&turn.key).is_none_or(|p| !wants_node(&p)) {
                    return self.queue.remove(&turn.key);
                }
                tracing::warn!(pod = turn.key, node, error = format!("{error:#}"), "bind");
                attempted(Outcome::Error, started.elapsed());
                let no_fit = NoFit { message: format!("{error:#}"), plugins: BTreeSet::new() };
                self.report(&pod, "SchedulerError", &no_fit).await;
                self.queue.put_back(&turn, BTreeSet::new());
            }
        }
    }

    /// The pod's claims come first: a kubelet starts no pod whose claims are not bound.
    async fn bind_volumes(&self, pod: &Pod, place: &Place) -> Result<()> {
        if place.choice.is_empty() {
            return Ok(());
        }
        let object = place.object.as_ref().context("the node is gone")?;
        self.volumes.bind(&self.client, &place.choice, pod, object).await
    }

    async fn write_binding(&self, pod: &Pod, node: &str) -> Result<()> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                uid: pod.uid(),
                ..Default::default()
            },
            target: ObjectReference { kind: Some("Node".into()), name: Some(node.to_owned()), ..Default::default() },
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let _: Status = api
            .create_subresource("binding", &name, &PostParams::default(), &binding)
            .await
            .with_context(|| format!("bind pod {namespace}/{name} to {node}"))?;
        Ok(())
    }

    /// Says so in the pod's condition and in an event.
    async fn report(&self, pod: &Pod, reason: &str, no_fit: &NoFit) {
        self.recorder.warning(pod, "FailedScheduling", no_fit.message.clone());
        let had = pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "PodScheduled");
        let said = had.is_some_and(|c| {
            c.status == "False" && c.reason.as_deref() == Some(reason) && c.message.as_ref() == Some(&no_fit.message)
        });
        if said {
            return;
        }
        let since = had.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason, "message": no_fit.message,
            "lastTransitionTime": since.unwrap_or_else(|| Time(jiff::Timestamp::now()))
        });
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        match api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            Err(error) => tracing::warn!(pod = pod.name_any(), %error, "write the pod's PodScheduled condition"),
        }
    }
}

fn gone<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        result => result.map(drop),
    }
}

/// Whether this scheduler is to find a node for the pod now.
fn wants_node(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let unassigned = spec.node_name.as_deref().unwrap_or("").is_empty();
    let ours = spec.scheduler_name.as_deref().unwrap_or(PROFILE) == PROFILE;
    let gated = spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty());
    unassigned && ours && !gated && pod.metadata.deletion_timestamp.is_none() && !is_terminal(pod)
}

fn watch_nodes(nodes: &Arc<Store<Node>>, cache: &Arc<Cache>, queue: &Arc<Queue>) {
    let (cache, queue) = (cache.clone(), queue.clone());
    nodes.on_change(move |change| match change {
        Change::Deleted(node) => cache.remove_node(&node.name_any()),
        Change::Added(node) => {
            cache.set_node(node);
            queue.happened(ClusterEvent::Node);
        }
        Change::Updated { old, new } => {
            cache.set_node(new);
            // Heartbeats help nobody.
            let matters = |n: &Node| {
                (n.metadata.labels.clone(), n.spec.clone(), n.status.as_ref().and_then(|s| s.allocatable.clone()))
            };
            if matters(old) != matters(new) {
                queue.happened(ClusterEvent::Node);
            }
        }
    });
}

fn watch_pods(pods: &Arc<Store<Pod>>, cache: &Arc<Cache>, queue: &Arc<Queue>) {
    let (cache, queue) = (cache.clone(), queue.clone());
    pods.on_change(move |change| {
        let pod = change.object();
        let key = key_of(&**pod);
        let gone = matches!(change, Change::Deleted(_)) || is_terminal(pod);
        let before = change.old();
        if gone {
            cache.remove_pod(&key);
            queue.remove(&key);
            let was_there = node_name(pod).is_some() && before.is_none_or(|old| !is_terminal(old));
            if was_there {
                queue.happened(ClusterEvent::PodGone);
            }
            return;
        }
        match node_name(pod) {
            Some(node) => {
                cache.set_pod(pod, node);
                queue.remove(&key);
                let fresh =
                    before.is_none_or(|old| node_name(old).is_none() || old.metadata.labels != pod.metadata.labels);
                if fresh {
                    queue.happened(ClusterEvent::PodAssigned);
                }
            }
            None if wants_node(pod) => {
                // Our own writes to the status are no reason to try again.
                let changed = before.is_none_or(|old| {
                    old.spec != pod.spec || old.metadata.labels != pod.metadata.labels || old.uid() != pod.uid()
                });
                if changed {
                    queue.add(&key, pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0));
                }
            }
            None => queue.remove(&key),
        }
    });
}
