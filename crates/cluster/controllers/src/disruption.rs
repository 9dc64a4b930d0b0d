//! `disruption`: how many pods of a PodDisruptionBudget may be evicted now (`pkg/controller/disruption`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kinit_client::informer::{Store, key_of};
use kinit_client::queue::Queue;
use kinit_component_helpers::pod::{is_active, is_ready};
use kube::api::{Api, PostParams};
use kube::core::{Selector, SelectorExt};
use kube::{Client, ResourceExt};

use crate::context::Context;
use crate::object::owner::controller_of;
use crate::object::{ignore_gone, now};

/// An eviction that was granted but not seen within this time did not happen.
const GRANT: SignedDuration = SignedDuration::from_mins(2);

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("disruption-controller").await?;
    let (budgets, pods) = (ctx.store::<PodDisruptionBudget>(), ctx.store::<Pod>());
    let scales =
        Scales { sets: ctx.store(), deployments: ctx.store(), stateful: ctx.store(), replication: ctx.store() };
    let queue = Queue::new();
    let (on_budget, on_pod, all) = (queue.clone(), queue.clone(), budgets.clone());
    budgets.on_change(move |change| on_budget.add(key_of(&**change.object())));
    pods.on_change(move |change| {
        for pod in change.old().into_iter().chain([change.object()]) {
            for budget in all.in_namespace(&pod.namespace().unwrap_or_default()) {
                if selects(&budget, pod) {
                    on_pod.add(key_of(&*budget));
                }
            }
        }
    });
    let (on_scale, of_namespace) = (queue.clone(), budgets.clone());
    let changed = Arc::new(move |namespace: String| {
        of_namespace.in_namespace(&namespace).iter().for_each(|b| on_scale.add(key_of(&**b)));
    });
    let (a, b, c, d) = (changed.clone(), changed.clone(), changed.clone(), changed);
    scales.deployments.on_change(move |change| a(change.object().namespace().unwrap_or_default()));
    scales.sets.on_change(move |change| b(change.object().namespace().unwrap_or_default()));
    scales.stateful.on_change(move |change| c(change.object().namespace().unwrap_or_default()));
    scales.replication.on_change(move |change| d(change.object().namespace().unwrap_or_default()));
    budgets.synced().await;
    pods.synced().await;
    scales.deployments.synced().await;
    scales.sets.synced().await;
    scales.stateful.synced().await;
    scales.replication.synced().await;
    let work = Arc::new(Controller { client, budgets, pods, scales });
    queue.run("disruption", 2, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

/// An empty selector selects all pods of the namespace, none selects none (policy/v1).
fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.clone());
    selector.and_then(|s| Selector::try_from(s).ok()).is_some_and(|s| s.matches(pod.labels()))
}

struct Scales {
    sets: Arc<Store<ReplicaSet>>,
    deployments: Arc<Store<Deployment>>,
    stateful: Arc<Store<StatefulSet>>,
    replication: Arc<Store<ReplicationController>>,
}

impl Scales {
    /// The workload that decides how many such pods there are: its identity and that number.
    fn of(&self, pod: &Pod) -> Option<(String, i32)> {
        let owner = controller_of(pod)?;
        let namespace = pod.namespace().unwrap_or_default();
        match owner.kind.as_str() {
            "ReplicaSet" => {
                let set = self.sets.get(&format!("{namespace}/{}", owner.name))?;
                let parent = controller_of(&*set).filter(|o| o.kind == "Deployment");
                let deployment = parent.and_then(|o| self.deployments.get(&format!("{namespace}/{}", o.name)));
                match deployment {
                    Some(d) => Some((d.uid()?, d.spec.as_ref()?.replicas.unwrap_or(1))),
                    None => Some((set.uid()?, set.spec.as_ref()?.replicas.unwrap_or(1))),
                }
            }
            "StatefulSet" => {
                let set = self.stateful.get(&format!("{namespace}/{}", owner.name))?;
                Some((set.uid()?, set.spec.as_ref()?.replicas.unwrap_or(1)))
            }
            "ReplicationController" => {
                let controller = self.replication.get(&format!("{namespace}/{}", owner.name))?;
                Some((controller.uid()?, controller.spec.as_ref()?.replicas.unwrap_or(1)))
            }
            _ => None,
        }
    }
}

struct Controller {
    client: Client,
    budgets: Arc<Store<PodDisruptionBudget>>,
    pods: Arc<Store<Pod>>,
    scales: Scales,
}

impl Controller {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(budget) = self.budgets.get(&key).filter(|b| b.metadata.deletion_timestamp.is_none()) else {
            return Ok(None);
        };
        let all = self.pods.in_namespace(&budget.namespace().unwrap_or_default());
        let pods: Vec<Arc<Pod>> = all.into_iter().filter(|p| is_active(p) && selects(&budget, p)).collect();
        let mut scales: HashMap<String, i32> = HashMap::new();
        let mut unmanaged = 0;
        for pod in &pods {
            match self.scales.of(pod) {
                Some((uid, replicas)) => drop(scales.insert(uid, replicas)),
                None => unmanaged += 1,
            }
        }
        let status = status(&budget, &pods, scales.values().sum(), unmanaged, &now());
        let again = status.disrupted_pods.as_ref().filter(|d| !d.is_empty()).map(|_| Duration::from_secs(30));
        if budget.status.as_ref() != Some(&status) {
            let api: Api<PodDisruptionBudget> =
                Api::namespaced(self.client.clone(), &budget.namespace().unwrap_or_default());
            let wanted = PodDisruptionBudget { status: Some(status), ..(*budget).clone() };
            ignore_gone(api.replace_status(&budget.name_any(), &PostParams::default(), &wanted).await)
                .context("write the status")?;
        }
        Ok(again)
    }
}

