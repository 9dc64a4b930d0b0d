//! The next steps of a StatefulSet. No IO.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kinit_component_helpers::pod::{is_available, is_ready, is_terminal, phase};
use kube::ResourceExt;

use super::identity::ordinal;
use crate::workload::revisions::HASH;

/// What to do next.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Step {
    /// Create the pod of this ordinal; of the old template when `current`.
    Create {
        /// Which.
        ordinal: i32,
        /// Of the template that is being replaced.
        current: bool,
    },
    /// Delete this pod.
    Delete(String),
}

/// The first ordinal and the one after the last.
pub fn bounds(set: &StatefulSet) -> (i32, i32) {
    let spec = set.spec.as_ref();
    let start = spec.and_then(|s| s.ordinals.as_ref()).and_then(|o| o.start).unwrap_or(0);
    (start, start.saturating_add(spec.and_then(|s| s.replicas).unwrap_or(1)))
}

fn is_parallel(set: &StatefulSet) -> bool {
    set.spec.as_ref().and_then(|s| s.pod_management_policy.as_deref()) == Some("Parallel")
}

/// The lowest ordinal that is updated; `None` when pods are updated by whoever deletes them.
fn partition(set: &StatefulSet) -> Option<i32> {
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
        return None;
    }
    let partition = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.partition).unwrap_or(0);
    Some(bounds(set).0 + partition)
}

fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn is_healthy(set: &StatefulSet, pod: &Pod, now: Timestamp) -> bool {
    let min_ready = set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
    phase(pod) == "Running" && is_available(pod, min_ready, now) && !is_deleting(pod)
}

/// The steps that may be taken now: one at a time, unless pods are managed in parallel.
pub fn steps(set: &StatefulSet, pods: &[Arc<Pod>], update: &str, now: Timestamp) -> Vec<Step> {
    let (first, end) = bounds(set);
    let parallel = is_parallel(set);
    let by_ordinal: BTreeMap<i32, &Arc<Pod>> = pods.iter().filter_map(|p| Some((ordinal(set, p)?, p))).collect();
    let mut steps = Vec::new();
    let mut all_well = true;
    for i in first..end {
        match by_ordinal.get(&i) {
            None => {
                let current = partition(set).is_some_and(|p| i < p);
                steps.push(Step::Create { ordinal: i, current });
            }
            // Another takes its place once it is gone.
            Some(pod) if is_terminal(pod) && !is_deleting(pod) => steps.push(Step::Delete(pod.name_any())),
            Some(pod) if is_healthy(set, pod, now) => continue,
            Some(_) => {}
        }
        all_well = false;
        if !parallel {
            return steps;
        }
    }
    let beyond: Vec<&Arc<Pod>> =
        by_ordinal.iter().filter(|(i, _)| **i < first || **i >= end).map(|(_, p)| *p).collect();
    // In order, a pod that is not well holds back those below it; only the lowest of these may itself go
    // (`processCondemned`).
    let lowest_ill = beyond.iter().find(|p| !is_healthy(set, p, now)).map(|p| p.name_any());
    for pod in beyond.iter().rev() {
        let may_go = parallel || is_healthy(set, pod, now) || lowest_ill == Some(pod.name_any());
        if !is_deleting(pod) && may_go {
            steps.push(Step::Delete(pod.name_any()));
        }
        if !parallel {
            return steps;
        }
    }
    if !steps.is_empty() || (!all_well && !parallel) {
        return steps;
    }
    let Some(partition) = partition(set) else { return steps };
    let range: Vec<&Arc<Pod>> = by_ordinal.range(first..end).map(|(_, p)| *p).collect();
    let due = by_ordinal.range(partition.max(first)..end.max(partition.max(first))).rev().map(|(_, p)| *p);
    let healthy = |p: &Pod| is_healthy(set, p, now);
    let due = due.map(|p| (p, p.labels().get(HASH).map(String::as_str) != Some(update)));
    match max_unavailable(set) {
        None => one_by_one(due, healthy),
        Some(most) => {
            let missing = usize::try_from(end - first).unwrap_or(0).saturating_sub(range.len());
            let out = range.iter().filter(|p| !healthy(p)).count() + missing;
            some_at_once(due, healthy, most.saturating_sub(out))
        }
    }
}

