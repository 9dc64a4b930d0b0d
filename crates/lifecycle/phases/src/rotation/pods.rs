//! What pods hold of the cluster's trust: in the files that the kubelet keeps for them, and in programs that read those
//! files once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kinit_agent::RotationRequest;
use kinit_resource::{PodCredentials, sha256};
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::{Pods, RotationStopped};
use crate::operation::Run;
use crate::wait;

/// The kubelet looks at volumes every minute or so.
const PAUSE: Duration = Duration::from_secs(1);
/// What kubectl's `rollout restart` writes.
const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";

/// A pod that runs, with what it has mounted.
struct Holder {
    pod: Pod,
    has: PodCredentials,
}

impl Holder {
    fn name(&self) -> String {
        format!("{}/{}", self.pod.namespace().unwrap_or_default(), self.pod.name_any())
    }

    /// Whether one of its programs was started before its authorities were written.
    fn is_older_than_its_trust(&self) -> bool {
        let statuses = self.pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let started = statuses.filter_map(|status| status.state.as_ref()?.running.as_ref()?.started_at.as_ref());
        started.map(|at| at.0.as_second()).any(|at| at <= self.has.written)
    }
}

async fn holders(run: &Run, api: &Client) -> Result<Vec<Holder>> {
    let pods = Api::<Pod>::all(api.clone()).list(&ListParams::default()).await.context("list the pods")?;
    let runs = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        pod.metadata.deletion_timestamp.is_none() && phase == Some("Running")
    };
    let by_uid = pods.items.into_iter().filter(runs).filter_map(|pod| Some((pod.uid()?, pod)));
    let by_uid: BTreeMap<String, Pod> = by_uid.collect();
    let nodes: BTreeSet<String> =
        run.wanted.cluster.spec.hosts.iter().filter(|host| host.is_node()).map(|host| host.name.clone()).collect();
    let mounted = run.hosts.each(|agent| {
        let is_node = nodes.contains(agent.host());
        async move {
            if !is_node {
                return Ok(Vec::new());
            }
            let text = agent.rotation(RotationRequest::Pods).await?;
            serde_json::from_str::<Vec<PodCredentials>>(&text).context("decode what pods have")
        }
    });
    let mounted = mounted.await.context("look at what pods have mounted")?;
    let holder = |has: PodCredentials| Some(Holder { pod: by_uid.get(&has.uid)?.clone(), has });
    Ok(mounted.into_values().flatten().filter_map(holder).collect())
}

/// Waits until every pod has these authorities mounted.
pub(super) async fn mounted(run: &Run, api: &Client, authorities: &str, patience: Duration) -> Result<()> {
    let wanted = sha256(authorities.as_bytes());
    let begun = Instant::now();
    loop {
        let all = holders(run, api).await?;
        let differs = |holder: &&Holder| holder.has.authorities.as_ref().is_some_and(|own| *own != wanted);
        let behind: Vec<String> = all.iter().filter(differs).map(Holder::name).collect();
        if behind.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > patience {
            bail!("these pods have other authorities mounted than the cluster has: {}", behind.join(", "));
        }
        // The files are on the hosts, where nobody watches them.
        tokio::time::sleep(PAUSE).await;
    }
}

/// No program is left that may trust the old authority alone. kinit's own DNS reads its trust at its start.
pub(super) async fn trust_both(run: &Run, api: &Client, pods: Pods, patience: Duration) -> Result<()> {
    let old = |all: Vec<Holder>| -> Vec<Holder> { all.into_iter().filter(Holder::is_older_than_its_trust).collect() };
    settle(run, api, pods, patience, "read the authorities that they trust before both were there", &old).await
}

/// Every token that is mounted was signed by the new key.
pub(super) async fn have_new_tokens(run: &Run, api: &Client, pods: Pods, new: &str, patience: Duration) -> Result<()> {
    let old = |all: Vec<Holder>| -> Vec<Holder> {
        all.into_iter().filter(|holder| holder.has.token_key.as_deref().is_some_and(|key| key != new)).collect()
    };
    settle(
        run,
        api,
        pods,
        patience,
        "have a token that the old key has signed (kubelets replace it within an hour)",
        &old,
    )
    .await
}

