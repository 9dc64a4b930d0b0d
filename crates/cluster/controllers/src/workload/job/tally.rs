//! From pods that are over to numbers that are never wrong: `status.uncountedTerminatedPods`. No IO.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use kinit_component_helpers::pod::{is_terminal, phase};

use super::plan::{Plan, index_of, indexed};
use super::policy::{Meaning, has_failed, meaning};
use super::{FINALIZER, indexes, per_index};

/// What the pods add up to.
#[derive(Debug, Default)]
pub struct Tally {
    /// Indexes that have completed.
    pub completed: BTreeSet<i32>,
    /// Indexes that have failed for good.
    pub failed_indexes: BTreeSet<i32>,
    /// All that succeeded, counted already or not.
    pub succeeded: i32,
    /// All that failed and counts against the limit.
    pub failed: i32,
    /// Failed pods that keep their finalizer until another takes their place.
    pub kept: usize,
}

pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// How many stand in the lists and not yet in the numbers: succeeded, failed.
pub fn uncounted(status: &JobStatus) -> (usize, usize) {
    let lists = status.uncounted_terminated_pods.as_ref();
    let len = |list: Option<&Vec<String>>| list.map_or(0, Vec::len);
    (len(lists.and_then(|l| l.succeeded.as_ref())), len(lists.and_then(|l| l.failed.as_ref())))
}

/// Moves pods through the lists. `finishing` says that the Job's end was decided in an earlier pass: then nothing is
/// kept back and every pod that goes has failed.
pub fn tally(job: &Job, spec: &JobSpec, pods: &[Arc<Pod>], finishing: bool, plan: &mut Plan) -> Tally {
    let limit = indexed(job).unwrap_or(0);
    let mut tally = Tally {
        completed: indexes::parse(plan.status.completed_indexes.as_deref().unwrap_or(""), limit),
        failed_indexes: indexes::parse(plan.status.failed_indexes.as_deref().unwrap_or(""), limit),
        ..Tally::default()
    };
    let done = pods.iter().filter(|p| phase(p) == "Succeeded" && is_tracked(p)).filter_map(|p| index_of(p));
    tally.completed.extend(done.filter(|i| *i < limit));
    let mut kept: Vec<String> = Vec::new();
    if let (Some(completions), Some(most)) = (indexed(job), spec.backoff_limit_per_index) {
        tally.failed_indexes = per_index::failed(spec, pods, most, std::mem::take(&mut tally.failed_indexes));
        tally.failed_indexes.retain(|i| *i < completions && !tally.completed.contains(i));
        if !finishing {
            let last = per_index::to_replace(spec, pods, &tally.completed, &tally.failed_indexes);
            kept = last.values().filter(|p| is_tracked(p)).map(|p| uid(p)).collect();
        }
    }
    let kept_counts = |p: &&Arc<Pod>| kept.contains(&uid(p)) && meaning(spec, p) != Meaning::Ignored;
    tally.kept = pods.iter().filter(kept_counts).count();
    move_through(spec, pods, finishing, &kept, plan);
    let (more_succeeded, more_failed) = uncounted(&plan.status);
    tally.failed = total(plan.status.failed, more_failed + tally.kept);
    tally.succeeded = match indexed(job) {
        Some(_) => total(None, tally.completed.len()),
        None => total(plan.status.succeeded, more_succeeded),
    };
    tally
}

fn total(counted: Option<i32>, more: usize) -> i32 {
    counted.unwrap_or(0).saturating_add(i32::try_from(more).unwrap_or(i32::MAX))
}

fn move_through(spec: &JobSpec, pods: &[Arc<Pod>], finishing: bool, kept: &[String], plan: &mut Plan) {
    let lists = plan.status.uncounted_terminated_pods.take().unwrap_or_default();
    let by_uid: BTreeMap<String, &Arc<Pod>> = pods.iter().map(|p| (uid(p), p)).collect();
    let still = |uid: &String| by_uid.get(uid).is_some_and(|p| is_tracked(p));
    let sort = |list: Option<Vec<String>>, counted: Option<i32>| {
        let (waiting, gone): (Vec<String>, Vec<String>) = list.into_iter().flatten().partition(still);
        (waiting, total(counted, gone.len()))
    };
    let (mut succeeded, sum_succeeded) = sort(lists.succeeded, plan.status.succeeded);
    let (mut failed, sum_failed) = sort(lists.failed, plan.status.failed);
    for pod in pods.iter().filter(|p| is_tracked(p)) {
        let ending = finishing && pod.metadata.deletion_timestamp.is_some();
        let over = phase(pod) == "Succeeded" || has_failed(spec, pod) || is_terminal(pod) || ending;
        let id = uid(pod);
        if !over || kept.contains(&id) {
            continue;
        }
        plan.counted.push(pod.clone());
        if succeeded.contains(&id) || failed.contains(&id) {
            continue;
        }
        if phase(pod) == "Succeeded" {
            succeeded.push(id);
        } else if meaning(spec, pod) != Meaning::Ignored {
            failed.push(id);
        }
    }
    let some = |n: i32| (n > 0).then_some(n);
    (plan.status.succeeded, plan.status.failed) = (some(sum_succeeded), some(sum_failed));
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    plan.status.uncounted_terminated_pods =
        Some(UncountedTerminatedPods { succeeded: some(succeeded), failed: some(failed) });
}
