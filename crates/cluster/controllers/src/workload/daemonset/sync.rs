//! Looks at one DaemonSet and does what the plan says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kinit_client::informer::{Change, Store, key_of};
use kube::ResourceExt;
use parking_lot::Mutex;

use super::place::{self, belongs};
use super::plan::{self, Counts};
use crate::context::Context;
use crate::workload::owned::{PodLoop, PodOwner};
use crate::workload::pods::from_template;
use crate::workload::replicaset::next_available;
use crate::workload::revisions::{self, Scheme};

const SCHEME: Scheme = Scheme::DaemonSet;
/// How long a failed pod stays at first, and at most (`daemon.Run`'s failedPodsBackoff).
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_mins(15);

impl PodOwner for DaemonSet {
    fn pod_selector(&self) -> Option<LabelSelector> {
        self.spec.as_ref().map(|s| s.selector.clone())
    }
}

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let base = PodLoop::<DaemonSet>::start(&ctx, "daemon-set-controller", "daemonset-controller").await?;
    let (nodes, history) = (ctx.store::<Node>(), ctx.store::<ControllerRevision>());
    let (on_node, all) = (base.queue.clone(), base.owners.clone());
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
    nodes.synced().await;
    history.synced().await;
    let queue = base.queue.clone();
    let work = Arc::new(Controller { base, nodes, history, back_off: Mutex::default() });
    queue.run("daemonset", 2, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

struct Controller {
    base: PodLoop<DaemonSet>,
    nodes: Arc<Store<Node>>,
    history: Arc<Store<ControllerRevision>>,
    /// Of failed pods, by set and node: how long, and until when.
    back_off: Mutex<HashMap<String, (Duration, Instant)>>,
}

impl Controller {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(set) = self.base.owner(&key).filter(|s| s.metadata.deletion_timestamp.is_none()) else {
            return Ok(None);
        };
        let Some(spec) = set.spec.clone() else { return Ok(None) };
        let mut revisions = revisions::of_owner(&self.history, set.metadata.uid.as_deref().unwrap_or_default());
        let collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let client = &self.base.client;
        let current = revisions::current(client, &*set, SCHEME, &spec.template, &revisions, collisions).await?;
        let hash = SCHEME.pod_label(&current);
        let pods = self.base.claim(&set).await?;
        let (nodes, placed) = (self.nodes.list(), plan::by_node(&pods));
        let (mut failure, mut again) = (None, None);
        if self.base.settled(&key) {
            let now = Timestamp::now();
            let mut plan = plan::manage(&set, &nodes, &placed, &hash, now);
            again = self.hold_back(&key, &pods, &mut plan);
            if plan.create.is_empty() && plan.delete.is_empty() {
                plan = plan::roll(&set, &nodes, &placed, &hash, now);
            }
            failure = self.act(&key, &set, &pods, &plan, &hash).await.err();
        }
        let now = Timestamp::now();
        self.write_status(&set, &plan::count(&set, &nodes, &placed, &hash, now)).await?;
        revisions.retain(|r| r.metadata.uid != current.metadata.uid);
        revisions::forget_unused(client, &*set, SCHEME, &revisions, &pods, spec.revision_history_limit).await?;
        match failure {
            Some(error) => Err(error),
            None => {
                let available = next_available(&pods, spec.min_ready_seconds.unwrap_or(0), now);
                Ok(again.into_iter().chain(available).min())
            }
        }
    }

    /// Leaves failed pods where they are until their node's back-off is over: what a kubelet refuses it refuses again.
    fn hold_back(&self, key: &str, pods: &[Arc<Pod>], plan: &mut plan::Plan) -> Option<Duration> {
        let mut back_off = self.back_off.lock();
        back_off.retain(|_, (_, until)| until.elapsed() < 2 * LONGEST_BACK_OFF);
        let mut again: Option<Duration> = None;
        for pod in pods.iter().filter(|p| plan.failed.contains(&p.name_any())) {
            let place = format!("{key}/{}", place::target(pod).unwrap_or(""));
            let now = Instant::now();
            match back_off.get(&place).copied() {
                Some((_, until)) if until > now => {
                    plan.delete.retain(|name| *name != pod.name_any());
                    let left = until - now;
                    again = Some(again.map_or(left, |a| a.min(left)));
                }
                had => {
                    let wait = had.map_or(FIRST_BACK_OFF, |(wait, _)| (wait * 2).min(LONGEST_BACK_OFF));
                    back_off.insert(place, (wait, now + wait));
                }
            }
        }
        plan.failed.retain(|name| plan.delete.contains(name));
        again
    }

    async fn act(&self, key: &str, set: &DaemonSet, pods: &[Arc<Pod>], plan: &plan::Plan, hash: &str) -> Result<()> {
        for pod in pods.iter().filter(|p| plan.failed.contains(&p.name_any())) {
            let node = place::target(pod).unwrap_or("");
            let note = format!("Found failed daemon pod {key} on node {node}, will try to kill it");
            self.base.control.recorder.warning(set, "FailedDaemonPod", note);
        }
        let doomed: Vec<Arc<Pod>> = pods.iter().filter(|p| plan.delete.contains(&p.name_any())).cloned().collect();
        self.base.delete(key, set, &doomed).await?;
        let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        let mut pod = from_template(&template, set);
        pod.labels_mut().insert(revisions::HASH.into(), hash.to_owned());
        if let Some(spec) = pod.spec.as_mut() {
            spec.tolerations = Some(place::tolerations(spec));
        }
        let for_node = |node: &String| {
            let mut pod = pod.clone();
            place::bind_to(pod.spec.get_or_insert_default(), node);
            pod
        };
        let wanted: Vec<Pod> = plan.create.iter().map(for_node).collect();
        self.base.create(key, set, &wanted).await
    }

    async fn write_status(&self, set: &DaemonSet, counts: &Counts) -> Result<()> {
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
        self.base.write_status(&DaemonSet { status: Some(status), ..set.clone() }).await
    }
}
