//! `taint-eviction`: deletes pods that do not tolerate their node's `NoExecute` taints, at once or when their time is
//! up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kinit_client::events::Recorder;
use kinit_client::informer::{Store, key_of};
use kinit_client::queue::Queue;
use kinit_component_helpers::pod::{disruption_target, node_name};
use kinit_component_helpers::taints::tolerates;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;

use super::ACCOUNT;
use crate::context::Context;
use crate::object::ignore_gone;
use crate::object::pod::{BY_NODE, node_index};

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client(ACCOUNT).await?;
    let (nodes, pods) = (ctx.store::<Node>(), ctx.store::<Pod>());
    pods.index(BY_NODE, node_index);
    nodes.synced().await;
    pods.synced().await;
    let queue = Queue::new();
    let (on_pod, on_node, of_node) = (queue.clone(), queue.clone(), pods.clone());
    pods.on_change(move |change| {
        // A pod's own status changes nothing here.
        let same = |old: &Pod, new: &Pod| {
            old.spec == new.spec && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        };
        if !change.old().is_some_and(|old| same(old, change.object())) {
            on_pod.add(key_of(&**change.object()));
        }
    });
    nodes.on_change(move |change| {
        let same = change.old().is_some_and(|old| no_execute(old) == no_execute(change.object()));
        if !same {
            of_node.by_index(BY_NODE, &change.object().name_any()).iter().for_each(|pod| on_node.add(key_of(&**pod)));
        }
    });
    let recorder = ctx.recorder(client.clone(), "taint-eviction-controller");
    let work = Arc::new(Eviction { client, nodes, pods, recorder, first: Mutex::default() });
    queue.run("taint-eviction", 4, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.filter(|t| t.effect == "NoExecute").cloned().collect()
}

/// When the pod must go: `None` for never. Of several taints, each with the shortest of its tolerations, the earliest
/// counts. A taint that does not say since when counts from `first`, when the pod was first seen with it.
fn deadline(taints: &[Taint], tolerations: &[Toleration], first: Timestamp, now: Timestamp) -> Option<Timestamp> {
    taints
        .iter()
        .filter_map(|taint| {
            let mut matching = tolerations.iter().filter(|t| tolerates(t, taint)).peekable();
            if matching.peek().is_none() {
                return Some(now);
            }
            let seconds = matching.filter_map(|t| t.toleration_seconds).map(|s| s.max(0)).min()?;
            let since = taint.time_added.as_ref().map_or(first, |t| t.0);
            since.checked_add(SignedDuration::from_secs(seconds)).ok()
        })
        .min()
}

struct Eviction {
    client: Client,
    nodes: Arc<Store<Node>>,
    pods: Arc<Store<Pod>>,
    recorder: Recorder,
    /// Since when pods have been seen on nodes with such taints, by key.
    first: Mutex<HashMap<String, Timestamp>>,
}

impl Eviction {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let pod = self.pods.get(&key).filter(|p| p.metadata.deletion_timestamp.is_none());
        let node = pod.as_ref().and_then(|p| self.nodes.get(node_name(p)?));
        let taints = node.map(|n| no_execute(&n)).unwrap_or_default();
        let Some(pod) = pod.filter(|_| !taints.is_empty()) else {
            self.first.lock().remove(&key);
            return Ok(None);
        };
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
        let at = Timestamp::now();
        let first = *self.first.lock().entry(key.clone()).or_insert(at);
        match deadline(&taints, tolerations, first, at) {
            None => Ok(None),
            Some(due) if due > at => Ok(Duration::try_from(due.duration_since(at)).ok()),
            Some(_) => self.evict(&pod).await,
        }
    }

    async fn evict(&self, pod: &Pod) -> Result<Option<Duration>> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let message = "Taint manager: deleting due to NoExecute taint";
        let condition = disruption_target("DeletionByTaintManager", message, Timestamp::now());
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
        ignore_gone(api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await)
            .with_context(|| format!("mark pod {namespace}/{name} for eviction"))?;
        self.recorder.normal(pod, "TaintManagerEviction", format!("Marking for deletion Pod {namespace}/{name}"));
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
            ..Default::default()
        };
        ignore_gone(api.delete(&name, &params).await).with_context(|| format!("evict pod {namespace}/{name}"))?;
        tracing::info!(pod = name, namespace, "evicted by a NoExecute taint");
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let taint = |key: &str| Taint {
            key: key.into(),
            effect: "NoExecute".into(),
            value: None,
            time_added: Some("2026-01-01T00:58:00Z".parse::<Timestamp>().unwrap().into()),
        };
        let tolerates = |key: &str, seconds: Option<i64>| Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            toleration_seconds: seconds,
            ..Default::default()
        };
        for (taints, tolerations, wait) in [
            (vec![], vec![], None),
            (vec![taint("a")], vec![], Some(0)),
            (vec![taint("a")], vec![tolerates("a", None)], None),
            (vec![taint("a")], vec![tolerates("a", Some(300))], Some(180)),
            (vec![taint("a")], vec![tolerates("a", Some(60))], Some(-60)),
            (vec![taint("a"), taint("b")], vec![tolerates("a", Some(300))], Some(0)),
            (vec![taint("a")], vec![tolerates("a", Some(300)), tolerates("a", Some(200))], Some(80)),
            (vec![Taint { time_added: None, ..taint("a") }], vec![tolerates("a", Some(100))], Some(40)),
        ] {
            let first = "2026-01-01T00:59:00Z".parse().unwrap();
            let got = deadline(&taints, &tolerations, first, now).map(|at| at.duration_since(now).as_secs());
            assert_eq!(got, wait, "{taints:?} {tolerations:?}");
        }
    }
}
