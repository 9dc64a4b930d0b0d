//! Looks at one DaemonSet and does what the plan says.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use kinit_client::informer::{Change, Store, key_of, split_key};
use kinit_client::queue::Queue;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};

use super::plan::{self, Counts, belongs};
use crate::context::Context;
use crate::object::owner::{claim_all, controller_of};
use crate::object::{ignore_gone, selector};
use crate::workload::expectations::Expectations;
use crate::workload::pods::{PodControl, brief, from_template, is_terminating, slow_start};
use crate::workload::replicaset::next_available;
use crate::workload::revisions;

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("daemon-set-controller").await?;
    let (sets, pods, nodes) = (ctx.store::<DaemonSet>(), ctx.store::<Pod>(), ctx.store::<Node>());
    let history = ctx.store::<ControllerRevision>();
    let (queue, expectations) = (Queue::new(), Arc::new(Expectations::default()));
    let on_set = queue.clone();
    sets.on_change(move |change| on_set.add(key_of(&**change.object())));
    let (on_pod, seen) = (queue.clone(), expectations.clone());
    pods.on_change(move |change| {
        let pod = change.object();
        let Some(owner) = controller_of(&**pod).filter(|o| o.kind == "DaemonSet") else { return };
        let key = format!("{}/{}", pod.namespace().unwrap_or_default(), owner.name);
        match change {
            Change::Added(_) => seen.created(&key),
            Change::Deleted(_) => seen.deleted(&key, pod.metadata.uid.as_deref().unwrap_or_default()),
            Change::Updated { .. } => {}
        }
        on_pod.add(key);
    });
    let (on_node, all) = (queue.clone(), sets.clone());
    nodes.on_change(move |change| {
        let matters = |n: &Node| (n.metadata.labels.clone(), n.spec.as_ref().and_then(|s| s.taints.clone()));
        if change.old().is_some_and(|old| matters(old) == matters(change.object())) {
            return;
        }
        for set in all.list() {
            let before = change.old().map(|old| belongs(&set, old));
            if before != Some(belongs(&set, change.object())) || matches!(change, Change::Deleted(_)) {
                on_node.add(key_of(&*set));
            }
        }
    });
    sets.synced().await;
    pods.synced().await;
    nodes.synced().await;
    history.synced().await;
    let recorder = ctx.recorder(client.clone(), "daemonset-controller");
    let control = PodControl { client: client.clone(), recorder };
    let work = Arc::new(Controller { client, sets, pods, nodes, history, control, expectations });
    queue.run("daemonset", 2, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

struct Controller {
    client: Client,
    sets: Arc<Store<DaemonSet>>,
    pods: Arc<Store<Pod>>,
    nodes: Arc<Store<Node>>,
    history: Arc<Store<ControllerRevision>>,
    control: PodControl,
    expectations: Arc<Expectations>,
}

impl Controller {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(set) = self.sets.get(&key) else {
            self.expectations.forget(&key);
            return Ok(None);
        };
        let Some(spec) = set.spec.clone().filter(|_| set.metadata.deletion_timestamp.is_none()) else {
            return Ok(None);
        };
        let namespace = split_key(&key).0;
        let selector = selector::of_workload(Some(&spec.selector))?;
        let owners: Api<DaemonSet> = Api::namespaced(self.client.clone(), namespace);
        let objects: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut revisions = revisions::of_owner(&self.history, set.metadata.uid.as_deref().unwrap_or_default());
        let labels = spec.selector.match_labels.clone();
        let collisions = set.status.as_ref().and_then(|s| s.collision_count);
        let current = revisions::current(&self.client, &*set, labels, &spec.template, &revisions, collisions).await?;
        let hash = revisions::hash_of(&current);
        let pods = claim_all(&owners, &*set, &selector, &objects, &self.pods).await.context("claim pods")?;
        let (nodes, placed) = (self.nodes.list(), plan::by_node(&pods));
        let mut failure = None;
        if self.expectations.satisfied(&key) {
            let mut plan = plan::manage(&set, &nodes, &placed);
            if plan.create.is_empty() && plan.delete.is_empty() {
                plan.delete = plan::roll(&set, &nodes, &placed, &hash, Timestamp::now());
            }
            failure = self.act(&key, &set, &pods, &plan, &hash).await.err();
        }
        let now = Timestamp::now();
        self.write_status(&owners, &set, &plan::count(&set, &nodes, &placed, &hash, now)).await?;
        revisions.retain(|r| r.metadata.uid != current.metadata.uid);
        let in_use: Vec<String> = pods.iter().filter_map(|p| p.labels().get(revisions::HASH).cloned()).collect();
        let limit = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(10);
        revisions::forget(&self.client, namespace, &revisions, &in_use, limit).await?;
        match failure {
            Some(error) => Err(error),
            None => Ok(next_available(&pods, spec.min_ready_seconds.unwrap_or(0), now)),
        }
    }

    async fn act(&self, key: &str, set: &DaemonSet, pods: &[Arc<Pod>], plan: &plan::Plan, hash: &str) -> Result<()> {
        for name in &plan.delete {
            let Some(pod) = pods.iter().find(|p| p.name_any() == *name) else { continue };
            if plan.failed.contains(name) {
                let note = format!(
                    "Found failed daemon pod {key} on node {}, will try to kill it",
                    plan::target(pod).unwrap_or("")
                );
                self.control.recorder.warning(set, "FailedDaemonPod", note);
            }
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            self.expectations.expect_deletion(key, uid);
            if let Err(error) = self.control.delete(set, pod).await {
                self.expectations.deleted(key, uid);
                return Err(error);
            }
        }
        if plan.create.is_empty() {
            return Ok(());
        }
        let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        let mut pod = from_template(&template, set);
        pod.labels_mut().insert(revisions::HASH.into(), hash.to_owned());
        if let Some(spec) = pod.spec.as_mut() {
            spec.tolerations = Some(plan::tolerations(spec));
        }
        let for_node = |node: &String| {
            let mut pod = pod.clone();
            plan::bind_to(pod.spec.get_or_insert_default(), node);
            pod
        };
        let wanted: Vec<Pod> = plan.create.iter().map(for_node).collect();
        self.expectations.expect_creations(key, wanted.len());
        let create = |i: usize| {
            let pod = wanted.get(i).cloned().unwrap_or_default();
            async move { self.control.create(set, &pod).await }
        };
        let (done, _, failure) = slow_start(wanted.len(), create).await;
        (done.len()..wanted.len()).for_each(|_| self.expectations.created(key));
        match failure.filter(|e| !is_terminating(e)) {
            Some(error) => {
                let text = brief(&error);
                Err(error).with_context(|| format!("create pods: {text}"))
            }
            None => Ok(()),
        }
    }

    async fn write_status(&self, api: &Api<DaemonSet>, set: &DaemonSet, counts: &Counts) -> Result<()> {
        let some = |n: i32| (n != 0).then_some(n);
        let status = DaemonSetStatus {
            desired_number_scheduled: counts.desired,
            current_number_scheduled: counts.current,
            number_misscheduled: counts.misscheduled,
            number_ready: counts.ready,
            number_available: some(counts.available),
            number_unavailable: some(counts.desired - counts.available),
            updated_number_scheduled: some(counts.updated),
            observed_generation: set.metadata.generation,
            ..set.status.clone().unwrap_or_default()
        };
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let wanted = DaemonSet { status: Some(status), ..set.clone() };
        ignore_gone(api.replace_status(&set.name_any(), &PostParams::default(), &wanted).await)
            .context("write the status")?;
        Ok(())
    }
}
