//! Jobs from their beginning to their end, a pass at a time.

use super::super::FINALIZER;
use super::super::conditions::has;
use super::super::verdict::Verdict;
use super::*;
use serde_json::{Value, json};

fn job(spec: Value, status: JobStatus) -> Job {
    let mut job: Job = serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": {"template": {}}})).unwrap();
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
    let result = plan(&job(json!({"suspend": true}), JobStatus::default()), &[pod("a", "Running", true, None)], &now());
    assert_eq!((result.delete.len(), result.create.len(), result.status.start_time.clone()), (1, 0, None));
    let resumed = plan(&job(json!({}), result.status), &[], &now());
    assert_eq!((resumed.create.len(), resumed.status.start_time.is_some()), (1, true));
}
