//! `podgc`: pods nobody will ever finish deleting (`pkg/controller/podgc`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kinit_client::informer::Store;
use kinit_component_helpers::pod::{disruption_target, is_terminal, node_name};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::context::Context;
use crate::node::taints::{OUT_OF_SERVICE, condition_status};
use crate::object::ignore_gone;

const PERIOD: Duration = Duration::from_secs(20);
/// How long a node must be missing before its pods are orphans.
const QUARANTINE: Duration = Duration::from_secs(40);

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("pod-garbage-collector").await?;
    let (pods, nodes) = (ctx.store::<Pod>(), ctx.store::<Node>());
    pods.synced().await;
    nodes.synced().await;
    let shutdown = ctx.shutdown();
    let mut collector = Collector { client, nodes, missing: HashMap::new() };
    let mut tick = tokio::time::interval(PERIOD);
    loop {
        tokio::select! { () = shutdown.cancelled() => return Ok(()), _ = tick.tick() => {} }
        let pods = pods.list();
        let gone = collector.gone_nodes(&pods).await;
        let out = out_of_service(&collector.nodes.list());
        for (pod, why) in doomed(&pods, &gone, &out, ctx.args().terminated_pod_gc_threshold) {
            if let Err(error) = collector.delete(&pod, why).await {
                tracing::warn!(pod = pod.name_any(), error = format!("{error:#}"), "delete a pod");
            }
        }
    }
}

/// Why a pod goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Terminated,
    Orphaned,
    UnscheduledTerminating,
    OutOfService,
}

fn doomed(
    pods: &[Arc<Pod>],
    gone: &HashSet<String>,
    out_of_service: &HashSet<String>,
    threshold: usize,
) -> Vec<(Arc<Pod>, Why)> {
    let mut doomed = Vec::new();
    let mut terminated: Vec<&Arc<Pod>> = pods.iter().filter(|p| is_terminal(p)).collect();
    if threshold > 0 && terminated.len() > threshold {
        terminated.sort_by_key(|p| (p.metadata.creation_timestamp.as_ref().map(|t| t.0), p.name_any()));
        let excess = terminated.len() - threshold;
        doomed.extend(terminated.into_iter().take(excess).map(|p| (p.clone(), Why::Terminated)));
    }
    for pod in pods {
        let deleting = pod.metadata.deletion_timestamp.is_some();
        let why = match node_name(pod) {
            None if deleting => Why::UnscheduledTerminating,
            Some(node) if gone.contains(node) => Why::Orphaned,
            Some(node) if deleting && out_of_service.contains(node) => Why::OutOfService,
            _ => continue,
        };
        doomed.push((pod.clone(), why));
    }
    doomed
}

fn out_of_service(nodes: &[Arc<Node>]) -> HashSet<String> {
    let marked = |n: &Node| n.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|t| t.key == OUT_OF_SERVICE);
    nodes.iter().filter(|n| condition_status(n, "Ready") != Some("True") && marked(n)).map(|n| n.name_any()).collect()
}

struct Collector {
    client: Client,
    nodes: Arc<Store<Node>>,
    missing: HashMap<String, Instant>,
}

impl Collector {
    /// Nodes that pods name, that the store has not had for the quarantine, and that the API server says do not exist.
    async fn gone_nodes(&mut self, pods: &[Arc<Pod>]) -> HashSet<String> {
        let named: HashSet<&str> = pods.iter().filter_map(|p| node_name(p)).collect();
        let absent: HashSet<&str> = named.into_iter().filter(|n| self.nodes.get(n).is_none()).collect();
        self.missing.retain(|name, _| absent.contains(name.as_str()));
        let mut gone = HashSet::new();
        for name in absent {
            let since = *self.missing.entry(name.to_owned()).or_insert_with(Instant::now);
            if since.elapsed() < QUARANTINE {
                continue;
            }
            let api: Api<Node> = Api::all(self.client.clone());
            match api.get_opt(name).await {
                Ok(None) => {
                    gone.insert(name.to_owned());
                }
                Ok(Some(_)) => {}
                Err(error) => tracing::warn!(node = name, %error, "check whether a node exists"),
            }
        }
        gone
    }

    async fn delete(&self, pod: &Pod, why: Why) -> Result<()> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        if !is_terminal(pod) && why != Why::Terminated {
            let mut status = json!({"phase": "Failed"});
            if why == Why::Orphaned {
                let message = "PodGC: node no longer exists";
                status["conditions"] = json!([disruption_target("DeletionByPodGC", message, Timestamp::now())]);
            }
            let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
            ignore_gone(api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await)
                .with_context(|| format!("mark pod {namespace}/{name} as failed"))?;
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
            ..Default::default()
        };
        ignore_gone(api.delete(&name, &params).await).with_context(|| format!("delete pod {namespace}/{name}"))?;
        tracing::info!(pod = name, namespace, ?why, "collected");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: Option<&str>, phase: &str, deleting: bool, created: i64) -> Arc<Pod> {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "creationTimestamp": jiff::Timestamp::from_second(created).unwrap().to_string()},
            "spec": {"containers": [], "nodeName": node}, "status": {"phase": phase}
        }))
        .unwrap();
        pod.metadata.deletion_timestamp = deleting.then(crate::object::now);
        Arc::new(pod)
    }

    #[test]
    fn who_goes() {
        let pods = [
            pod("old", Some("a"), "Succeeded", false, 1),
            pod("new", Some("a"), "Failed", false, 2),
            pod("runs", Some("a"), "Running", false, 3),
            pod("orphan", Some("gone"), "Running", false, 3),
            pod("unscheduled", None, "Pending", true, 3),
            pod("pending", None, "Pending", false, 3),
            pod("stuck", Some("off"), "Running", true, 3),
        ];
        let (gone, off) = (HashSet::from(["gone".to_owned()]), HashSet::from(["off".to_owned()]));
        let names = |threshold| -> Vec<(String, Why)> {
            doomed(&pods, &gone, &off, threshold).into_iter().map(|(p, w)| (p.name_any(), w)).collect()
        };
        let always =
            [("orphan", Why::Orphaned), ("unscheduled", Why::UnscheduledTerminating), ("stuck", Why::OutOfService)];
        let always: Vec<(String, Why)> = always.iter().map(|(n, w)| ((*n).to_owned(), *w)).collect();
        assert_eq!(names(0), always);
        assert_eq!(names(2), always);
        assert_eq!(names(1)[0], ("old".to_owned(), Why::Terminated));
    }
}
