//! Draining a node, as `kubectl drain` does: cordon, evict, wait.
//!
//! Pods of DaemonSets and mirror pods stay; their controllers would put them back. What needs a decision (data in
//! emptyDir volumes, pods that nobody makes again) is found before anything is changed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kinit_apimachinery::well_known::MIRROR_POD;
use kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams};
use kube::core::{Selector, SelectorExt};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::json;

/// kubectl's flags.
#[derive(Debug, Clone)]
pub struct DrainOptions {
    /// How long it may take in all.
    pub timeout: Duration,
    /// Pods with data in emptyDir volumes go as well; the data is lost.
    pub delete_emptydir_data: bool,
    /// Pods that no controller makes again go as well.
    pub force: bool,
    /// Delete pods instead of evicting them: PodDisruptionBudgets are ignored.
    pub disable_eviction: bool,
    /// Seconds that pods get to end; by default their own.
    pub grace_period: Option<u32>,
}

impl Default for DrainOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(300),
            delete_emptydir_data: false,
            force: false,
            disable_eviction: false,
            grace_period: None,
        }
    }
}

/// Between two tries of an eviction that a budget forbids, as kubectl waits.
const PAUSE: Duration = Duration::from_secs(1);

/// What speaks against draining the node, a line each.
pub async fn obstacles(client: &Client, node: &str, options: &DrainOptions) -> Result<Vec<String>> {
    Ok(pods(client, node).await?.iter().filter_map(|pod| obstacle(pod, options)).collect())
}

/// Budgets that forbid the eviction of a pod of the node now, a line each.
pub async fn budgets(client: &Client, node: &str) -> Result<Vec<String>> {
    let going: Vec<Pod> = pods(client, node).await?.into_iter().filter(|pod| goes(pod) && !is_finished(pod)).collect();
    if going.is_empty() {
        return Ok(Vec::new());
    }
    let api = Api::<PodDisruptionBudget>::all(client.clone());
    let list = api.list(&ListParams::default()).await.context("list the PodDisruptionBudgets")?;
    let allowed = |budget: &PodDisruptionBudget| budget.status.as_ref().and_then(|status| status.disruptions_allowed);
    let tight = list.items.into_iter().filter(|budget| allowed(budget).unwrap_or(0) < 1);
    let mut found = Vec::new();
    for budget in tight {
        let name = format!(
            "{}/{}",
            budget.metadata.namespace.as_deref().unwrap_or_default(),
            budget.metadata.name.as_deref().unwrap_or_default()
        );
        let Some(selector) = budget.spec.and_then(|spec| spec.selector) else { continue };
        let Ok(selector) = Selector::try_from(selector) else { continue };
        let matches = |pod: &&Pod| {
            let none = BTreeMap::new();
            pod.metadata.namespace == budget.metadata.namespace
                && selector.matches(pod.metadata.labels.as_ref().unwrap_or(&none))
        };
        let pods: Vec<String> = going.iter().filter(matches).map(named).collect();
        if !pods.is_empty() {
            found.push(format!(
                "PodDisruptionBudget {name} allows no eviction now, and node {node} has {}",
                pods.join(", ")
            ));
        }
    }
    Ok(found)
}

/// Cordons the node, evicts its pods, and waits until they are gone.
pub async fn drain(client: &Client, node: &str, options: &DrainOptions) -> Result<()> {
    cordon(client, node).await?;
    let pods = pods(client, node).await?;
    let blocked: Vec<String> = pods.iter().filter_map(|pod| obstacle(pod, options)).collect();
    ensure!(blocked.is_empty(), "{}", blocked.join("\n"));
    let deadline = Instant::now() + options.timeout;
    let going: Vec<&Pod> = pods.iter().filter(|pod| goes(pod)).collect();
    let each: Vec<_> = going.iter().map(|pod| evict(client, pod, options, deadline)).collect();
    let results: Vec<Result<()>> = futures::stream::iter(each).buffer_unordered(crate::PARALLELISM).collect().await;
    let failed: Vec<String> = results.into_iter().filter_map(|r| r.err().map(|e| format!("{e:#}"))).collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    gone(client, node, &going, deadline).await
}

/// On a Node that kinit has cordoned: whoever else did so does not want it to be made schedulable again.
pub(crate) const CORDONED: &str = "kinit.dev/cordoned";

async fn cordon(client: &Client, node: &str) -> Result<()> {
    let api = Api::<Node>::all(client.clone());
    let found = api.get_opt(node).await.with_context(|| format!("look at node {node}"))?;
    let Some(found) = found else { return Ok(()) };
    if found.spec.is_some_and(|spec| spec.unschedulable == Some(true)) {
        return Ok(());
    }
    let patch = json!({"metadata": {"annotations": {CORDONED: "true"}}, "spec": {"unschedulable": true}});
    match api.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cordon node {node}")),
    }
}

/// Makes a node schedulable again, if it was kinit that cordoned it.
pub(crate) async fn uncordon(client: &Client, node: &str) -> Result<()> {
    let api = Api::<Node>::all(client.clone());
    let found = api.get_opt(node).await.with_context(|| format!("look at node {node}"))?;
    if !found.is_some_and(|node| is_cordoned(&node)) {
        return Ok(());
    }
    let patch = json!({"metadata": {"annotations": {CORDONED: null}}, "spec": {"unschedulable": null}});
    let patched = api.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await;
    patched.map(drop).with_context(|| format!("uncordon node {node}"))
}

