//! The pods of a Job that goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;

use super::plan::{NewPod, Plan, index_of, indexed};
use super::policy::replaces_late;
use super::tally::Tally;
use super::{back_off, per_index};

/// At most so many pods are created in one pass.
const BURST: usize = 500;

/// What a pass sees of a Job that goes on.
pub struct View<'a> {
    pub job: &'a Job,
    pub spec: &'a JobSpec,
    pub pods: &'a [Arc<Pod>],
    pub active: &'a [Arc<Pod>],
    pub ending: &'a [&'a Arc<Pod>],
    pub tally: &'a Tally,
    pub now: Timestamp,
}

/// Which pods a Job that goes on needs, and which it can do without (`manageJob`).
pub fn manage(view: &View<'_>, plan: &mut Plan) {
    let View { job, spec, pods, active, ending, tally, now } = *view;
    let parallelism = spec.parallelism.unwrap_or(1);
    let running = i32::try_from(active.len()).unwrap_or(i32::MAX);
    let wanted = match spec.completions {
        Some(completions) => parallelism.min(completions - tally.succeeded).max(0),
        // Once one has succeeded, the rest only finish.
        None if tally.succeeded > 0 => running.min(parallelism),
        None => parallelism,
    };
    let excess = excess(job, active.to_vec(), usize::try_from(running - wanted).unwrap_or(0), tally);
    if !excess.is_empty() {
        (plan.delete, plan.uncounted) = (excess, true);
        return;
    }
    let held = if replaces_late(spec) { i32::try_from(ending.len()).unwrap_or(0) } else { 0 };
    let missing = usize::try_from(wanted - running - held).unwrap_or(0).min(BURST);
    if missing == 0 {
        return;
    }
    let per_index = spec.backoff_limit_per_index.is_some() && indexed(job).is_some();
    if !per_index && let Some(wait) = back_off::of_job(pods, now) {
        plan.again = Some(wait);
        return;
    }
    let Some(completions) = indexed(job) else {
        plan.create = vec![NewPod::default(); missing];
        return;
    };
    let late = ending.iter().filter(|_| replaces_late(spec)).map(|p| &***p);
    let taken: BTreeSet<i32> = active.iter().map(|p| &**p).chain(late).filter_map(index_of).collect();
    let is_free = |i: &i32| !tally.completed.contains(i) && !taken.contains(i) && !tally.failed_indexes.contains(i);
    let free = (0..completions).filter(is_free).take(missing);
    if !per_index {
        plan.create = free.map(|i| NewPod { index: Some(i), failures: None }).collect();
        return;
    }
    let last: BTreeMap<i32, &Arc<Pod>> = per_index::to_replace(spec, pods, &tally.completed, &tally.failed_indexes);
    for index in free {
        let failed = last.get(&index).map(|p| &***p);
        let failures = per_index::next_failures(spec, failed);
        let times = usize::try_from(failures.0.saturating_add(failures.1)).unwrap_or(0);
        match failed.and_then(|pod| back_off::of_index(pod, times, now)) {
            Some(wait) => plan.again = Some(plan.again.map_or(wait, |a| a.min(wait))),
            None => plan.create.push(NewPod { index: Some(index), failures: Some(failures) }),
        }
    }
}

/// Pods to do without: those of indexes that are not wanted or have another, then the least useful.
fn excess(job: &Job, mut active: Vec<Arc<Pod>>, count: usize, tally: &Tally) -> Vec<Arc<Pod>> {
    let mut excess = Vec::new();
    if let Some(completions) = indexed(job) {
        crate::workload::rank::sort(&mut active, |_| 0);
        let mut seen = BTreeSet::new();
        // From the most useful on: who comes second is one too many.
        let (keep, rest): (Vec<_>, Vec<_>) = active.into_iter().rev().partition(|p| {
            index_of(p).is_some_and(|i| i < completions && !tally.completed.contains(&i) && seen.insert(i))
        });
        (active, excess) = (keep, rest);
    }
    crate::workload::rank::sort(&mut active, |_| 0);
    let more = count.saturating_sub(excess.len());
    excess.extend(active.into_iter().take(more));
    excess
}

/// Looks again when the Job's time is up.
pub fn deadline(spec: &JobSpec, plan: &mut Plan, now: Timestamp) {
    if let (Some(limit), Some(start)) = (spec.active_deadline_seconds, plan.status.start_time.as_ref()) {
        let left = SignedDuration::from_secs(limit) - now.duration_since(start.0);
        plan.again = Some(plan.again.map_or(left, |a| a.min(left)).max(SignedDuration::from_millis(10)));
    }
}