/// The highest pod of an old template goes, once all above it are well.
fn one_by_one<'a>(due: impl Iterator<Item = (&'a Arc<Pod>, bool)>, healthy: impl Fn(&Pod) -> bool) -> Vec<Step> {
    for (pod, old) in due {
        if old && !is_deleting(pod) {
            return vec![Step::Delete(pod.name_any())];
        }
        if !healthy(pod) {
            break;
        }
    }
    Vec::new()
}

/// Of the pods of an old template, from the highest on, as many go as may be out, and those that are out anyway.
fn some_at_once<'a>(
    due: impl Iterator<Item = (&'a Arc<Pod>, bool)>,
    healthy: impl Fn(&Pod) -> bool,
    mut room: usize,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for (pod, _) in due.filter(|(pod, old)| *old && !is_deleting(pod)) {
        if healthy(pod) {
            if room == 0 {
                continue;
            }
            room -= 1;
        }
        steps.push(Step::Delete(pod.name_any()));
    }
    steps
}

/// How many pods may be out during an update (MaxUnavailableStatefulSet, on by default since v1.35); `None` for one,
/// strictly in order.
fn max_unavailable(set: &StatefulSet) -> Option<usize> {
    let spec = set.spec.as_ref()?;
    let rolling = spec.update_strategy.as_ref()?.rolling_update.as_ref()?;
    let most = match rolling.max_unavailable.as_ref()? {
        IntOrString::Int(n) => i64::from(*n),
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            (percent * i64::from(spec.replicas.unwrap_or(1)) + 99).div_euclid(100)
        }
    };
    usize::try_from(most.max(1)).ok().filter(|most| *most > 1)
}

