//! `nodelifecycle`: notices silent nodes, taints them, and tells their pods' readers.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kinit_client::events::Recorder;
use kinit_client::informer::{Change, Store};
use kinit_client::queue::Queue;
use kinit_component_helpers::pod::is_ready;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;

use super::ACCOUNT;
use super::health::{silent_conditions, zone_of};
use super::observer::Observer;
use super::pace::Zones;
use super::taints::{Execute, condition_status, wanted};
use crate::context::Context;
use crate::object::pod::{BY_NODE, node_index};
use crate::object::{ignore_gone, now};

/// So many pods of a lost node are written to at once.
const AT_ONCE: usize = 10;

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client(ACCOUNT).await?;
    let (nodes, pods) = (ctx.store::<Node>(), ctx.store::<Pod>());
    pods.index(BY_NODE, node_index);
    let observer = ctx.observer();
    observer.synced().await;
    pods.synced().await;
    let recorder = ctx.recorder(client.clone(), ACCOUNT);
    let work = Arc::new(Lifecycle { client, nodes: nodes.clone(), pods, observer, recorder, zones: Mutex::default() });
    let (taints, unready) = (Queue::new(), Queue::new());
    let (on_taints, on_unready) = (taints.clone(), unready.clone());
    nodes.on_change(move |change| {
        if matches!(change, Change::Deleted(_)) {
            return;
        }
        let name = change.object().name_any();
        if lost_its_readiness(change) {
            on_unready.add(name.clone());
        }
        on_taints.add(name);
    });
    let (tainter, marker) = (work.clone(), work.clone());
    let looking = work.monitor(&ctx, &taints, &unready);
    let tainting = taints.clone().run("nodelifecycle", 4, ctx.shutdown(), move |name| tainter.clone().taint(name));
    let marking = unready.clone().run("node-pods", 4, ctx.shutdown(), move |name| marker.clone().pods_not_ready(name));
    tokio::join!(looking, tainting, marking);
    Ok(())
}

/// Whether the pods of the node can no longer be believed to serve: it was ready and is not, or nobody knows.
fn lost_its_readiness(change: &Change<Node>) -> bool {
    let was = change.old().is_some_and(|old| condition_status(old, "Ready") == Some("True"));
    match condition_status(change.object(), "Ready") {
        Some("True") => false,
        Some("Unknown") => true,
        _ => was,
    }
}

struct Lifecycle {
    client: Client,
    nodes: Arc<Store<Node>>,
    pods: Arc<Store<Pod>>,
    observer: Arc<Observer>,
    recorder: Recorder,
    zones: Mutex<Zones>,
}

impl Lifecycle {
    async fn monitor(&self, ctx: &Context, taints: &Arc<Queue<String>>, unready: &Arc<Queue<String>>) {
        let (shutdown, grace) = (ctx.shutdown(), ctx.args().node_monitor_grace_period);
        let mut tick = tokio::time::interval(ctx.args().node_monitor_period.max(Duration::from_millis(100)));
        loop {
            tokio::select! { () = shutdown.cancelled() => return, _ = tick.tick() => {} }
            let nodes = self.nodes.list();
            self.observer.forget_absent();
            let silent = self.silent(&nodes, grace).await;
            let is_ready = |n: &Node| condition_status(n, "Ready") == Some("True") && !silent.contains(&n.name_any());
            // Before anything is written: what is done about one node depends on how many are lost with it.
            let states = nodes.iter().map(|n| (zone_of(n), is_ready(n)));
            self.zones.lock().count(states, Instant::now(), grace);
            for node in &nodes {
                let name = node.name_any();
                if silent.contains(&name)
                    && let Err(error) = self.declare_silent(node).await
                {
                    tracing::warn!(node = name, error = format!("{error:#}"), "mark a silent node");
                }
                if condition_status(node, "Ready") == Some("Unknown") {
                    unready.add(name.clone());
                }
                if !is_ready(node) {
                    // Its turn to be tainted may have come.
                    taints.add(name);
                }
            }
        }
    }

