//! `replicaset` and `replicationcontroller`: so many pods of a template (`pkg/controller/replicaset`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kinit_client::informer::{BY_CONTROLLER, key_of};
use kinit_component_helpers::pod::{available_at, is_active, is_available, is_ready, node_name};
use kube::ResourceExt;

use super::owned::{PodLoop, PodOwner};
use super::pods::{brief, from_template};
use super::rank;
use crate::context::Context;
use crate::object::owner::controller_of;
use crate::object::{now, selector};

/// At most so many pods are created or deleted in one pass.
const BURST: usize = 500;

/// A kind that keeps so many pods of a template. Upstream's `pkg/controller/replication` is likewise the controller of
/// ReplicaSets behind a conversion.
trait Replicated: PodOwner {
    /// The same as a ReplicaSet.
    fn as_set(&self) -> ReplicaSet;
    /// The same with another status.
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl PodOwner for ReplicaSet {
    fn pod_selector(&self) -> Option<LabelSelector> {
        self.spec.as_ref().map(|s| s.selector.clone())
    }
}

impl Replicated for ReplicaSet {
    fn as_set(&self) -> ReplicaSet {
        self.clone()
    }
    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self { status: Some(status), ..self.clone() }
    }
}

impl PodOwner for ReplicationController {
    fn pod_selector(&self) -> Option<LabelSelector> {
        let match_labels = self.spec.as_ref()?.selector.clone();
        Some(LabelSelector { match_labels, match_expressions: None })
    }
}

impl Replicated for ReplicationController {
    fn as_set(&self) -> ReplicaSet {
        let spec = self.spec.as_ref().map(|s| ReplicaSetSpec {
            min_ready_seconds: s.min_ready_seconds,
            replicas: s.replicas,
            selector: self.pod_selector().unwrap_or_default(),
            template: s.template.clone(),
        });
        let status = self.status.as_ref().map(|s| ReplicaSetStatus {
            available_replicas: s.available_replicas,
            conditions: s.conditions.as_ref().map(|all| all.iter().map(as_set_condition).collect()),
            fully_labeled_replicas: s.fully_labeled_replicas,
            observed_generation: s.observed_generation,
            ready_replicas: s.ready_replicas,
            replicas: s.replicas,
            ..Default::default()
        });
        ReplicaSet { metadata: self.metadata.clone(), spec, status }
    }
    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        let condition = |c: ReplicaSetCondition| ReplicationControllerCondition {
            last_transition_time: c.last_transition_time,
            message: c.message,
            reason: c.reason,
            status: c.status,
            type_: c.type_,
        };
        let status = ReplicationControllerStatus {
            available_replicas: status.available_replicas,
            conditions: status.conditions.map(|all| all.into_iter().map(condition).collect()),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
        };
        Self { status: Some(status), ..self.clone() }
    }
}

fn as_set_condition(c: &ReplicationControllerCondition) -> ReplicaSetCondition {
    ReplicaSetCondition {
        last_transition_time: c.last_transition_time.clone(),
        message: c.message.clone(),
        reason: c.reason.clone(),
        status: c.status.clone(),
        type_: c.type_.clone(),
    }
}

/// Runs the controller of ReplicaSets.
pub async fn run(ctx: Context) -> Result<()> {
    run_kind::<ReplicaSet>(ctx, "replicaset", "replicaset-controller", "replicaset-controller").await
}

/// Runs the controller of ReplicationControllers.
pub async fn run_replication(ctx: Context) -> Result<()> {
    run_kind::<ReplicationController>(ctx, "replication", "replication-controller", "replication-controller").await
}

