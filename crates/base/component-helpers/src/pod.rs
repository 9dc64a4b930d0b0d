//! Facts about pods (`k8s.io/kubernetes/pkg/api/v1/pod`).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use kinit_apimachinery::time;
use serde_json::{Value, json};

/// The node a pod is bound to.
pub fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// `status.phase`, empty when unset.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// Succeeded or Failed: no container runs again.
pub fn is_terminal(pod: &Pod) -> bool {
    is_over(pod.status.as_ref())
}

/// The same, of a status; none says nothing of an end.
pub fn is_over(status: Option<&PodStatus>) -> bool {
    matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Neither terminal nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// A condition by type.
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == type_)
}

/// Whether the Ready condition is True.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Since when the pod is ready.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready").filter(|c| c.status == "True")?.last_transition_time.as_ref().map(|t| t.0)
}

/// When the pod counts as available: `Some(now or earlier)` is available, a later time says when to look again.
pub fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready_seconds <= 0 {
        return Some(Timestamp::MIN);
    }
    ready_since(pod)?.checked_add(SignedDuration::from_secs(i64::from(min_ready_seconds))).ok()
}

/// Whether the pod has been ready for `min_ready_seconds`.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    available_at(pod, min_ready_seconds).is_some_and(|at| at <= now)
}

/// The condition of a pod that is about to end for a reason outside it (`v1.DisruptionTarget`), as a patch of its
/// status has it.
pub fn disruption_target(reason: &str, message: &str, now: Timestamp) -> Value {
    json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastProbeTime": null, "lastTransitionTime": time::format(now)})
}

/// The largest number of restarts of any container.
pub fn max_restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|c| c.restart_count).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_after_having_been_ready_for_long_enough() {
        let pod = |status: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {}, "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:10Z"}]}}))
            .unwrap()
        };
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        for (status, seconds, now, yes) in [
            ("True", 0, "2026-01-01T00:00:00Z", true),
            ("True", 5, "2026-01-01T00:00:14Z", false),
            ("True", 5, "2026-01-01T00:00:15Z", true),
            ("False", 0, "2026-01-01T00:00:15Z", false),
        ] {
            assert_eq!(is_available(&pod(status), seconds, at(now)), yes, "{status} {seconds} {now}");
        }
        assert_eq!(available_at(&pod("True"), 5), Some(at("2026-01-01T00:00:15Z")));
    }
}