/// Restarts what holds something old, or says who does.
async fn settle(
    run: &Run,
    api: &Client,
    pods: Pods,
    patience: Duration,
    what: &str,
    old: &(dyn Fn(Vec<Holder>) -> Vec<Holder> + Sync),
) -> Result<()> {
    let found = old(holders(run, api).await?);
    let mut workloads = BTreeSet::new();
    let mut alone = Vec::new();
    for holder in &found {
        match owner(api, &holder.pod).await? {
            Some(workload) => drop(workloads.insert(workload)),
            None => alone.push(holder.name()),
        }
    }
    let own = |workload: &Workload| workload.namespace == "kube-system" && workload.name == "kube-dns";
    for workload in workloads.iter().filter(|workload| pods == Pods::Restart || own(workload)) {
        restart(api, workload, patience).await?;
    }
    if pods == Pods::Leave {
        return Ok(());
    }
    let mut left: Vec<String> = alone;
    if pods == Pods::Stop {
        left.extend(workloads.iter().filter(|workload| !own(workload)).map(ToString::to_string));
    }
    if left.is_empty() {
        return Ok(());
    }
    Err(RotationStopped(format!(
        "these {what}: {}. Restart them and run the same command again, or have kinit restart workloads (--restart-workloads), or go on without them (--leave-pods)",
        left.join(", ")
    ))
    .into())
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Deployment,
    DaemonSet,
    StatefulSet,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Workload {
    kind: Kind,
    namespace: String,
    name: String,
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Who makes the pod anew.
async fn owner(api: &Client, pod: &Pod) -> Result<Option<Workload>> {
    let namespace = pod.namespace().unwrap_or_default();
    let controller = |references: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference]| {
        references.iter().find(|r| r.controller == Some(true)).map(|r| (r.kind.clone(), r.name.clone()))
    };
    let Some((kind, name)) = controller(pod.owner_references()) else { return Ok(None) };
    let of = |kind: Kind, name: String| Some(Workload { kind, namespace: namespace.clone(), name });
    Ok(match kind.as_str() {
        "DaemonSet" => of(Kind::DaemonSet, name),
        "StatefulSet" => of(Kind::StatefulSet, name),
        "ReplicaSet" => {
            let sets: Api<ReplicaSet> = Api::namespaced(api.clone(), &namespace);
            let set = sets.get_opt(&name).await.with_context(|| format!("read ReplicaSet {namespace}/{name}"))?;
            let deployment = set.as_ref().and_then(|set| controller(set.owner_references()));
            deployment.filter(|(kind, _)| kind == "Deployment").and_then(|(_, name)| of(Kind::Deployment, name))
        }
        _ => None,
    })
}

/// Restarts a workload as `kubectl rollout restart` does, and waits until its pods are new.
async fn restart(api: &Client, workload: &Workload, patience: Duration) -> Result<()> {
    let now = jiff::Timestamp::now().to_string();
    let patch = Patch::Merge(json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED: now}}}}}));
    let (namespace, name) = (workload.namespace.as_str(), workload.name.as_str());
    let what = format!("{workload} to be restarted");
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let parameters = PatchParams::default();
    let restarting = || format!("restart {workload}");
    match workload.kind {
        Kind::Deployment => {
            let all: Api<Deployment> = Api::namespaced(api.clone(), namespace);
            all.patch(name, &parameters, &patch).await.with_context(restarting)?;
            let missing = |all: &BTreeMap<String, Deployment>| left(name, all.get(name).is_some_and(deployed));
            wait::watch_until(all, config, patience, &what, missing).await
        }
        Kind::DaemonSet => {
            let all: Api<DaemonSet> = Api::namespaced(api.clone(), namespace);
            all.patch(name, &parameters, &patch).await.with_context(restarting)?;
            let missing = |all: &BTreeMap<String, DaemonSet>| left(name, all.get(name).is_some_and(on_all_nodes));
            wait::watch_until(all, config, patience, &what, missing).await
        }
        Kind::StatefulSet => {
            let all: Api<StatefulSet> = Api::namespaced(api.clone(), namespace);
            all.patch(name, &parameters, &patch).await.with_context(restarting)?;
            let missing = |all: &BTreeMap<String, StatefulSet>| left(name, all.get(name).is_some_and(in_place));
            wait::watch_until(all, config, patience, &what, missing).await
        }
    }
}

fn left(name: &str, done: bool) -> Vec<String> {
    if done { Vec::new() } else { vec![name.to_owned()] }
}

/// As `kubectl rollout status` sees it (`polymorphichelpers/rollout_status.go`).
fn deployed(deployment: &Deployment) -> bool {
    let Some(status) = &deployment.status else { return false };
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) >= wanted
        && status.replicas.unwrap_or(0) <= status.updated_replicas.unwrap_or(0)
        && status.available_replicas.unwrap_or(0) >= status.updated_replicas.unwrap_or(0)
}

fn on_all_nodes(set: &DaemonSet) -> bool {
    let Some(status) = &set.status else { return false };
    status.observed_generation >= set.metadata.generation
        && status.updated_number_scheduled.unwrap_or(0) >= status.desired_number_scheduled
        && status.number_available.unwrap_or(0) >= status.desired_number_scheduled
}

fn in_place(set: &StatefulSet) -> bool {
    let Some(status) = &set.status else { return false };
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    status.observed_generation >= set.metadata.generation
        && status.updated_replicas.unwrap_or(0) >= wanted
        && status.ready_replicas.unwrap_or(0) >= wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(started: &str, written: i64) -> Holder {
        let pod = json!({"metadata": {"name": "a", "namespace": "b"}, "status": {"containerStatuses": [
            {"name": "c", "ready": true, "restartCount": 0, "image": "", "imageID": "",
             "state": {"running": {"startedAt": started}}}]}});
        let has = PodCredentials { uid: "u".into(), authorities: None, written, token_key: None };
        Holder { pod: serde_json::from_value(pod).unwrap(), has }
    }

    #[test]
    fn a_program_that_was_there_before_its_trust_is_old() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_second();
        let written = at("2026-11-29T10:00:00Z");
        for (started, expected) in
            [("2026-11-29T09:59:59Z", true), ("2026-11-29T10:00:00Z", true), ("2026-11-29T10:00:01Z", false)]
        {
            assert_eq!(holder(started, written).is_older_than_its_trust(), expected, "{started}");
        }
    }

    #[test]
    fn a_deployment_is_restarted_when_all_its_pods_are_new_and_available() {
        let deployment = |status: serde_json::Value| -> Deployment {
            let object = json!({"metadata": {"generation": 2}, "spec": {"replicas": 2, "selector": {},
                "template": {}}, "status": status});
            serde_json::from_value(object).unwrap()
        };
        let done = json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2});
        assert!(deployed(&deployment(done.clone())));
        for (field, value) in
            [("observedGeneration", 1), ("replicas", 3), ("updatedReplicas", 1), ("availableReplicas", 1)]
        {
            let mut status = done.clone();
            status[field] = value.into();
            assert!(!deployed(&deployment(status)), "{field}");
        }
    }
}