async fn run_kind<K: Replicated>(ctx: Context, name: &'static str, account: &str, reporter: &str) -> Result<()> {
    let work = Arc::new(Controller(PodLoop::<K>::start(&ctx, account, reporter).await?));
    let queue = work.0.queue.clone();
    queue.run(name, 5, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

struct Controller<K>(PodLoop<K>);

impl<K: Replicated> Controller<K> {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(owner) = self.0.owner(&key) else { return Ok(None) };
        let set = owner.as_set();
        let Some(spec) = set.spec.clone() else { return Ok(None) };
        let settled = self.0.settled(&key);
        let active: Vec<Arc<Pod>> = self.0.claim(&owner).await?.into_iter().filter(|p| is_active(p)).collect();
        let mut failure = None;
        if settled && set.metadata.deletion_timestamp.is_none() {
            failure = self.manage(&key, &owner, &set, &active).await.err();
        }
        let min_ready = spec.min_ready_seconds.unwrap_or(0);
        let status = status(&set, &active, failure.as_ref().map(said), &now());
        if set.status.as_ref() != Some(&status) {
            self.0.write_status(&owner.with_status(status)).await?;
        }
        if let Some(error) = failure {
            return Err(error);
        }
        Ok(next_available(&active, min_ready, Timestamp::now()))
    }

    async fn manage(&self, key: &str, owner: &K, set: &ReplicaSet, active: &[Arc<Pod>]) -> Result<()> {
        let spec = set.spec.clone().unwrap_or_default();
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        if active.len() < wanted {
            let count = (wanted - active.len()).min(BURST);
            let pod = from_template(&spec.template.unwrap_or_default(), owner);
            return self.0.create(key, owner, &vec![pod; count]).await;
        }
        if active.len() == wanted {
            return Ok(());
        }
        let mut excess = active.to_vec();
        let crowds = self.crowds(owner);
        rank::sort(&mut excess, |p| node_name(p).and_then(|n| crowds.get(n)).copied().unwrap_or(0));
        excess.truncate((active.len() - wanted).min(BURST));
        self.0.delete(key, owner, &excess).await
    }

    /// How many active pods of this set and its siblings (sets of one Deployment) each node runs.
    fn crowds(&self, set: &K) -> HashMap<String, usize> {
        let siblings = match controller_of(set) {
            Some(owner) => self.0.owners.by_index(BY_CONTROLLER, &owner.uid),
            None => self.0.owners.get(&key_of(set)).into_iter().collect(),
        };
        let mut crowds = HashMap::new();
        for sibling in siblings {
            for pod in self.0.pods.controlled_by(&sibling.uid().unwrap_or_default()) {
                if let Some(node) = node_name(&pod).filter(|_| is_active(&pod)) {
                    *crowds.entry(node.to_owned()).or_default() += 1;
                }
            }
        }
        crowds
    }
}

/// What the API server said, where it was the one to refuse; a condition is for people.
fn said(error: &anyhow::Error) -> String {
    error.chain().find_map(|cause| cause.downcast_ref()).map_or_else(|| format!("{error:#}"), brief)
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
    fn replication_controllers_are_sets_behind_a_conversion() {
        let controller: ReplicationController = serde_json::from_value(json!({
            "metadata": {"name": "r", "uid": "u"},
            "spec": {"replicas": 2, "selector": {"a": "b"}, "template": {"metadata": {"labels": {"a": "b"}}}},
            "status": {"replicas": 1, "conditions": [{"type": "ReplicaFailure", "status": "True"}]}
        }))
        .unwrap();
        let set = controller.as_set();
        assert_eq!(set.spec.as_ref().unwrap().selector, controller.pod_selector().unwrap());
        assert_eq!(controller.with_status(set.status.unwrap()), controller, "there and back");
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words() {
        let refused = kube::core::Status::failure("pods \"x\" is forbidden: no", "Forbidden").with_code(403);
        let error = anyhow::Error::new(kube::Error::Api(Box::new(refused))).context("create pods");
        assert_eq!(said(&error), "pods \"x\" is forbidden: no");
        assert_eq!(said(&anyhow::anyhow!("low").context("high")), "high: low");
    }

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
