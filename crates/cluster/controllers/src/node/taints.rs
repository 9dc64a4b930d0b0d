//! Which taints a node's conditions ask for (`nodelifecycle.nodeConditionToTaintKeyStatusMap`).

use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Set by people on nodes that are known to be off; pods on them may be deleted at once.
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Condition, its status, and the taint that goes with it.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// The status of a node's condition, `Unknown` when it was never reported.
pub fn condition_status<'a>(node: &'a Node, type_: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == type_).map(|c| c.status.as_str())
}

/// What to do with `NoExecute` taints, which end pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execute {
    /// As the Ready condition says.
    Follow,
    /// Add none yet (its turn has not come); one that is no longer right goes.
    Hold,
    /// Take all away: so many nodes are silent that the fault is likely ours.
    Withdraw,
}

/// The node's taints as they should be, or `None` when they are.
pub fn wanted(node: &Node, execute: Execute, now: &Time) -> Option<Vec<Taint>> {
    let current: Vec<Taint> = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let mut pairs: Vec<(&str, &str)> = BY_CONDITION
        .iter()
        .filter(|(type_, status, _)| condition_status(node, type_) == Some(status))
        .map(|(_, _, key)| (*key, "NoSchedule"))
        .collect();
    if node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true)) {
        pairs.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let lost = match condition_status(node, "Ready") {
        Some("False") => Some(NOT_READY),
        Some("Unknown") => Some(UNREACHABLE),
        _ => None,
    };
    let has = |key: &str, effect: &str| current.iter().any(|t| t.key == key && t.effect == effect);
    if let Some(key) = lost
        && (execute == Execute::Follow
            || execute == Execute::Hold && (has(NOT_READY, "NoExecute") || has(UNREACHABLE, "NoExecute")))
    {
        pairs.push((key, "NoExecute"));
    }
    let mut taints: Vec<Taint> = current
        .iter()
        .filter(|t| !is_ours(t) || pairs.contains(&(t.key.as_str(), t.effect.as_str())))
        .cloned()
        .collect();
    for (key, effect) in pairs {
        if !has(key, effect) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added: Some(now.clone()),
                value: None,
            });
        }
    }
    (taints != current).then_some(taints)
}

/// Whether this controller sets and clears the taint.
fn is_ours(taint: &Taint) -> bool {
    match taint.effect.as_str() {
        "NoSchedule" => taint.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, key)| *key == taint.key),
        "NoExecute" => taint.key == NOT_READY || taint.key == UNREACHABLE,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(ready: &str, taints: &[(&str, &str)], unschedulable: bool) -> Node {
        let taints: Vec<_> = taints.iter().map(|(k, e)| json!({"key": k, "effect": e})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "n"},
            "spec": {"taints": taints, "unschedulable": unschedulable},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}
        }))
        .unwrap()
    }

    #[test]
    fn taints_follow_conditions() {
        let both = [(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")];
        let cp = ("node-role.kubernetes.io/control-plane", "NoSchedule");
        for (ready, have, cordoned, execute, want) in [
            ("True", &[cp][..], false, Execute::Follow, None),
            ("True", &both[..], false, Execute::Follow, Some(vec![])),
            ("Unknown", &[cp], false, Execute::Follow, Some(vec![cp, both[0], both[1]])),
            ("Unknown", &[], false, Execute::Hold, Some(vec![both[0]])),
            ("Unknown", &both, false, Execute::Hold, None),
            ("Unknown", &both, false, Execute::Withdraw, Some(vec![both[0]])),
            ("False", &both, false, Execute::Follow, Some(vec![(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")])),
            ("True", &[], true, Execute::Follow, Some(vec![(UNSCHEDULABLE, "NoSchedule")])),
        ] {
            let now = crate::object::now();
            let got = wanted(&node(ready, have, cordoned), execute, &now);
            let got = got.as_ref().map(|t| t.iter().map(|t| (t.key.as_str(), t.effect.as_str())).collect::<Vec<_>>());
            assert_eq!(got, want, "{ready} {have:?} {execute:?}");
        }
    }
}
