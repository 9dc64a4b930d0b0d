//! `replicaset`: so many pods of a template (`pkg/controller/replicaset`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kinit_client::informer::{BY_CONTROLLER, Change, Store, key_of, split_key};
use kinit_client::queue::Queue;
use kube::api::{Api, PostParams};
use kube::core::SelectorExt;
use kube::{Client, ResourceExt};

use super::expectations::Expectations;
use super::pods::{PodControl, brief, from_template, is_terminating, slow_start};
use super::rank;
use crate::context::Context;
use crate::object::owner::{claim_all, controller_of};
use crate::object::pod::{available_at, is_active, is_available, is_ready, node_name};
use crate::object::{ignore_gone, now, selector};

/// At most so many pods are created or deleted in one pass.
const BURST: usize = 500;

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("replicaset-controller").await?;
    let (sets, pods) = (ctx.store::<ReplicaSet>(), ctx.store::<Pod>());
    let (queue, expectations) = (Queue::new(), Arc::new(Expectations::default()));
    let (on_set, seen) = (queue.clone(), expectations.clone());
    sets.on_change(move |change| {
        let key = key_of(&**change.object());
        if let Change::Deleted(_) = change {
            seen.forget(&key);
        }
        on_set.add(key);
    });
    watch_pods(&pods, &sets, &queue, &expectations);
    pods.synced().await;
    sets.synced().await;
    let recorder = ctx.recorder(client.clone(), "replicaset-controller");
    let control = PodControl { client: client.clone(), recorder };
    let work = Arc::new(Controller { client, sets, pods, control, expectations });
    queue.run("replicaset", 5, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

fn watch_pods(
    pods: &Arc<Store<Pod>>,
    sets: &Arc<Store<ReplicaSet>>,
    queue: &Arc<Queue<String>>,
    seen: &Arc<Expectations>,
) {
    let (queue, sets, seen) = (queue.clone(), sets.clone(), seen.clone());
    let owner_key = |pod: &Pod| {
        let owner = controller_of(pod).filter(|o| o.kind == "ReplicaSet")?;
        Some(format!("{}/{}", pod.namespace().unwrap_or_default(), owner.name))
    };
    pods.on_change(move |change| {
        let pod = change.object();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if let Some(old) = change.old().and_then(|old| owner_key(old))
            && Some(&old) != owner_key(pod).as_ref()
        {
            queue.add(old);
        }
        let Some(key) = owner_key(pod) else {
            // An orphan: whoever's selector matches may adopt it.
            for set in sets.in_namespace(&pod.namespace().unwrap_or_default()) {
                if selector::of_workload(Some(&set.spec.clone().unwrap_or_default().selector))
                    .is_ok_and(|s| s.matches(pod.labels()))
                {
                    queue.add(key_of(&*set));
                }
            }
            return;
        };
        match change {
            Change::Added(_) if pod.metadata.deletion_timestamp.is_none() => seen.created(&key),
            Change::Added(_) | Change::Deleted(_) => seen.deleted(&key, uid),
            Change::Updated { .. } if pod.metadata.deletion_timestamp.is_some() => seen.deleted(&key, uid),
            Change::Updated { .. } => {}
        }
        queue.add(key);
    });
}

struct Controller {
    client: Client,
    sets: Arc<Store<ReplicaSet>>,
    pods: Arc<Store<Pod>>,
    control: PodControl,
    expectations: Arc<Expectations>,
}

impl Controller {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(set) = self.sets.get(&key) else { return Ok(None) };
        let Some(spec) = set.spec.clone() else { return Ok(None) };
        let namespace = split_key(&key).0;
        let settled = self.expectations.satisfied(&key);
        let selector = selector::of_workload(Some(&spec.selector))?;
        let owners: Api<ReplicaSet> = Api::namespaced(self.client.clone(), namespace);
        let objects: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let claimed = claim_all(&owners, &*set, &selector, &objects, &self.pods).await.context("claim pods")?;
        let active: Vec<Arc<Pod>> = claimed.into_iter().filter(|p| is_active(p)).collect();
        let mut failure = None;
        if settled && set.metadata.deletion_timestamp.is_none() {
            failure = self.manage(&key, &set, &active).await.err();
        }
        let min_ready = spec.min_ready_seconds.unwrap_or(0);
        let status = status(&set, &active, failure.as_ref().map(|e| format!("{e:#}")), &now());
        if set.status.as_ref() != Some(&status) {
            let wanted = ReplicaSet { status: Some(status), ..(*set).clone() };
            ignore_gone(owners.replace_status(&set.name_any(), &PostParams::default(), &wanted).await)
                .context("write the status")?;
        }
        if let Some(error) = failure {
            return Err(error);
        }
        Ok(next_available(&active, min_ready, Timestamp::now()))
    }

    async fn manage(&self, key: &str, set: &ReplicaSet, active: &[Arc<Pod>]) -> Result<()> {
        let spec = set.spec.clone().unwrap_or_default();
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        if active.len() < wanted {
            let count = (wanted - active.len()).min(BURST);
            let pod = from_template(&spec.template.unwrap_or_default(), set);
            self.expectations.expect_creations(key, count);
            let (done, untried, failure) = slow_start(count, |_| self.control.create(set, &pod)).await;
            // What failed or was not tried will not be seen.
            (0..count - done.len().min(count)).for_each(|_| self.expectations.created(key));
            tracing::debug!(key, created = done.len(), untried, "created pods");
            if let Some(error) = failure.filter(|e| !is_terminating(e)) {
                let text = brief(&error);
                return Err(error).with_context(|| format!("create pods: {text}"));
            }
        } else if active.len() > wanted {
            let mut excess = active.to_vec();
            let crowds = self.crowds(set);
            rank::sort(&mut excess, |p| node_name(p).and_then(|n| crowds.get(n)).copied().unwrap_or(0));
            excess.truncate((active.len() - wanted).min(BURST));
            for pod in &excess {
                self.expectations.expect_deletion(key, pod.metadata.uid.as_deref().unwrap_or_default());
            }
            let results = futures::future::join_all(excess.iter().map(|pod| async move {
                let result = self.control.delete(set, pod).await;
                if result.is_err() {
                    self.expectations.deleted(key, pod.metadata.uid.as_deref().unwrap_or_default());
                }
                result
            }))
            .await;
            results.into_iter().collect::<Result<Vec<()>>>()?;
        }
        Ok(())
    }

    /// How many active pods of this set and its siblings (sets of one Deployment) each node runs.
    fn crowds(&self, set: &ReplicaSet) -> HashMap<String, usize> {
        let siblings = match controller_of(set) {
            Some(owner) => self.sets.by_index(BY_CONTROLLER, &owner.uid),
            None => self.sets.get(&key_of(set)).into_iter().collect(),
        };
        let mut crowds = HashMap::new();
        for sibling in siblings {
            for pod in self.pods.controlled_by(sibling.metadata.uid.as_deref().unwrap_or_default()) {
                if let Some(node) = node_name(&pod).filter(|_| is_active(&pod)) {
                    *crowds.entry(node.to_owned()).or_default() += 1;
                }
            }
        }
        crowds
    }
}

