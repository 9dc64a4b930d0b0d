//! What a Job's pods say about it, and what to do next. No IO.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{FINALIZER, INDEX, indexes};
use crate::object::pod::{is_active, is_ready, is_terminal, phase};

const FIRST_BACK_OFF: SignedDuration = SignedDuration::from_secs(10);
const LONGEST_BACK_OFF: SignedDuration = SignedDuration::from_mins(10);

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// The status to write.
    pub status: JobStatus,
    /// Pods that may lose their finalizer once the status is written.
    pub counted: Vec<Arc<Pod>>,
    /// So many pods to create; for indexed Jobs, of these indexes.
    pub create: Vec<Option<i32>>,
    /// Pods to delete.
    pub delete: Vec<Arc<Pod>>,
    /// When to look again without an event.
    pub again: Option<SignedDuration>,
    /// The Job came to its end with this pass: reason and message.
    pub ended: Option<(&'static str, &'static str, String)>,
}

/// Whether the Job is over.
pub fn is_finished(job: &Job) -> bool {
    has(job.status.as_ref(), "Complete") || has(job.status.as_ref(), "Failed")
}

fn has(status: Option<&JobStatus>, type_: &str) -> bool {
    condition(status, type_).is_some_and(|c| c.status == "True")
}

fn condition<'a>(status: Option<&'a JobStatus>, type_: &str) -> Option<&'a JobCondition> {
    status?.conditions.iter().flatten().find(|c| c.type_ == type_)
}

fn set_condition(status: &mut JobStatus, type_: &str, value: &str, reason: &str, message: &str, now: &Time) -> bool {
    if condition(Some(status), type_).is_some_and(|c| c.status == value && c.reason.as_deref() == Some(reason)) {
        return false;
    }
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != type_);
    conditions.push(JobCondition {
        type_: type_.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(now.clone()),
        last_transition_time: Some(now.clone()),
    });
    true
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

/// A pod's completion index.
pub fn index_of(pod: &Pod) -> Option<i32> {
    pod.annotations().get(INDEX)?.parse().ok()
}

/// The completions of an indexed Job.
fn indexed(job: &Job) -> Option<i32> {
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
    let mut completed = count(job, pods, &mut plan);
    let active: Vec<Arc<Pod>> = pods.iter().filter(|p| is_active(p)).cloned().collect();
    let some = |n: usize| i32::try_from(n).ok().filter(|n| *n > 0);
    plan.status.active = some(active.len());
    plan.status.ready = Some(i32::try_from(active.iter().filter(|p| is_ready(p)).count()).unwrap_or(0));
    let terminating = pods.iter().filter(|p| p.metadata.deletion_timestamp.is_some() && !is_terminal(p)).count();
    plan.status.terminating = Some(i32::try_from(terminating).unwrap_or(0));
    if let Some(completions) = indexed(job) {
        completed.retain(|i| *i < completions);
        plan.status.completed_indexes = Some(indexes::format(&completed)).filter(|t| !t.is_empty());
        plan.status.succeeded = some(completed.len());
    }
    let verdict = verdict(job, pods, &plan.status, active.len(), now.0);
    match verdict {
        Some((good, reason, message)) => end(&mut plan, (good, reason, message), active, terminating, now),
        None if suspended => {
            plan.delete = active;
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
            manage(job, pods, &mut plan, active, &completed, terminating, now.0);
            deadline(job, &mut plan, now.0);
        }
    }
    plan
}