/// A number, or a share of `total` rounded up.
fn amount(value: &IntOrString, total: i32) -> i32 {
    match value {
        IntOrString::Int(n) => *n,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            i32::try_from((percent * i64::from(total) + 99).div_euclid(100)).unwrap_or(i32::MAX)
        }
    }
}

/// The status that says how many may go. `scaled` is what workloads want, `unmanaged` how many pods no scalable
/// workload owns.
fn status(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    scaled: i32,
    unmanaged: i32,
    now: &Time,
) -> PodDisruptionBudgetStatus {
    let spec = budget.spec.clone().unwrap_or_default();
    let old = budget.status.clone().unwrap_or_default();
    let fresh = |at: &Time| now.0.duration_since(at.0) <= GRANT;
    let disrupted: BTreeMap<String, Time> = old
        .disrupted_pods
        .clone()
        .unwrap_or_default()
        .into_iter()
        .filter(|(name, at)| fresh(at) && pods.iter().any(|p| p.name_any() == *name))
        .collect();
    let healthy = pods.iter().filter(|p| is_ready(p) && !disrupted.contains_key(&p.name_any())).count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    let count = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    let (expected, desired, failure) = match (&spec.min_available, &spec.max_unavailable) {
        (Some(IntOrString::Int(least)), _) => (count, *least, None),
        // A share needs to know of what: pods that nobody scales have no such number.
        _ if unmanaged > 0 => (0, 0, Some("found pods whose controller cannot be scaled")),
        (Some(least), _) => (scaled, amount(least, scaled), None),
        (None, Some(most)) => (scaled, (scaled - amount(most, scaled)).max(0), None),
        (None, None) => (count, 0, None),
    };
    let allowed = if failure.is_some() || expected == 0 { 0 } else { (healthy - desired).max(0) };
    let (value, reason) = match (failure.is_some(), allowed > 0) {
        (true, _) => ("False", "SyncFailed"),
        (_, true) => ("True", "SufficientPods"),
        (_, false) => ("False", "InsufficientPods"),
    };
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let had = conditions.iter().find(|c| c.type_ == "DisruptionAllowed").cloned();
    let since = had.filter(|c| c.status == value).map_or_else(|| now.clone(), |c| c.last_transition_time);
    conditions.retain(|c| c.type_ != "DisruptionAllowed");
    conditions.push(Condition {
        type_: "DisruptionAllowed".into(),
        status: value.into(),
        reason: reason.into(),
        message: failure.unwrap_or("").into(),
        last_transition_time: since,
        observed_generation: budget.metadata.generation,
    });
    PodDisruptionBudgetStatus {
        conditions: Some(conditions),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: budget.metadata.generation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pods(ready: usize, unready: usize) -> Vec<Arc<Pod>> {
        let pod = |i: usize| {
            let ready = if i < ready { "True" } else { "False" };
            let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]});
            Arc::new(serde_json::from_value(json!({"metadata": {"name": format!("p{i}")}, "status": status})).unwrap())
        };
        (0..ready + unready).map(pod).collect()
    }

    fn budget(spec: Value, disrupted: Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({
            "metadata": {"name": "b", "generation": 1}, "spec": spec,
            "status": {"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0, "disruptedPods": disrupted}
        }))
        .unwrap()
    }

    #[test]
    fn how_many_may_go() {
        let now = Time("2026-01-01T00:10:00Z".parse().unwrap());
        for (spec, ready, unready, scaled, unmanaged, allowed) in [
            (json!({"minAvailable": 2}), 3, 0, 3, 0, 1),
            (json!({"minAvailable": 2}), 3, 0, 0, 3, 1),
            (json!({"minAvailable": "50%"}), 3, 0, 3, 0, 1),
            (json!({"maxUnavailable": 1}), 3, 0, 3, 0, 1),
            (json!({"maxUnavailable": 1}), 2, 1, 3, 0, 0),
            (json!({"maxUnavailable": "50%"}), 4, 0, 4, 0, 2),
            (json!({"maxUnavailable": 1}), 3, 0, 0, 3, 0),
            (json!({"minAvailable": 1}), 0, 0, 0, 0, 0),
        ] {
            let status = status(&budget(spec.clone(), json!({})), &pods(ready, unready), scaled, unmanaged, &now);
            assert_eq!(status.disruptions_allowed, Some(allowed), "{spec} {ready} {unready} {unmanaged}");
        }
        let granted =
            json!({"p0": "2026-01-01T00:09:00Z", "p1": "2026-01-01T00:01:00Z", "gone": "2026-01-01T00:09:00Z"});
        let status = status(&budget(json!({"minAvailable": 1}), granted), &pods(3, 0), 3, 0, &now);
        assert_eq!((status.current_healthy, status.disruptions_allowed), (Some(2), Some(1)), "p0 is as good as gone");
        assert_eq!(status.disrupted_pods.unwrap().len(), 1);
    }
}