/// The status that says what is.
fn status(set: &ReplicaSet, active: &[Arc<Pod>], failure: Option<String>, now: &Time) -> ReplicaSetStatus {
    let spec = set.spec.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let template_labels = spec.template.and_then(|t| t.metadata).and_then(|m| m.labels).unwrap_or_default();
    let count = |of: &dyn Fn(&Pod) -> bool| i32::try_from(active.iter().filter(|p| of(p)).count()).unwrap_or(i32::MAX);
    let mut status = set.status.clone().unwrap_or_default();
    status.replicas = count(&|_| true);
    status.fully_labeled_replicas = some(count(&|p| selector::map_matches(&template_labels, p.labels())));
    status.ready_replicas = some(count(&is_ready));
    status.available_replicas = some(count(&|p| is_available(p, min_ready, now.0)));
    status.observed_generation = set.metadata.generation;
    let conditions = status.conditions.take().unwrap_or_default();
    let had = conditions.iter().find(|c| c.type_ == "ReplicaFailure").cloned();
    let mut kept: Vec<_> = conditions.into_iter().filter(|c| c.type_ != "ReplicaFailure").collect();
    if let Some(message) = failure {
        let too_few = status.replicas < spec.replicas.unwrap_or(1);
        kept.push(had.unwrap_or_else(|| ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(if too_few { "FailedCreate" } else { "FailedDelete" }.into()),
            message: Some(message),
            last_transition_time: Some(now.clone()),
        }));
    }
    status.conditions = (!kept.is_empty()).then_some(kept);
    status
}

fn some(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// When a ready pod will count as available, so that the status is looked at again without an event.
pub fn next_available(pods: &[Arc<Pod>], min_ready: i32, now: Timestamp) -> Option<Duration> {
    let later = pods.iter().filter_map(|p| available_at(p, min_ready)).filter(|at| *at > now).min()?;
    Duration::try_from(later.duration_since(now)).ok().map(|d| d + Duration::from_millis(50))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn status_counts_and_keeps_its_failure() {
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "r", "generation": 3},
            "spec": {"replicas": 2, "minReadySeconds": 60, "selector": {"matchLabels": {"a": "b"}},
                     "template": {"metadata": {"labels": {"a": "b", "c": "d"}}}}
        }))
        .unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"a": "b", "c": "d"}},
            "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
        }))
        .unwrap();
        let at = |text: &str| Time(text.parse().unwrap());
        let early = status(&set, &[Arc::new(pod.clone())], Some("quota".into()), &at("2026-01-01T00:00:30Z"));
        assert_eq!((early.replicas, early.ready_replicas, early.available_replicas), (1, Some(1), None));
        assert_eq!(early.conditions.as_ref().unwrap()[0].reason.as_deref(), Some("FailedCreate"));
        let set = ReplicaSet { status: Some(early.clone()), ..set };
        let late = status(&set, &[Arc::new(pod)], Some("quota".into()), &at("2026-01-01T00:01:00Z"));
        assert_eq!((late.available_replicas, late.observed_generation), (Some(1), Some(3)));
        assert_eq!(late.conditions, early.conditions);
    }
}