/// Moves pods through `uncountedTerminatedPods`; returns the completed indexes.
fn count(job: &Job, pods: &[Arc<Pod>], plan: &mut Plan) -> BTreeSet<i32> {
    let limit = indexed(job).unwrap_or(0);
    let mut completed = indexes::parse(plan.status.completed_indexes.as_deref().unwrap_or(""), limit);
    let uncounted = plan.status.uncounted_terminated_pods.take().unwrap_or_default();
    let by_uid: BTreeMap<String, &Arc<Pod>> = pods.iter().map(|p| (uid(p), p)).collect();
    let still = |uid: &String| by_uid.get(uid).is_some_and(|p| is_tracked(p));
    let (mut succeeded, mut failed) = (Vec::new(), Vec::new());
    let (mut sum_succeeded, mut sum_failed) = (plan.status.succeeded.unwrap_or(0), plan.status.failed.unwrap_or(0));
    for uid in uncounted.succeeded.into_iter().flatten() {
        if still(&uid) { succeeded.push(uid) } else { sum_succeeded += 1 }
    }
    for uid in uncounted.failed.into_iter().flatten() {
        if still(&uid) { failed.push(uid) } else { sum_failed += 1 }
    }
    for pod in pods.iter().filter(|p| is_tracked(p)) {
        let over = is_terminal(pod) || pod.metadata.deletion_timestamp.is_some();
        if !over {
            continue;
        }
        plan.counted.push(pod.clone());
        let id = uid(pod);
        if succeeded.contains(&id) || failed.contains(&id) {
            continue;
        }
        if phase(pod) == "Succeeded" {
            completed.extend(index_of(pod));
            succeeded.push(id);
        } else {
            failed.push(id);
        }
    }
    plan.status.succeeded = (sum_succeeded > 0).then_some(sum_succeeded);
    plan.status.failed = (sum_failed > 0).then_some(sum_failed);
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    plan.status.uncounted_terminated_pods =
        Some(UncountedTerminatedPods { succeeded: some(succeeded), failed: some(failed) });
    completed
}

fn uncounted(status: &JobStatus) -> (usize, usize) {
    let lists = status.uncounted_terminated_pods.as_ref();
    let len = |list: Option<&Vec<String>>| list.map_or(0, Vec::len);
    (len(lists.and_then(|l| l.succeeded.as_ref())), len(lists.and_then(|l| l.failed.as_ref())))
}

fn total(counted: Option<i32>, more: usize) -> i32 {
    counted.unwrap_or(0).saturating_add(i32::try_from(more).unwrap_or(i32::MAX))
}

