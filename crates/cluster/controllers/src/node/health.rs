//! When a node counts as lost, and how many losses at once make us doubt ourselves; without IO and without a clock of
//! its own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Conditions that become Unknown when the kubelet is silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// A sign of life: the Lease's renewal and the status' heartbeat. Only that it changed matters, never its value: clocks
/// differ.
#[derive(Debug, Clone, PartialEq, Default)]
struct Sign {
    lease: Option<String>,
    status: Option<String>,
}

/// What has been seen of each node, and when, by our clock.
#[derive(Debug, Default)]
pub struct Watcher(HashMap<String, (Sign, Instant)>);

impl Watcher {
    /// Notes the node's signs of life; returns for how long there was no new one.
    pub fn silence(&mut self, node: &Node, lease: Option<&Lease>, now: Instant) -> Duration {
        let name = node.metadata.name.clone().unwrap_or_default();
        let ready = node.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "Ready");
        // What this controller wrote itself is no sign of life.
        let status = ready.filter(|c| c.status != "Unknown").and_then(|c| c.last_heartbeat_time.as_ref());
        let renewed = lease.and_then(|l| l.spec.as_ref()?.renew_time.as_ref());
        let sign = Sign { lease: renewed.map(|t| t.0.to_string()), status: status.map(|t| t.0.to_string()) };
        let entry = self.0.entry(name).or_insert_with(|| (sign.clone(), now));
        let alive = sign.lease != entry.0.lease || sign.status.is_some() && sign.status != entry.0.status;
        if alive {
            *entry = (sign, now);
        }
        now.saturating_duration_since(entry.1)
    }

    /// Forgets nodes that are gone.
    pub fn keep(&mut self, exists: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| exists(name));
    }
}

/// The conditions of a silent node, or `None` when they say so already.
pub fn silent_conditions(node: &Node, now: &Time) -> Option<Vec<NodeCondition>> {
    let mut conditions: Vec<NodeCondition> =
        node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut changed = false;
    for type_ in REPORTED {
        match conditions.iter_mut().find(|c| c.type_ == type_) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
                condition.last_transition_time = Some(now.clone());
                changed = true;
            }
            None => {
                conditions.push(NodeCondition {
                    type_: type_.into(),
                    status: "Unknown".into(),
                    reason: Some("NodeStatusNeverUpdated".into()),
                    message: Some("Kubelet never posted node status.".into()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(now.clone()),
                });
                changed = true;
            }
        }
    }
    changed.then_some(conditions)
}

/// How bad it is in a zone (`nodelifecycle.ComputeZoneState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// Few nodes are lost.
    Normal,
    /// More than two and at least 55 % are lost.
    Partial,
    /// All are lost.
    Full,
}

/// The state of a zone with so many ready and lost nodes.
pub fn zone_state(ready: usize, lost: usize) -> Zone {
    match (ready, lost) {
        (0, 1..) => Zone::Full,
        _ if lost > 2 && lost * 100 >= 55 * (ready + lost) => Zone::Partial,
        _ => Zone::Normal,
    }
}

/// How long to wait between two nodes' evictions in a zone; `None` for no evictions (upstream's --node-eviction-rate
/// 0.1,
/// --secondary-node-eviction-rate 0.01, --large-cluster-size-threshold 50).
pub fn eviction_pause(zone: Zone, size: usize) -> Option<Duration> {
    match zone {
        Zone::Normal | Zone::Full => Some(Duration::from_secs(10)),
        Zone::Partial if size > 50 => Some(Duration::from_secs(100)),
        Zone::Partial => None,
    }
}

/// A node's zone by its topology labels.
pub fn zone_of(node: &Node) -> String {
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key)).cloned().unwrap_or_default();
    format!("{}:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(status: &str, heartbeat: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"conditions": [
            {"type": "Ready", "status": status, "lastHeartbeatTime": heartbeat}]}}))
        .unwrap()
    }

    fn lease(at: &str) -> Lease {
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"renewTime": at}})).unwrap()
    }

    #[test]
    fn silence_is_measured_by_our_clock() {
        let (mut watcher, start) = (Watcher::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let old = lease("2020-01-01T00:00:00.000000Z");
        let new = lease("2020-01-01T00:00:10.000000Z");
        let (h0, h1) = ("2020-01-01T00:00:00Z", "2020-01-01T00:05:00Z");
        for (time, node, lease, expected) in [
            (0, node("True", h0), Some(&old), 0),
            (30, node("True", h0), Some(&old), 30),
            (31, node("True", h0), Some(&new), 0),
            (71, node("True", h0), Some(&new), 40),
            (72, node("Unknown", h0), Some(&new), 41),
            (73, node("True", h1), Some(&new), 0),
        ] {
            assert_eq!(watcher.silence(&node, lease, at(time)).as_secs(), expected, "at {time}");
        }
    }

    #[test]
    fn a_silent_node_is_unknown_once() {
        let now = crate::object::now();
        let conditions = silent_conditions(&node("True", "2020-01-01T00:00:00Z"), &now).unwrap();
        assert_eq!(conditions.len(), 4);
        assert!(conditions.iter().all(|c| c.status == "Unknown"));
        assert_eq!(conditions[0].reason.as_deref(), Some("NodeStatusUnknown"));
        let mut marked = node("True", "2020-01-01T00:00:00Z");
        marked.status.as_mut().unwrap().conditions = Some(conditions);
        assert_eq!(silent_conditions(&marked, &now), None);
    }

    #[test]
    fn zones() {
        for (ready, lost, state) in [
            (3, 0, Zone::Normal),
            (2, 1, Zone::Normal),
            (0, 1, Zone::Full),
            (1, 2, Zone::Normal),
            (2, 3, Zone::Partial),
            (0, 5, Zone::Full),
        ] {
            assert_eq!(zone_state(ready, lost), state, "{ready} {lost}");
        }
    }
}
