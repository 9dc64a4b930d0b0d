//! What a Job's pods say about it, and what to do next. No IO.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::policy::{self, Meaning, has_failed, meaning, replaces_late};
use super::tally::{Tally, is_tracked, tally, uncounted};
use super::{INDEX, back_off, indexes, per_index};
use crate::object::pod::{is_active, is_ready, is_terminal, phase};

/// At most so many pods are created in one pass.
const BURST: usize = 500;

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
    /// Whether the deleted are to lose their finalizer first, so that they count for nothing: they were too many, or the Job is suspended.
    pub uncounted: bool,
    /// When to look again without an event.
    pub again: Option<SignedDuration>,
    /// The Job came to its end with this pass: type, reason and message of the event.
    pub ended: Option<(&'static str, String, String)>,
}

/// How a Job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    good: bool,
    reason: String,
    message: String,
}

impl Verdict {
    fn good(reason: &str, message: &str) -> Self {
        Self { good: true, reason: reason.into(), message: message.into() }
    }
    fn bad(reason: &str, message: &str) -> Self {
        Self { good: false, reason: reason.into(), message: message.into() }
    }
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

/// What an earlier pass decided; it only waits for the last pods.
fn decided(status: &JobStatus) -> Option<Verdict> {
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
fn verdict(
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

/// What a pass sees of a Job that goes on.
struct View<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    pods: &'a [Arc<Pod>],
    active: &'a [Arc<Pod>],
    ending: &'a [&'a Arc<Pod>],
    tally: &'a Tally,
    now: Timestamp,
}

fn manage(view: &View<'_>, plan: &mut Plan) {
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

fn deadline(spec: &JobSpec, plan: &mut Plan, now: Timestamp) {
    if let (Some(limit), Some(start)) = (spec.active_deadline_seconds, plan.status.start_time.as_ref()) {
        let left = SignedDuration::from_secs(limit) - now.duration_since(start.0);
        plan.again = Some(plan.again.map_or(left, |a| a.min(left)).max(SignedDuration::from_millis(10)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::FINALIZER;
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
        let indexes: Vec<_> = result.create.iter().map(|p| p.index).collect();
        assert_eq!(indexes, [Some(1), Some(3)]);
        assert_eq!((result.status.completed_indexes.as_deref(), result.status.succeeded), (Some("0"), Some(1)));
    }

    #[test]
    fn one_pod_an_index() {
        let spec = json!({"completions": 2, "parallelism": 3, "completionMode": "Indexed"});
        let pods = [
            pod("a", "Pending", true, Some(0)),
            pod("b", "Running", true, Some(0)),
            pod("c", "Running", true, Some(5)),
            pod("d", "Running", true, Some(1)),
        ];
        let result = plan(&job(spec, JobStatus::default()), &pods, &now());
        let mut names: Vec<_> = result.delete.iter().map(|p| p.name_any()).collect();
        names.sort();
        assert_eq!((names, result.uncounted), (vec!["a".to_owned(), "c".to_owned()], true));
    }

    #[test]
    fn a_policy_fails_the_job_or_ignores_the_pod() {
        let codes = |action: &str| {
            json!({"completions": 1, "backoffLimit": 0, "podFailurePolicy": {"rules": [
            {"action": action, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}})
        };
        let mut failed = (*pod("a", "Failed", true, None)).clone();
        let condition = json!([{"type": "DisruptionTarget", "status": "True"}]);
        failed.status.as_mut().unwrap().conditions = serde_json::from_value(condition).unwrap();
        let failed = [Arc::new(failed)];
        let ignored = plan(&job(codes("Ignore"), JobStatus::default()), &failed, &now());
        assert_eq!((uncounted(&ignored.status), ignored.counted.len(), ignored.create.len()), ((0, 0), 1, 1));
        let counts = plan(&job(codes("Count"), JobStatus::default()), &failed, &now());
        assert_eq!(decided(&counts.status).unwrap().reason, "BackoffLimitExceeded");
        let fails = plan(&job(codes("FailJob"), JobStatus::default()), &failed, &now());
        assert_eq!(decided(&fails.status).unwrap().reason, "PodFailurePolicy");
        let end = plan(&job(codes("FailJob"), fails.status), &[], &now());
        assert_eq!((end.ended.unwrap().1.as_str(), end.status.failed), ("PodFailurePolicy", Some(1)));
    }

    #[test]
    fn pods_are_replaced_early_or_late() {
        let mut ending = (*pod("a", "Running", true, None)).clone();
        ending.metadata.deletion_timestamp = Some(now());
        let ending = [Arc::new(ending)];
        for (policy, created, counted) in [("TerminatingOrFailed", 1, 1), ("Failed", 0, 0)] {
            let spec = json!({"completions": 1, "podReplacementPolicy": policy});
            let result = plan(&job(spec, JobStatus::default()), &ending, &now());
            assert_eq!((result.create.len(), result.counted.len()), (created, counted), "{policy}");
            assert_eq!(result.status.terminating, Some(1));
        }
    }

    #[test]
    fn indexes_fail_on_their_own() {
        let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 0,
                          "maxFailedIndexes": 1});
        let pods = |phases: [&str; 3]| -> Vec<Arc<Pod>> {
            (0..3).map(|i| pod(&format!("p{i}"), phases[usize::try_from(i).unwrap()], true, Some(i))).collect()
        };
        let going = plan(&job(spec.clone(), JobStatus::default()), &pods(["Failed", "Running", "Succeeded"]), &now());
        assert_eq!((going.status.failed_indexes.as_deref(), decided(&going.status)), (Some("0"), None));
        assert!(going.create.is_empty(), "a failed index is not tried again");
        let over = plan(&job(spec.clone(), JobStatus::default()), &pods(["Failed", "Succeeded", "Succeeded"]), &now());
        assert_eq!(decided(&over.status).unwrap().reason, "FailedIndexes");
        let many = plan(&job(spec, JobStatus::default()), &pods(["Failed", "Running", "Failed"]), &now());
        assert_eq!(decided(&many.status).unwrap().reason, "MaxFailedIndexesExceeded");
        let twice = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 1});
        let again = plan(&job(twice, JobStatus::default()), &pods(["Failed", "Running", "Running"]), &now());
        assert_eq!(again.create, [NewPod { index: Some(0), failures: Some((1, 0)) }]);
        assert!(again.counted.is_empty(), "it keeps its finalizer until its successor is there");
    }

    #[test]
    fn enough_is_enough() {
        let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed",
                          "successPolicy": {"rules": [{"succeededIndexes": "1"}]}});
        let pods = [pod("a", "Running", true, Some(0)), pod("b", "Succeeded", true, Some(1))];
        let met = plan(&job(spec.clone(), JobStatus::default()), &pods, &now());
        assert_eq!(decided(&met.status), Some(Verdict::good("SuccessPolicy", "Matched rules at index 0")));
        assert_eq!((met.delete.len(), met.uncounted), (1, false));
        let end = plan(&job(spec, met.status), &[pod("b", "Succeeded", false, Some(1))], &now());
        assert!(has(Some(&end.status), "Complete"));
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