/// Whether the Job has come to its end: (well?, reason, message).
fn verdict(
    job: &Job,
    pods: &[Arc<Pod>],
    status: &JobStatus,
    active: usize,
    now: Timestamp,
) -> Option<(bool, &'static str, String)> {
    let spec = job.spec.clone().unwrap_or_default();
    let (more_succeeded, more_failed) = uncounted(status);
    // Decided in an earlier pass; it only waits for the last pods.
    for (type_, good) in [("FailureTarget", false), ("SuccessCriteriaMet", true)] {
        if let Some(c) = condition(Some(status), type_).filter(|c| c.status == "True") {
            let reason = match c.reason.as_deref() {
                Some("BackoffLimitExceeded") => "BackoffLimitExceeded",
                Some("DeadlineExceeded") => "DeadlineExceeded",
                _ => "CompletionsReached",
            };
            return Some((good, reason, c.message.clone().unwrap_or_default()));
        }
    }
    let succeeded = match indexed(job) {
        Some(_) => status.succeeded.unwrap_or(0),
        None => total(status.succeeded, more_succeeded),
    };
    let done = match spec.completions {
        Some(completions) => succeeded >= completions,
        None => succeeded > 0 && active == 0,
    };
    if done {
        return Some((true, "CompletionsReached", "Reached expected number of succeeded pods".into()));
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    let restarts: i32 = pods.iter().filter(|p| is_active(p)).map(|p| crate::object::pod::max_restarts(p)).sum();
    let on_failure = spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure");
    let too_many_restarts = on_failure && restarts > 0 && restarts >= limit;
    if total(status.failed, more_failed) > limit || too_many_restarts {
        return Some((false, "BackoffLimitExceeded", "Job has reached the specified backoff limit".into()));
    }
    let since = status.start_time.as_ref().filter(|_| spec.suspend != Some(true));
    if let (Some(limit), Some(start)) = (spec.active_deadline_seconds, since)
        && now.duration_since(start.0) >= SignedDuration::from_secs(limit)
    {
        return Some((false, "DeadlineExceeded", "Job was active longer than specified deadline".into()));
    }
    None
}

fn end(
    plan: &mut Plan,
    (good, reason, message): (bool, &'static str, String),
    active: Vec<Arc<Pod>>,
    terminating: usize,
    now: &Time,
) {
    let target = if good { "SuccessCriteriaMet" } else { "FailureTarget" };
    set_condition(&mut plan.status, target, "True", reason, &message, now);
    let nobody = active.is_empty() && terminating == 0 && uncounted(&plan.status) == (0, 0);
    plan.delete = active;
    if nobody {
        let last = if good { "Complete" } else { "Failed" };
        set_condition(&mut plan.status, last, "True", reason, &message, now);
        if good {
            plan.status.completion_time = Some(now.clone());
        }
        let event =
            if good { ("Normal", "Completed", "Job completed".to_owned()) } else { ("Warning", reason, message) };
        plan.ended = Some(event);
    }
}

fn manage(
    job: &Job,
    pods: &[Arc<Pod>],
    plan: &mut Plan,
    active: Vec<Arc<Pod>>,
    completed: &BTreeSet<i32>,
    terminating: usize,
    now: Timestamp,
) {
    let spec = job.spec.clone().unwrap_or_default();
    let parallelism = spec.parallelism.unwrap_or(1);
    let (more_succeeded, _) = uncounted(&plan.status);
    let succeeded = match indexed(job) {
        Some(_) => plan.status.succeeded.unwrap_or(0),
        None => total(plan.status.succeeded, more_succeeded),
    };
    let running = i32::try_from(active.len()).unwrap_or(i32::MAX);
    let wanted = match spec.completions {
        Some(completions) => parallelism.min(completions - succeeded).max(0),
        // Once one has succeeded, the rest only finish.
        None if succeeded > 0 => running.min(parallelism),
        None => parallelism,
    };
    if running > wanted {
        let mut excess = active;
        crate::workload::rank::sort(&mut excess, |_| 0);
        excess.truncate(usize::try_from(running - wanted).unwrap_or(0));
        plan.delete = excess;
        return;
    }
    let replaces_late = spec.pod_replacement_policy.as_deref() == Some("Failed");
    let held = if replaces_late { i32::try_from(terminating).unwrap_or(0) } else { 0 };
    let missing = usize::try_from(wanted - running - held).unwrap_or(0);
    if missing == 0 {
        return;
    }
    if let Some(wait) = back_off(pods, now) {
        plan.again = Some(wait);
        return;
    }
    plan.create = match indexed(job) {
        None => vec![None; missing],
        Some(completions) => {
            let taken: BTreeSet<i32> = active.iter().filter_map(|p| index_of(p)).collect();
            let free = (0..completions).filter(|i| !completed.contains(i) && !taken.contains(i));
            free.take(missing).map(Some).collect()
        }
    };
}

/// How long to wait after failures: 10 s after the first, twice as long after each that followed without a success.
fn back_off(pods: &[Arc<Pod>], now: Timestamp) -> Option<SignedDuration> {
    let ended = |p: &Pod| -> Option<Timestamp> {
        let statuses = p.status.as_ref()?.container_statuses.iter().flatten();
        let at =
            statuses.filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()).map(|t| t.0).max();
        at.or_else(|| p.metadata.creation_timestamp.as_ref().map(|t| t.0))
    };
    let last_success = pods.iter().filter(|p| phase(p) == "Succeeded").filter_map(|p| ended(p)).max();
    let failures: Vec<Timestamp> = pods
        .iter()
        .filter(|p| phase(p) == "Failed")
        .filter_map(|p| ended(p))
        .filter(|at| last_success.is_none_or(|s| *at > s))
        .collect();
    let (last, count) = (failures.iter().max()?, failures.len());
    let factor = 1_i32.checked_shl(u32::try_from(count - 1).unwrap_or(0)).unwrap_or(i32::MAX).clamp(1, 60);
    let wait = FIRST_BACK_OFF.checked_mul(factor).map_or(LONGEST_BACK_OFF, |w| w.min(LONGEST_BACK_OFF));
    let left = last.saturating_add(wait).ok()?.duration_since(now);
    left.is_positive().then_some(left)
}

fn deadline(job: &Job, plan: &mut Plan, now: Timestamp) {
    let limit = job.spec.as_ref().and_then(|s| s.active_deadline_seconds);
    if let (Some(limit), Some(start)) = (limit, plan.status.start_time.as_ref()) {
        let left = SignedDuration::from_secs(limit) - now.duration_since(start.0);
        plan.again = Some(plan.again.map_or(left, |a| a.min(left)).max(SignedDuration::from_millis(10)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn job(spec: Value, status: JobStatus) -> Job {
        let mut job: Job =
            serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": {"template": {}}})).unwrap();
        let mut whole = serde_json::to_value(job.spec.take().unwrap()).unwrap();
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        job.spec = serde_json::from_value(whole).unwrap();
        job.status = Some(status);
        job
    }

    fn pod(name: &str, phase: &str, tracked: bool, index: Option<i32>) -> Arc<Pod> {
        let finalizers = if tracked { vec![FINALIZER] } else { vec![] };
        let annotations = index.map(|i| json!({INDEX: i.to_string()}));
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "uid": name, "finalizers": finalizers, "annotations": annotations,
                             "creationTimestamp": "2020-01-01T00:00:00Z"},
                "status": {"phase": phase}
            }))
            .unwrap(),
        )
    }

    fn now() -> Time {
        Time("2026-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_job_from_its_beginning_to_its_end() {
        let spec = json!({"completions": 2, "parallelism": 1});
        let first = plan(&job(spec.clone(), JobStatus::default()), &[], &now());
        assert_eq!(first.create.len(), 1);
        let done = plan(&job(spec.clone(), first.status), &[pod("a", "Succeeded", true, None)], &now());
        assert_eq!((uncounted(&done.status), done.status.succeeded, done.counted.len()), ((1, 0), None, 1));
        assert_eq!(done.create.len(), 1, "the next need not wait for the count");
        let counted = plan(
            &job(spec.clone(), done.status),
            &[pod("a", "Succeeded", false, None), pod("b", "Running", true, None)],
            &now(),
        );
        assert_eq!((counted.status.succeeded, uncounted(&counted.status), counted.create.len()), (Some(1), (0, 0), 0));
        let both = [pod("a", "Succeeded", false, None), pod("b", "Succeeded", true, None)];
        let met = plan(&job(spec.clone(), counted.status), &both, &now());
        assert!(has(Some(&met.status), "SuccessCriteriaMet") && !has(Some(&met.status), "Complete"));
        let end = plan(&job(spec, met.status), &[pod("b", "Succeeded", false, None)], &now());
        assert_eq!((has(Some(&end.status), "Complete"), end.status.succeeded), (true, Some(2)));
        assert_eq!(end.ended.unwrap().1, "Completed");
    }

    #[test]
    fn failures_count_against_the_limit() {
        let spec = json!({"backoffLimit": 0, "completions": 1});
        let pods = [pod("a", "Failed", true, None), pod("b", "Running", true, None)];
        let failing = plan(&job(spec.clone(), JobStatus::default()), &pods, &now());
        assert!(has(Some(&failing.status), "FailureTarget"));
        assert_eq!(failing.delete[0].name_any(), "b");
        let end = plan(&job(spec, failing.status), &[pod("a", "Failed", false, None)], &now());
        assert_eq!(end.ended.unwrap().1, "BackoffLimitExceeded");
    }

    #[test]
    fn indexed_jobs_fill_the_gaps() {
        let spec = json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed"});
        let pods = [pod("a", "Succeeded", true, Some(0)), pod("c", "Running", true, Some(2))];
        let result = plan(&job(spec, JobStatus::default()), &pods, &now());
        assert_eq!(result.create, [Some(1), Some(3)]);
        assert_eq!((result.status.completed_indexes.as_deref(), result.status.succeeded), (Some("0"), Some(1)));
    }

    #[test]
    fn suspended_jobs_have_no_pods() {
        let result =
            plan(&job(json!({"suspend": true}), JobStatus::default()), &[pod("a", "Running", true, None)], &now());
        assert_eq!((result.delete.len(), result.create.len(), result.status.start_time.clone()), (1, 0, None));
        let resumed = plan(&job(json!({}), result.status), &[], &now());
        assert_eq!((resumed.create.len(), resumed.status.start_time.is_some()), (1, true));
    }
}
