//! What a Deployment's status says. No IO.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::plan::{available, desired, max_unavailable, replicas};

/// Why a Deployment is moving, or is not.
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// A condition by type.
pub fn condition<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == type_)
}

/// Sets a condition; one with the same status and reason stays as it is, one with the same status keeps its transition
/// time.
pub fn set_condition(
    status: &mut DeploymentStatus,
    type_: &str,
    value: &str,
    reason: &str,
    message: String,
    now: &Time,
) {
    let had = condition(status, type_).cloned();
    if had.as_ref().is_some_and(|c| c.status == value && c.reason.as_deref() == Some(reason)) {
        return;
    }
    let since = had.filter(|c| c.status == value).and_then(|c| c.last_transition_time);
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != type_);
    conditions.push(DeploymentCondition {
        type_: type_.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
    });
}

/// The deadline in seconds, unless there is none.
pub fn deadline(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref().and_then(|s| s.progress_deadline_seconds).filter(|s| *s != i32::MAX)
}

/// Counts, and whether enough pods are available.
pub fn counts(deployment: &Deployment, new: Option<&ReplicaSet>, all: &[&ReplicaSet], now: &Time) -> DeploymentStatus {
    let mut status = deployment.status.clone().unwrap_or_default();
    let sum = |of: &dyn Fn(&ReplicaSet) -> i32| all.iter().map(|s| of(s)).sum::<i32>();
    let some = |n: i32| (n != 0).then_some(n);
    let serving = sum(&available);
    status.observed_generation = deployment.metadata.generation;
    status.replicas = some(sum(&|s| s.status.as_ref().map_or(0, |s| s.replicas)));
    status.updated_replicas = new.and_then(|s| s.status.as_ref()).and_then(|s| some(s.replicas));
    status.ready_replicas = some(sum(&|s| s.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)));
    status.available_replicas = some(serving);
    status.unavailable_replicas = some((sum(&replicas) - serving).max(0));
    if serving >= desired(deployment) - max_unavailable(deployment) {
        let message = "Deployment has minimum availability.".to_owned();
        set_condition(&mut status, "Available", "True", "MinimumReplicasAvailable", message, now);
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        set_condition(&mut status, "Available", "False", "MinimumReplicasUnavailable", message, now);
    }
    status
}

/// All pods are of the new template, and available.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let total = desired(deployment);
    status.updated_replicas.unwrap_or(0) == total
        && status.replicas.unwrap_or(0) == total
        && status.available_replicas.unwrap_or(0) == total
        && status.observed_generation >= deployment.metadata.generation
}

fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |v: Option<i32>| v.unwrap_or(0);
    n(new.updated_replicas) > n(old.updated_replicas)
        || n(new.replicas) - n(new.updated_replicas) < n(old.replicas) - n(old.updated_replicas)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

/// Whether a rollout that was under way has not moved for as long as its deadline allows.
pub fn is_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let (Some(limit), Some(progress)) = (deadline(deployment), condition(status, "Progressing")) else { return false };
    match progress.reason.as_deref() {
        Some(COMPLETE) => false,
        Some(TIMED_OUT) => true,
        _ => progress
            .last_update_time
            .as_ref()
            .is_some_and(|t| now.duration_since(t.0) > SignedDuration::from_secs(i64::from(limit))),
    }
}

