//! `nodelifecycle`: notices silent nodes, taints them, and tells their pods' readers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kinit_client::events::Recorder;
use kinit_client::informer::{Change, Store, spawn};
use kinit_client::queue::Queue;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher::Config;
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;

use super::ACCOUNT;
use super::health::{Watcher, Zone, eviction_pause, silent_conditions, zone_of, zone_state};
use super::taints::{Execute, condition_status, wanted};
use crate::context::Context;
use crate::object::pod::{BY_NODE, is_ready, node_index};
use crate::object::{ignore_gone, now};

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client(ACCOUNT).await?;
    let (nodes, pods) = (ctx.store::<Node>(), ctx.store::<Pod>());
    pods.index(BY_NODE, node_index);
    let leases = spawn(Api::<Lease>::namespaced(ctx.root(), "kube-node-lease"), Config::default(), &ctx.shutdown());
    nodes.synced().await;
    leases.synced().await;
    pods.synced().await;
    let recorder = ctx.recorder(client.clone(), ACCOUNT);
    let work =
        Arc::new(Lifecycle { client, nodes: nodes.clone(), pods, leases, recorder, zones: Mutex::new(HashMap::new()) });
    let queue = Queue::new();
    let handler = queue.clone();
    nodes.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            handler.add(change.object().name_any());
        }
    });
    let (monitor, taints) = (work.clone(), work.clone());
    let looking = monitor.monitor(ctx.args().node_monitor_period, ctx.args().node_monitor_grace_period, &ctx, &queue);
    let tainting = queue.clone().run("nodelifecycle", 4, ctx.shutdown(), move |name| taints.clone().taint(name));
    tokio::join!(looking, tainting);
    Ok(())
}

/// A zone's state and when a node of it may be tainted next.
struct Pace {
    state: Zone,
    size: usize,
    next: Instant,
}

struct Lifecycle {
    client: Client,
    nodes: Arc<Store<Node>>,
    pods: Arc<Store<Pod>>,
    leases: Arc<Store<Lease>>,
    recorder: Recorder,
    zones: Mutex<HashMap<String, Pace>>,
}

impl Lifecycle {
    async fn monitor(self: Arc<Self>, period: Duration, grace: Duration, ctx: &Context, queue: &Arc<Queue<String>>) {
        let shutdown = ctx.shutdown();
        let mut tick = tokio::time::interval(period.max(Duration::from_millis(100)));
        let mut watcher = Watcher::default();
        loop {
            tokio::select! { () = shutdown.cancelled() => return, _ = tick.tick() => {} }
            let nodes = self.nodes.list();
            watcher.keep(|name| nodes.iter().any(|n| n.metadata.name.as_deref() == Some(name)));
            self.count(&nodes);
            for node in nodes {
                let name = node.name_any();
                let lease = self.leases.get(&format!("kube-node-lease/{name}"));
                let silence = watcher.silence(&node, lease.as_deref(), Instant::now());
                if silence > grace
                    && let Err(error) = self.declare_silent(&node).await
                {
                    tracing::warn!(node = name, error = format!("{error:#}"), "mark a silent node");
                }
                if condition_status(&node, "Ready") == Some("Unknown") {
                    self.pods_not_ready(&node).await;
                }
                if condition_status(&node, "Ready") != Some("True") {
                    // Its turn to be tainted may have come.
                    queue.add(name);
                }
            }
        }
    }

    /// Notes each zone's state. When all are fully lost, the fault is more likely on our side.
    fn count(&self, nodes: &[Arc<Node>]) {
        let mut counts: HashMap<String, (usize, usize)> = HashMap::new();
        for node in nodes {
            let count = counts.entry(zone_of(node)).or_default();
            if condition_status(node, "Ready") == Some("True") { count.0 += 1 } else { count.1 += 1 }
        }
        let mut zones = self.zones.lock();
        zones.retain(|name, _| counts.contains_key(name));
        for (name, (ready, lost)) in counts {
            let (state, size) = (zone_state(ready, lost), ready + lost);
            let pace = zones.entry(name.clone()).or_insert(Pace { state, size, next: Instant::now() });
            if pace.state != state {
                tracing::info!(zone = name, ?state, ready, lost, "zone state");
            }
            (pace.state, pace.size) = (state, size);
        }
    }

    async fn declare_silent(&self, node: &Node) -> Result<()> {
        let Some(conditions) = silent_conditions(node, &now()) else { return Ok(()) };
        let name = node.name_any();
        let was_ready = condition_status(node, "Ready") == Some("True");
        let patch = json!({"metadata": {"uid": node.uid(), "resourceVersion": node.resource_version()}, "status": {"conditions": conditions}});
        let api: Api<Node> = Api::all(self.client.clone());
        ignore_gone(api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await)
            .context("write the node's conditions")?;
        tracing::warn!(node = name, "the node is silent");
        if was_ready {
            self.recorder.normal(node, "NodeNotReady", format!("Node {name} status is now: NodeNotReady"));
        }
        Ok(())
    }

    /// Pods of a lost node cannot serve: their Ready condition becomes False, so that Services leave them out.
    async fn pods_not_ready(&self, node: &Node) {
        for pod in self.pods.by_index(BY_NODE, &node.name_any()) {
            if !is_ready(&pod) {
                continue;
            }
            let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
            let patch = json!({
                "metadata": {"uid": pod.uid()},
                "status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": now()}]}
            });
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
            self.recorder.warning(&*pod, "NodeNotReady", "Node is not ready");
            if let Err(error) =
                ignore_gone(api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await)
            {
                tracing::warn!(pod = name, namespace, %error, "mark a pod of a lost node as not ready");
            }
        }
    }

    async fn taint(self: Arc<Self>, name: String) -> Result<Option<Duration>> {
        let Some(node) = self.nodes.get(&name) else { return Ok(None) };
        let execute = self.turn(&node);
        let Some(taints) = wanted(&node, execute, &now()) else { return Ok(None) };
        if execute == Execute::Follow && taints.iter().any(|t| t.effect == "NoExecute") {
            self.took_turn(&node);
        }
        let patch = json!({"metadata": {"uid": node.uid(), "resourceVersion": node.resource_version()}, "spec": {"taints": taints}});
        let api: Api<Node> = Api::all(self.client.clone());
        ignore_gone(api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await)
            .with_context(|| format!("change the taints of {name}"))?;
        tracing::info!(node = name, taints = ?taints.iter().map(|t| format!("{}:{}", t.key, t.effect)).collect::<Vec<_>>(), at = %Timestamp::now(), "tainted");
        Ok(None)
    }

    fn turn(&self, node: &Node) -> Execute {
        let zones = self.zones.lock();
        if !zones.is_empty() && zones.values().all(|pace| pace.state == Zone::Full) {
            return Execute::Withdraw;
        }
        match zones.get(&zone_of(node)) {
            None => Execute::Hold,
            Some(pace) if eviction_pause(pace.state, pace.size).is_none() || Instant::now() < pace.next => {
                Execute::Hold
            }
            Some(_) => Execute::Follow,
        }
    }

    fn took_turn(&self, node: &Node) {
        if let Some(pace) = self.zones.lock().get_mut(&zone_of(node))
            && let Some(pause) = eviction_pause(pace.state, pace.size)
        {
            pace.next = Instant::now() + pause;
        }
    }
}