/// Whether kinit has cordoned the node.
pub(crate) fn is_cordoned(node: &Node) -> bool {
    node.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(CORDONED))
}

async fn pods(client: &Client, node: &str) -> Result<Vec<Pod>> {
    let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let list = Api::<Pod>::all(client.clone()).list(&params).await;
    Ok(list.with_context(|| format!("list the pods of node {node}"))?.items)
}

fn named(pod: &Pod) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    format!("{}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name))
}

fn is_finished(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).is_some_and(|p| p == "Succeeded" || p == "Failed")
}

fn controller(pod: &Pod) -> Option<&str> {
    let owners = pod.metadata.owner_references.iter().flatten();
    owners.filter(|o| o.controller == Some(true)).map(|o| o.kind.as_str()).next()
}

fn goes(pod: &Pod) -> bool {
    let mirror = pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR_POD));
    !mirror && controller(pod) != Some("DaemonSet")
}

fn obstacle(pod: &Pod, options: &DrainOptions) -> Option<String> {
    if !goes(pod) || is_finished(pod) || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    if controller(pod).is_none() && !options.force {
        return Some(format!("pod {} has no controller that would make it again: --force deletes it", named(pod)));
    }
    let mut volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    if volumes.any(|v| v.empty_dir.is_some()) && !options.delete_emptydir_data {
        return Some(format!("pod {} has data in an emptyDir volume: --delete-emptydir-data deletes it", named(pod)));
    }
    None
}

/// Evicts a pod; tries again while a budget forbids it, until the deadline.
async fn evict(client: &Client, pod: &Pod, options: &DrainOptions, deadline: Instant) -> Result<()> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let (name, uid) = (pod.metadata.name.clone().unwrap_or_default(), pod.metadata.uid.clone());
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let mut delete = DeleteParams { grace_period_seconds: options.grace_period, ..DeleteParams::default() };
    delete.preconditions = Some(kube::api::Preconditions { uid, resource_version: None });
    loop {
        let result = match options.disable_eviction {
            true => api.delete(&name, &delete).await.map(drop),
            false => {
                let params = EvictParams { delete_options: Some(delete.clone()), ..EvictParams::default() };
                api.evict(&name, &params).await.map(drop)
            }
        };
        let status = match result {
            Ok(()) => return Ok(()),
            Err(kube::Error::Api(status)) => status,
            Err(error) => return Err(error).with_context(|| format!("evict pod {}", named(pod))),
        };
        match status.code {
            // Gone, or another of the same name is there.
            404 | 409 => return Ok(()),
            429 if Instant::now() + PAUSE < deadline => tokio::time::sleep(PAUSE).await,
            429 => bail!(
                "pod {} could not be evicted within {} s: {}",
                named(pod),
                options.timeout.as_secs(),
                status.message
            ),
            _ => bail!("evict pod {}: {}", named(pod), status.message),
        }
    }
}

/// Waits until none of these pods is there.
async fn gone(client: &Client, node: &str, pods: &[&Pod], deadline: Instant) -> Result<()> {
    let mut left: BTreeMap<String, String> =
        pods.iter().filter_map(|pod| Some((pod.metadata.uid.clone()?, named(pod)))).collect();
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let follow = async {
        let mut seen = BTreeMap::new();
        let mut events = std::pin::pin!(watcher(Api::<Pod>::all(client.clone()), config));
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => seen.clear(),
                Ok(Event::InitApply(pod)) => drop(seen.insert(pod.metadata.uid.unwrap_or_default(), ())),
                Ok(Event::InitDone) => left.retain(|uid, _| seen.contains_key(uid)),
                Ok(Event::Delete(pod)) => drop(left.remove(pod.metadata.uid.as_deref().unwrap_or_default())),
                Ok(Event::Apply(_)) => {}
                Err(error) => tracing::debug!(%error, "watch the pods of a node"),
            }
            if left.is_empty() {
                return;
            }
        }
    };
    let ended = tokio::time::timeout(deadline.saturating_duration_since(Instant::now()), follow).await.is_ok();
    let left: Vec<String> = left.into_values().collect();
    ensure!(ended || left.is_empty(), "these pods did not end in time: {}", left.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(owner: Option<&str>, empty_dir: bool, mirror: bool, phase: &str) -> Pod {
        let owners = owner
            .map(|kind| json!([{"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "u", "controller": true}]));
        let annotations = if mirror { json!({MIRROR_POD: "x"}) } else { json!({}) };
        let volumes = if empty_dir { json!([{"name": "v", "emptyDir": {}}]) } else { json!([]) };
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "ownerReferences": owners, "annotations": annotations},
            "spec": {"containers": [], "volumes": volumes}, "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn what_needs_a_decision_is_an_obstacle() {
        let options = DrainOptions::default();
        for (pod, expected) in [
            (pod(Some("ReplicaSet"), false, false, "Running"), None),
            (pod(Some("ReplicaSet"), true, false, "Running"), Some("--delete-emptydir-data")),
            (pod(None, false, false, "Running"), Some("--force")),
            (pod(None, true, false, "Succeeded"), None),
            (pod(Some("DaemonSet"), true, false, "Running"), None),
            (pod(Some("Node"), true, true, "Running"), None),
        ] {
            let found = obstacle(&pod, &options);
            match expected {
                None => assert_eq!(found, None),
                Some(words) => assert!(found.unwrap().contains(words)),
            }
        }
        let all = DrainOptions { delete_emptydir_data: true, force: true, ..options };
        assert_eq!(obstacle(&pod(None, true, false, "Running"), &all), None);
    }
}