/// The status after a look at a rollout: counts, `Progressing`, and the sets' own failures.
pub fn rollout(deployment: &Deployment, new: Option<&ReplicaSet>, all: &[&ReplicaSet], now: &Time) -> DeploymentStatus {
    let mut status = counts(deployment, new, all, now);
    let old = deployment.status.clone().unwrap_or_default();
    if deadline(deployment).is_none() {
        status.conditions.get_or_insert_default().retain(|c| c.type_ != "Progressing");
    }
    let settled = status.replicas == status.updated_replicas
        && condition(&old, "Progressing").is_some_and(|c| c.reason.as_deref() == Some(COMPLETE));
    if deadline(deployment).is_some() && !settled {
        let who = new.map_or_else(
            || format!("Deployment {:?}", deployment.name_any()),
            |s| format!("ReplicaSet {:?}", s.name_any()),
        );
        if is_complete(deployment, &status) {
            let message = format!("{who} has successfully progressed.");
            set_condition(&mut status, "Progressing", "True", COMPLETE, message, now);
        } else if is_progressing(&old, &status) {
            // Each move starts the deadline anew.
            let since = condition(&status, "Progressing").filter(|c| c.status == "True");
            let since = since.and_then(|c| c.last_transition_time.clone());
            let conditions = status.conditions.get_or_insert_default();
            conditions.retain(|c| c.type_ != "Progressing");
            conditions.push(DeploymentCondition {
                type_: "Progressing".into(),
                status: "True".into(),
                reason: Some("ReplicaSetUpdated".into()),
                message: Some(format!("{who} is progressing.")),
                last_update_time: Some(now.clone()),
                last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
            });
        } else if is_timed_out(deployment, &status, now.0) {
            let message = format!("{who} has timed out progressing.");
            set_condition(&mut status, "Progressing", "False", TIMED_OUT, message, now);
        }
    }
    // The new set's failure matters most; else any old one's.
    let failing = |s: &&ReplicaSet| {
        let conditions = s.status.as_ref().and_then(|s| s.conditions.as_ref());
        conditions.into_iter().flatten().find(|c| c.type_ == "ReplicaFailure" && c.status == "True").cloned()
    };
    match new.as_ref().and_then(failing).or_else(|| all.iter().find_map(failing)) {
        Some(c) => {
            let (reason, message) = (c.reason.unwrap_or_default(), c.message.unwrap_or_default());
            set_condition(&mut status, "ReplicaFailure", "True", &reason, message, now);
        }
        None => status.conditions.get_or_insert_default().retain(|c| c.type_ != "ReplicaFailure"),
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(status: serde_json::Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "d", "generation": 2},
            "spec": {"replicas": 2, "progressDeadlineSeconds": 600, "selector": {}, "template": {}}, "status": status
        }))
        .unwrap()
    }

    fn set(name: &str, replicas: i32, available: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {}},
            "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available}
        }))
        .unwrap()
    }

    #[test]
    fn progress_is_told_once_and_times_out() {
        let at = |text: &str| Time(text.parse().unwrap());
        let reason = |s: &DeploymentStatus| condition(s, "Progressing").and_then(|c| c.reason.clone());
        let (t0, t1, t2) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T00:05:00Z"), at("2026-01-01T00:10:01Z"));
        let new = set("d-1", 2, 0);
        let d = deployment(json!({}));
        let moving = rollout(&d, Some(&new), &[&new], &t0);
        assert_eq!(reason(&moving).as_deref(), Some("ReplicaSetUpdated"));
        assert_eq!(condition(&moving, "Available").unwrap().status, "False");
        let d = Deployment { status: Some(moving.clone()), ..d };
        assert_eq!(rollout(&d, Some(&new), &[&new], &t1), moving, "nothing moved, time is left");
        let late = rollout(&d, Some(&new), &[&new], &t2);
        assert_eq!(reason(&late).as_deref(), Some("ProgressDeadlineExceeded"));
        let ready = set("d-1", 2, 2);
        let d = Deployment { status: Some(late), ..d };
        let done = rollout(&d, Some(&ready), &[&ready], &t2);
        assert_eq!(reason(&done).as_deref(), Some("NewReplicaSetAvailable"));
        assert!(is_complete(&d, &done));
        let d = Deployment { status: Some(done.clone()), ..d };
        assert_eq!(rollout(&d, Some(&ready), &[&ready], &t2), done);
        assert!(!is_timed_out(&d, &done, t2.0));
    }
}
