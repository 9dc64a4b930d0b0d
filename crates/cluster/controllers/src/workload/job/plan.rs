//! What a Job's pods say about it, and what to do next. No IO.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kinit_component_helpers::pod::{is_active, is_ready, is_terminal};
use kube::ResourceExt;

use super::conditions::{condition, is_finished, set_condition};
use super::manage::{View, deadline, manage};
use super::tally::{is_tracked, tally, uncounted};
use super::verdict::{Verdict, decided, verdict};
use super::{INDEX, indexes};

/// A pod to create.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewPod {
    /// Its index, for indexed Jobs.
    pub index: Option<i32>,
    /// How often its index has failed, counted and ignored, where indexes fail on their own.
    pub failures: Option<(i32, i32)>,
}

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// The status to write.
    pub status: JobStatus,
    /// Pods that may lose their finalizer once the status is written.
    pub counted: Vec<Arc<Pod>>,
    /// Pods to create.
    pub create: Vec<NewPod>,
    /// Pods to delete.
    pub delete: Vec<Arc<Pod>>,
    /// Whether the deleted are to lose their finalizer first, so that they count for nothing: they were too many, or
    /// the Job is suspended.
    pub uncounted: bool,
    /// When to look again without an event.
    pub again: Option<jiff::SignedDuration>,
    /// The Job came to its end with this pass: type, reason and message of the event.
    pub ended: Option<(&'static str, String, String)>,
}

/// A pod's completion index.
pub fn index_of(pod: &Pod) -> Option<i32> {
    pod.annotations().get(INDEX)?.parse().ok().filter(|i| *i >= 0)
}

/// The completions of an indexed Job.
pub fn indexed(job: &Job) -> Option<i32> {
    let spec = job.spec.as_ref()?;
    spec.completions.filter(|_| spec.completion_mode.as_deref() == Some("Indexed"))
}

/// Looks at all pods of the Job.
pub fn plan(job: &Job, pods: &[Arc<Pod>], now: &Time) -> Plan {
    let spec = job.spec.clone().unwrap_or_default();
    let mut plan = Plan { status: job.status.clone().unwrap_or_default(), ..Plan::default() };
    if is_finished(job) {
        // Latecomers are let go, uncounted.
        plan.counted = pods.iter().filter(|p| is_tracked(p)).cloned().collect();
        return plan;
    }
    let suspended = spec.suspend == Some(true);
    if plan.status.start_time.is_none() && !suspended {
        plan.status.start_time = Some(now.clone());
    }
    let decided = decided(&plan.status);
    let tally = tally(job, &spec, pods, decided.is_some(), &mut plan);
    let active: Vec<Arc<Pod>> = pods.iter().filter(|p| is_active(p)).cloned().collect();
    let ending: Vec<&Arc<Pod>> =
        pods.iter().filter(|p| p.metadata.deletion_timestamp.is_some() && !is_terminal(p)).collect();
    let some = |n: usize| i32::try_from(n).ok().filter(|n| *n > 0);
    plan.status.active = some(active.len());
    plan.status.ready = Some(i32::try_from(active.iter().filter(|p| is_ready(p)).count()).unwrap_or(0));
    plan.status.terminating = Some(i32::try_from(ending.len()).unwrap_or(0));
    if indexed(job).is_some() {
        plan.status.completed_indexes = Some(indexes::format(&tally.completed)).filter(|t| !t.is_empty());
        plan.status.succeeded = some(tally.completed.len());
        if spec.backoff_limit_per_index.is_some() {
            plan.status.failed_indexes = Some(indexes::format(&tally.failed_indexes));
        }
    }
    let verdict = decided.or_else(|| verdict(job, &spec, pods, &tally, &plan.status, active.len(), now.0));
    match verdict {
        Some(verdict) => end(&mut plan, &verdict, active, ending.is_empty() && tally.kept == 0, now),
        None if suspended => {
            (plan.delete, plan.uncounted) = (active, true);
            plan.status.start_time = None;
            set_condition(&mut plan.status, "Suspended", "True", "JobSuspended", "Job suspended", now);
        }
        None => {
            if condition(Some(&plan.status), "Suspended").is_some() {
                let resumed = set_condition(&mut plan.status, "Suspended", "False", "JobResumed", "Job resumed", now);
                if resumed {
                    plan.status.start_time = Some(now.clone());
                }
            }
            let (active, ending) = (&active, &ending);
            manage(&View { job, spec: &spec, pods, active, ending, tally: &tally, now: now.0 }, &mut plan);
            deadline(&spec, &mut plan, now.0);
        }
    }
    plan
}

fn end(plan: &mut Plan, verdict: &Verdict, active: Vec<Arc<Pod>>, nobody_ends: bool, now: &Time) {
    let Verdict { good, reason, message } = verdict;
    let target = if *good { "SuccessCriteriaMet" } else { "FailureTarget" };
    set_condition(&mut plan.status, target, "True", reason, message, now);
    let nobody = active.is_empty() && nobody_ends && uncounted(&plan.status) == (0, 0);
    plan.delete = active;
    if nobody {
        let last = if *good { "Complete" } else { "Failed" };
        set_condition(&mut plan.status, last, "True", reason, message, now);
        if *good {
            plan.status.completion_time = Some(now.clone());
            plan.ended = Some(("Normal", "Completed".into(), "Job completed".into()));
        } else {
            plan.ended = Some(("Warning", reason.clone(), message.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
