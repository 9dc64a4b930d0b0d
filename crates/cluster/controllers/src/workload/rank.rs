//! Which pods to delete first when there are too many (`pkg/controller.ActivePodsWithRanks`).

use std::cmp::{Ordering, Reverse};

use k8s_openapi::api::core::v1::Pod;
use kinit_component_helpers::pod::{is_ready, max_restarts, node_name, phase, ready_since};

/// Annotation by which users say which pods they can do without.
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Sorts so that the pods to delete first come first; `crowd` says how many pods of the same workload share the pod's
/// node.
pub fn sort<P: std::ops::Deref<Target = Pod>>(pods: &mut [P], crowd: impl Fn(&Pod) -> usize) {
    pods.sort_by(|a, b| compare(a, b, &crowd));
}

fn compare(a: &Pod, b: &Pod, crowd: &impl Fn(&Pod) -> usize) -> Ordering {
    let order = |p: &Pod| {
        let progress = match phase(p) {
            "Pending" | "" => 0,
            "Unknown" => 1,
            _ => 2,
        };
        (node_name(p).is_some(), progress, is_ready(p), cost(p), Reverse(crowd(p)))
    };
    order(a)
        .cmp(&order(b))
        // Ready for a shorter time, restarted more often, younger: first to go.
        .then_with(|| ready_since(b).cmp(&ready_since(a)))
        .then_with(|| max_restarts(b).cmp(&max_restarts(a)))
        .then_with(|| {
            let born = |p: &Pod| p.metadata.creation_timestamp.as_ref().map(|t| t.0);
            born(b).cmp(&born(a))
        })
}

fn cost(pod: &Pod) -> i32 {
    let text = pod.metadata.annotations.as_ref().and_then(|a| a.get(COST));
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: Option<&str>, phase: &str, ready: Option<&str>, cost: Option<&str>) -> Box<Pod> {
        let mut value = json!({
            "metadata": {"name": name, "annotations": {}},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": phase, "conditions": []}
        });
        if let Some(since) = ready {
            value["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
        }
        if let Some(cost) = cost {
            value["metadata"]["annotations"] = json!({COST: cost});
        }
        Box::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn the_least_useful_go_first() {
        let (early, late) = (Some("2026-01-01T00:00:00Z"), Some("2026-01-02T00:00:00Z"));
        let mut pods = [
            pod("veteran", Some("a"), "Running", early, None),
            pod("ready-late", Some("a"), "Running", late, None),
            pod("crowded", Some("b"), "Running", early, None),
            pod("cheap", Some("a"), "Running", early, Some("-5")),
            pod("unready", Some("a"), "Running", None, None),
            pod("pending", Some("a"), "Pending", None, None),
            pod("unassigned", None, "Pending", None, None),
        ];
        sort(&mut pods, |p| if node_name(p) == Some("b") { 3 } else { 1 });
        let names: Vec<_> = pods.iter().map(|p| p.metadata.name.clone().unwrap()).collect();
        assert_eq!(names, ["unassigned", "pending", "unready", "cheap", "crowded", "ready-late", "veteran"]);
    }
}
