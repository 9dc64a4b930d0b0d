//! How long failed pods make the next one wait (`pkg/controller/job/backoff_utils.go`). No IO.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kinit_component_helpers::pod::phase;

const FIRST: SignedDuration = SignedDuration::from_secs(10);
const LONGEST: SignedDuration = SignedDuration::from_mins(10);

/// When a pod's last container ended; when the pod was made, should that be unknown.
fn ended(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let at = statuses.filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()).map(|t| t.0).max();
    at.or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|t| t.0))
        .or_else(|| pod.metadata.creation_timestamp.as_ref().map(|t| t.0))
}

/// 10 s after the first failure, twice as long after each further one, at most 10 min.
fn left(last: Timestamp, failures: usize, now: Timestamp) -> Option<SignedDuration> {
    let doublings = u32::try_from(failures.checked_sub(1)?).unwrap_or(u32::MAX).min(6);
    let wait = FIRST.checked_mul(1 << doublings).map_or(LONGEST, |w| w.min(LONGEST));
    let left = last.saturating_add(wait).ok()?.duration_since(now);
    left.is_positive().then_some(left)
}

/// The wait after the failures that followed the last success.
pub fn of_job(pods: &[Arc<Pod>], now: Timestamp) -> Option<SignedDuration> {
    let of = |wanted: &'static str| pods.iter().filter(move |p| phase(p) == wanted).filter_map(|p| ended(p));
    let success = of("Succeeded").max();
    let failures: Vec<Timestamp> = of("Failed").filter(|at| success.is_none_or(|s| *at > s)).collect();
    left(*failures.iter().max()?, failures.len(), now)
}

/// The wait of an index that has failed so often, last with this pod.
pub fn of_index(last: &Pod, failures: usize, now: Timestamp) -> Option<SignedDuration> {
    left(ended(last)?, failures, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn doubles_until_a_success() {
        let pod = |phase: &str, at: &str| -> Arc<Pod> {
            Arc::new(
                serde_json::from_value(json!({"metadata": {}, "status": {"phase": phase, "containerStatuses": [
                    {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                     "state": {"terminated": {"exitCode": 1, "finishedAt": format!("2026-01-01T00:{at}Z")}}}]}}))
                .unwrap(),
            )
        };
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        for (pods, expected) in [
            (vec![], None),
            (vec![pod("Failed", "09:55")], Some(5)),
            (vec![pod("Failed", "09:40")], None),
            (vec![pod("Failed", "09:40"), pod("Failed", "09:55")], Some(15)),
            (vec![pod("Failed", "09:40"), pod("Succeeded", "09:50"), pod("Failed", "09:55")], Some(5)),
            ((0..9).map(|_| pod("Failed", "09:55")).collect(), Some(595)),
        ] {
            assert_eq!(of_job(&pods, now).map(|d| d.as_secs()), expected, "{}", pods.len());
        }
    }
}