/// The status that says what is; `current` and `update` are the revisions' names.
pub fn status(set: &StatefulSet, pods: &[Arc<Pod>], current: &str, update: &str, now: Timestamp) -> StatefulSetStatus {
    let min_ready = set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
    let mine: Vec<&Arc<Pod>> = pods.iter().filter(|p| ordinal(set, p).is_some() && !is_terminal(p)).collect();
    let count = |of: &dyn Fn(&Pod) -> bool| i32::try_from(mine.iter().filter(|p| of(p)).count()).unwrap_or(i32::MAX);
    let of = |name: &str| count(&|p| p.labels().get(HASH).map(String::as_str) == Some(name) && !is_deleting(p));
    let some = |n: i32| (n != 0).then_some(n);
    let mut status = set.status.clone().unwrap_or_default();
    let ready = count(&|p| is_ready(p) && !is_deleting(p));
    status.replicas = count(&|_| true);
    status.ready_replicas = some(ready);
    status.available_replicas = Some(count(&|p| is_available(p, min_ready, now) && !is_deleting(p)));
    status.current_replicas = some(of(current));
    status.updated_replicas = some(of(update));
    status.current_revision = Some(current.to_owned());
    status.update_revision = Some(update.to_owned());
    status.observed_generation = set.metadata.generation;
    status.collision_count = Some(status.collision_count.unwrap_or(0));
    // All are new and well: the new template is now the present one.
    let wanted = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let updated = status.updated_replicas.unwrap_or(0);
    if partition(set).is_some() && updated == wanted && ready == wanted && status.replicas == wanted {
        status.current_revision = status.update_revision.clone();
        status.current_replicas = status.updated_replicas;
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(replicas: i32, extra: Value) -> StatefulSet {
        let mut spec = json!({"replicas": replicas, "selector": {}, "template": {}});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap()
    }

    /// (ordinal, hash, state): ready, pending, failed or ending
    fn pods(list: &[(i32, &str, &str)]) -> Vec<Arc<Pod>> {
        let pod = |(i, hash, state): &(i32, &str, &str)| {
            let (phase, ready) = match *state {
                "ready" | "ending" => ("Running", "True"),
                "failed" => ("Failed", "False"),
                _ => ("Pending", "False"),
            };
            let mut pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": format!("s-{i}"), "labels": {HASH: hash}},
                "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}
            }))
            .unwrap();
            pod.metadata.deletion_timestamp = (*state == "ending").then(crate::object::now);
            Arc::new(pod)
        };
        list.iter().map(pod).collect()
    }

    #[test]
    fn steps_in_order() {
        let create = |ordinal| Step::Create { ordinal, current: false };
        let delete = |n: i32| Step::Delete(format!("s-{n}"));
        let parallel = json!({"podManagementPolicy": "Parallel"});
        let held = json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}});
        let two = json!({"podManagementPolicy": "Parallel", "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "50%"}}});
        let by_hand = json!({"updateStrategy": {"type": "OnDelete"}});
        for (set, list, expected) in [
            (set(3, json!({})), vec![], vec![create(0)]),
            (set(3, json!({})), vec![(0, "n", "pending")], vec![]),
            (set(3, json!({})), vec![(0, "n", "ready")], vec![create(1)]),
            (set(3, json!({})), vec![(0, "n", "ready"), (1, "n", "failed")], vec![delete(1)]),
            (set(3, parallel.clone()), vec![(1, "n", "pending")], vec![create(0), create(2)]),
            (set(1, json!({})), vec![(0, "n", "ready"), (1, "n", "ready"), (2, "n", "ready")], vec![delete(2)]),
            (set(1, json!({})), vec![(0, "n", "ready"), (1, "n", "ready"), (2, "n", "ending")], vec![]),
            (set(0, json!({})), vec![(0, "n", "ready"), (1, "n", "pending"), (2, "n", "ready")], vec![delete(2)]),
            (set(0, json!({})), vec![(0, "n", "ready"), (1, "n", "pending")], vec![delete(1)]),
            (set(0, json!({})), vec![(0, "n", "pending"), (1, "n", "pending")], vec![]),
            (set(0, json!({})), vec![(0, "n", "pending"), (1, "n", "ready")], vec![delete(1)]),
            (set(1, json!({})), vec![(0, "n", "pending"), (1, "n", "ready")], vec![]),
            (
                set(1, parallel),
                vec![(0, "n", "ready"), (1, "n", "ready"), (2, "n", "ready")],
                vec![delete(2), delete(1)],
            ),
            (set(2, json!({})), vec![(0, "o", "ready"), (1, "o", "ready")], vec![delete(1)]),
            (set(2, json!({})), vec![(0, "o", "ready"), (1, "n", "ready")], vec![delete(0)]),
            (set(2, json!({})), vec![(0, "o", "ready"), (1, "n", "pending")], vec![]),
            (set(2, held.clone()), vec![(0, "o", "ready"), (1, "n", "ready")], vec![]),
            (set(2, held), vec![], vec![Step::Create { ordinal: 0, current: true }]),
            (
                set(4, two.clone()),
                vec![(0, "o", "ready"), (1, "o", "ready"), (2, "o", "ready"), (3, "o", "ready")],
                vec![delete(3), delete(2)],
            ),
            (
                set(4, two.clone()),
                vec![(0, "o", "ready"), (1, "o", "ready"), (2, "n", "pending"), (3, "n", "ready")],
                vec![delete(1)],
            ),
            (
                set(4, two),
                vec![(0, "o", "pending"), (1, "o", "ready"), (2, "n", "pending"), (3, "n", "ready")],
                vec![delete(0)],
            ),
            (set(2, by_hand), vec![(0, "o", "ready"), (1, "o", "ready")], vec![]),
            (set(2, json!({"ordinals": {"start": 5}})), vec![(5, "n", "ready")], vec![create(6)]),
        ] {
            assert_eq!(steps(&set, &pods(&list), "n", Timestamp::now()), expected, "{list:?}");
        }
    }

    #[test]
    fn the_new_template_becomes_the_present_one() {
        let s = set(2, json!({}));
        let (old, new) = ("o", "n");
        let half = status(&s, &pods(&[(0, "o", "ready"), (1, "n", "ready")]), old, new, Timestamp::now());
        assert_eq!((half.current_revision.as_deref(), half.updated_replicas), (Some("o"), Some(1)));
        let done = status(&s, &pods(&[(0, "n", "ready"), (1, "n", "ready")]), old, new, Timestamp::now());
        assert_eq!((done.current_revision.as_deref(), done.current_replicas), (Some("n"), Some(2)));
    }
}
