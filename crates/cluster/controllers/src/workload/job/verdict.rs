//! Whether a Job has come to its end, and to which.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use kinit_component_helpers::pod::phase;

use super::conditions::condition;
use super::plan::indexed;
use super::policy::{self, Meaning, has_failed, meaning};
use super::tally::Tally;

/// How a Job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Completed, not failed.
    pub good: bool,
    /// The condition's reason.
    pub reason: String,
    /// The condition's message.
    pub message: String,
}

impl Verdict {
    /// It completes.
    pub fn good(reason: &str, message: &str) -> Self {
        Self { good: true, reason: reason.into(), message: message.into() }
    }
    /// It fails.
    pub fn bad(reason: &str, message: &str) -> Self {
        Self { good: false, reason: reason.into(), message: message.into() }
    }
}

/// What an earlier pass decided; it only waits for the last pods.
pub fn decided(status: &JobStatus) -> Option<Verdict> {
    let of = |type_: &str, good: bool| {
        let c = condition(Some(status), type_).filter(|c| c.status == "True")?;
        Some(Verdict {
            good,
            reason: c.reason.clone().unwrap_or_default(),
            message: c.message.clone().unwrap_or_default(),
        })
    };
    of("SuccessCriteriaMet", true).or_else(|| of("FailureTarget", false))
}

/// Whether the Job has come to its end, in upstream's order (`syncJob`).
pub fn verdict(
    job: &Job,
    spec: &JobSpec,
    pods: &[Arc<Pod>],
    tally: &Tally,
    status: &JobStatus,
    active: usize,
    now: Timestamp,
) -> Option<Verdict> {
    for pod in pods.iter().filter(|p| has_failed(spec, p)) {
        if let Meaning::FailsJob(message) = meaning(spec, pod) {
            return Some(Verdict::bad("PodFailurePolicy", &message));
        }
    }
    let limit = spec.backoff_limit.unwrap_or(if spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 });
    if tally.failed > limit || too_many_restarts(spec, pods, limit) {
        return Some(Verdict::bad("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
    }
    let since = status.start_time.as_ref().filter(|_| spec.suspend != Some(true));
    if let (Some(limit), Some(start)) = (spec.active_deadline_seconds, since)
        && now.duration_since(start.0) >= SignedDuration::from_secs(limit)
    {
        return Some(Verdict::bad("DeadlineExceeded", "Job was active longer than specified deadline"));
    }
    if let Some(verdict) = indexed(job).and_then(|completions| of_indexes(spec, completions, tally)) {
        return Some(verdict);
    }
    let done = match spec.completions {
        Some(completions) => tally.succeeded >= completions,
        None => tally.succeeded > 0 && active == 0,
    };
    done.then(|| Verdict::good("CompletionsReached", "Reached expected number of succeeded pods"))
}

fn of_indexes(spec: &JobSpec, completions: i32, tally: &Tally) -> Option<Verdict> {
    if spec.backoff_limit_per_index.is_some() {
        let (failed, completed) = (tally.failed_indexes.len(), tally.completed.len());
        let more_than = |n: usize, limit: i32| i32::try_from(n).map_or(true, |n| n > limit);
        if spec.max_failed_indexes.is_some_and(|most| more_than(failed, most)) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Verdict::bad("MaxFailedIndexesExceeded", message));
        }
        if failed > 0 && more_than(failed + completed, completions - 1) {
            return Some(Verdict::bad("FailedIndexes", "Job has failed indexes"));
        }
    }
    let message = policy::success(spec.success_policy.as_ref(), completions, &tally.completed)?;
    Some(Verdict::good("SuccessPolicy", &message))
}

/// Containers that restart in place count too (`pastBackoffLimitOnFailure`).
fn too_many_restarts(spec: &JobSpec, pods: &[Arc<Pod>], limit: i32) -> bool {
    if spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let restarts = |p: &Pod| -> i32 {
        let status = p.status.iter();
        let all = status
            .flat_map(|s| s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten()));
        all.map(|c| c.restart_count).sum()
    };
    let running = pods.iter().filter(|p| matches!(phase(p), "Running" | "Pending"));
    let sum: i32 = running.map(|p| restarts(p)).sum();
    sum > 0 && sum >= limit
}
