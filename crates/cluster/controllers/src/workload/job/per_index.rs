//! Indexed Jobs whose indexes fail each on its own (`backoffLimitPerIndex`). No IO.
//!
//! How often an index has failed stands in an annotation of its newest pod. So the last failed pod of an index keeps
//! its finalizer until the next one, which carries the count on, was made (upstream:
//! `getPodsWithDelayedDeletionPerIndex`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::Pod;
use kinit_component_helpers::pod::is_active;
use kube::ResourceExt;

use super::plan::index_of;
use super::policy::{Meaning, has_failed, meaning};

/// Annotation: how many pods of this index failed before this one, and counted.
pub const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Annotation: how many failed and were ignored.
pub const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

fn number(pod: &Pod, annotation: &str) -> i32 {
    pod.annotations().get(annotation).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Failures before this pod, counted and ignored.
pub fn failures(pod: &Pod) -> (i32, i32) {
    (number(pod, FAILURES), number(pod, IGNORED))
}

/// What the pod that takes this failed one's place is to carry.
pub fn next_failures(spec: &JobSpec, failed: Option<&Pod>) -> (i32, i32) {
    let Some(pod) = failed else { return (0, 0) };
    let (counted, ignored) = failures(pod);
    match meaning(spec, pod) {
        Meaning::Ignored => (counted, ignored.saturating_add(1)),
        _ => (counted.saturating_add(1), ignored),
    }
}

/// The indexes that failed for good: those known before and those of pods that failed once too often, or whose failure
/// is final.
pub fn failed(spec: &JobSpec, pods: &[Arc<Pod>], limit: i32, mut known: BTreeSet<i32>) -> BTreeSet<i32> {
    for pod in pods.iter().filter(|p| has_failed(spec, p)) {
        let over = match meaning(spec, pod) {
            Meaning::FailsIndex => true,
            Meaning::Ignored => false,
            Meaning::Counts | Meaning::FailsJob(_) => failures(pod).0 >= limit,
        };
        if over {
            known.extend(index_of(pod));
        }
    }
    known
}

/// The last failed pods of the indexes that are to be tried again, by index.
pub fn to_replace<'a>(
    spec: &JobSpec,
    pods: &'a [Arc<Pod>],
    completed: &BTreeSet<i32>,
    failed: &BTreeSet<i32>,
) -> BTreeMap<i32, &'a Arc<Pod>> {
    let active: BTreeSet<i32> = pods.iter().filter(|p| is_active(p)).filter_map(|p| index_of(p)).collect();
    let tries = |pod: &Pod| {
        let (counted, ignored) = failures(pod);
        counted.saturating_add(ignored)
    };
    let mut last: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
    for pod in pods.iter().filter(|p| has_failed(spec, p)) {
        let Some(index) = index_of(pod) else { continue };
        if completed.contains(&index) || failed.contains(&index) || active.contains(&index) {
            continue;
        }
        if last.get(&index).is_none_or(|other| tries(other) <= tries(pod)) {
            last.insert(index, pod);
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::super::INDEX;
    use super::*;
    use serde_json::json;

    fn pod(name: &str, index: i32, phase: &str, tries: i32, disrupted: bool) -> Arc<Pod> {
        let conditions = if disrupted { json!([{"type": "DisruptionTarget", "status": "True"}]) } else { json!([]) };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "annotations": {INDEX: index.to_string(), FAILURES: tries.to_string()}},
                "status": {"phase": phase, "conditions": conditions}
            }))
            .unwrap(),
        )
    }

    #[test]
    fn each_index_fails_on_its_own() {
        let spec: JobSpec = serde_json::from_value(json!({"template": {}, "podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}}))
        .unwrap();
        let pods = [
            pod("a0", 0, "Failed", 0, false),
            pod("a1", 0, "Failed", 1, false),
            pod("b0", 1, "Failed", 0, false),
            pod("c1", 2, "Failed", 1, true),
            pod("d0", 3, "Failed", 0, false),
            pod("d1", 3, "Running", 1, false),
        ];
        let gone = failed(&spec, &pods, 1, BTreeSet::from([7]));
        assert_eq!(gone, BTreeSet::from([0, 7]), "0 failed twice; the disruption of 2 does not count");
        let again = to_replace(&spec, &pods, &BTreeSet::new(), &gone);
        let names: Vec<_> = again.values().map(|p| p.name_any()).collect();
        assert_eq!(names, ["b0", "c1"], "3 runs already");
        assert_eq!(next_failures(&spec, again.get(&1).map(|p| &***p)), (1, 0));
        assert_eq!(next_failures(&spec, again.get(&2).map(|p| &***p)), (1, 1));
        assert_eq!(next_failures(&spec, None), (0, 0));
    }
}