    /// The nodes that have been silent for longer than `grace`.
    async fn silent(&self, nodes: &[Arc<Node>], grace: Duration) -> HashSet<String> {
        let mut silent = HashSet::new();
        for node in nodes.iter().filter(|n| self.observer.silence(n) > grace) {
            let name = node.name_any();
            if silent_conditions(node, &now()).is_none() {
                silent.insert(name);
                continue;
            }
            match self.observer.is_confirmed(node).await {
                Ok(true) => drop(silent.insert(name)),
                Ok(false) => tracing::info!(node = name, "the node is alive: its lease was seen late"),
                Err(error) => {
                    tracing::warn!(node = name, error = format!("{error:#}"), "confirm that a node is silent");
                }
            }
        }
        silent
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
    async fn pods_not_ready(self: Arc<Self>, name: String) -> Result<Option<Duration>> {
        let node = self.nodes.get(&name);
        if node.is_none_or(|n| condition_status(&n, "Ready") == Some("True")) {
            return Ok(None);
        }
        let ready = self.pods.by_index(BY_NODE, &name).into_iter().filter(|p| is_ready(p));
        let writes = futures::stream::iter(ready).map(|pod| self.pod_not_ready(pod)).buffer_unordered(AT_ONCE);
        let results: Vec<Result<()>> = writes.collect().await;
        results.into_iter().collect::<Result<Vec<()>>>()?;
        Ok(None)
    }

    async fn pod_not_ready(&self, pod: Arc<Pod>) -> Result<()> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let patch = json!({
            "metadata": {"uid": pod.uid()},
            "status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": now()}]}
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        self.recorder.warning(&*pod, "NodeNotReady", "Node is not ready");
        ignore_gone(api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await)
            .with_context(|| format!("mark pod {namespace}/{name} of a lost node as not ready"))?;
        Ok(())
    }

    async fn taint(self: Arc<Self>, name: String) -> Result<Option<Duration>> {
        let Some(node) = self.nodes.get(&name) else { return Ok(None) };
        let at = now();
        // Whether its turn would be used: whether following differs from holding.
        let adds = wanted(&node, Execute::Follow, &at) != wanted(&node, Execute::Hold, &at);
        let zone = zone_of(&node);
        let execute = self.zones.lock().turn(&zone, adds, Instant::now());
        let Some(taints) = wanted(&node, execute, &at) else { return Ok(None) };
        let patch = json!({"metadata": {"uid": node.uid(), "resourceVersion": node.resource_version()}, "spec": {"taints": taints}});
        let api: Api<Node> = Api::all(self.client.clone());
        if let Err(error) = ignore_gone(api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await) {
            if adds && execute == Execute::Follow {
                self.zones.lock().give_back(&zone, Instant::now());
            }
            return Err(error).with_context(|| format!("change the taints of {name}"));
        }
        tracing::info!(node = name, taints = ?taints.iter().map(|t| format!("{}:{}", t.key, t.effect)).collect::<Vec<_>>(), at = %Timestamp::now(), "tainted");
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_pods_are_no_longer_believed() {
        let node = |ready: &str| -> Arc<Node> {
            let status = json!({"conditions": [{"type": "Ready", "status": ready}]});
            Arc::new(serde_json::from_value(json!({"metadata": {"name": "n"}, "status": status})).unwrap())
        };
        let turned = |old: &str, new: &str| Change::Updated { old: node(old), new: node(new) };
        for (change, expected) in [
            (turned("True", "Unknown"), true),
            (turned("True", "False"), true),
            (turned("False", "False"), false),
            (turned("Unknown", "True"), false),
            (Change::Added(node("Unknown")), true),
            (Change::Added(node("False")), false),
        ] {
            assert_eq!(lost_its_readiness(&change), expected, "{change:?}");
        }
    }
}
