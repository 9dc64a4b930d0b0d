//! Where an object in the API differs from what the kubelet last said of it. No IO.
//!
//! The kubelet is not alone in writing statuses: a node that was cut off finds its conditions Unknown and its pods not
//! Ready (`pkg/controller/nodelifecycle`). Upstream's kubelet reads its Node every ten seconds (`tryUpdateNodeStatus`)
//! and compares its pods' statuses with the API's (`status_manager.go: needsReconcile`); here both come by watch.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

/// Times that move without meaning, or follow from what else differs.
const TIMES: [&str; 3] = ["lastHeartbeatTime", "lastProbeTime", "lastTransitionTime"];

/// Paths of what the strategic merge patch `patch` would change in `held`.
///
/// As in such a patch, what it does not name is not compared, except inside lists that are replaced as a whole.
pub fn differences(held: &Value, patch: &Value) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    compare("", Some(held), patch, false, &mut out);
    out
}

/// How new an object is: resource versions of one resource are numbers that grow
/// (`apimachinery/pkg/util/resourceversion`).
pub fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

fn compare(path: &str, held: Option<&Value>, ours: &Value, whole: bool, out: &mut BTreeSet<String>) {
    match (held, ours) {
        (held, ours) if is_nothing(ours) => {
            if !held.is_none_or(is_nothing) {
                out.insert(path.to_owned());
            }
        }
        (Some(Value::Object(held)), Value::Object(ours)) => objects(path, held, ours, whole, out),
        (Some(Value::Array(held)), Value::Array(ours)) if path == "conditions" => by_type(held, ours, out),
        (Some(Value::Array(held)), Value::Array(ours)) => {
            let ours: Vec<&Value> = ours.iter().filter(|v| v.get("$patch").is_none()).collect();
            if held.len() != ours.len() {
                out.insert(path.to_owned());
                return;
            }
            for (index, (held, ours)) in held.iter().zip(ours).enumerate() {
                compare(&format!("{path}[{index}]"), Some(held), ours, true, out);
            }
        }
        (held, ours) => {
            if held != Some(ours) {
                out.insert(path.to_owned());
            }
        }
    }
}

fn objects(path: &str, held: &Map<String, Value>, ours: &Map<String, Value>, whole: bool, out: &mut BTreeSet<String>) {
    let inner = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for (name, value) in ours.iter().filter(|(name, _)| *name != "$patch" && !TIMES.contains(&name.as_str())) {
        compare(&inner(name), held.get(name), value, whole, out);
    }
    let left = held.iter().filter(|(name, value)| whole && !ours.contains_key(*name) && !is_nothing(value));
    out.extend(left.filter(|(name, _)| !TIMES.contains(&name.as_str())).map(|(name, _)| inner(name)));
}

/// Conditions are merged by type: others' stay, and those marked so go.
fn by_type(held: &[Value], ours: &[Value], out: &mut BTreeSet<String>) {
    for condition in ours {
        let type_ = &condition["type"];
        let path = format!("conditions[{}]", type_.as_str().unwrap_or_default());
        let found = held.iter().find(|c| c["type"] == *type_);
        match (found, condition["$patch"] == "delete") {
            (None, true) => {}
            (Some(_), true) | (None, false) => {
                out.insert(path);
            }
            (Some(found), false) => compare(&path, Some(found), condition, false, out),
        }
    }
}

/// Absent and empty are the same to the API.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_the_patch_would_change_differs() {
        let ready = |status: &str, reason: &str| json!({"type": "Ready", "status": status, "reason": reason});
        let running = json!([{"name": "a", "ready": true, "state": {"running": {"startedAt": "t"}}}]);
        for (about, held, patch, paths) in [
            (
                "a node that was given up",
                json!({"conditions": [ready("Unknown", "NodeStatusUnknown"), {"type": "Mine", "status": "True"}]}),
                json!({"conditions": [ready("True", "KubeletReady")]}),
                vec!["conditions[Ready].reason", "conditions[Ready].status"],
            ),
            (
                "times, and conditions of others",
                json!({"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "1", "lastHeartbeatTime": "1"}, ready("x", "y")]}),
                json!({"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2", "lastHeartbeatTime": "2", "reason": null}]}),
                vec![],
            ),
            ("a condition is missing", json!({}), json!({"conditions": [ready("True", "")]}), vec!["conditions"]),
            (
                "one of several is missing",
                json!({"conditions": [{"type": "X"}]}),
                json!({"conditions": [ready("True", "")]}),
                vec!["conditions[Ready]"],
            ),
            (
                "a condition that should be gone",
                json!({"conditions": [{"type": "X"}]}),
                json!({"conditions": [{"type": "X", "$patch": "delete"}, {"type": "Y", "$patch": "delete"}]}),
                vec!["conditions[X]"],
            ),
            (
                "a resource that a device of somebody else added",
                json!({"capacity": {"cpu": "2", "example.com/d": "1"}}),
                json!({"capacity": {"cpu": "2"}}),
                vec![],
            ),
            ("a resource", json!({"capacity": {"cpu": "2"}}), json!({"capacity": {"cpu": "3"}}), vec!["capacity.cpu"]),
            (
                "lists that are replaced",
                json!({"podIPs": [{"ip": "1"}, {"ip": "2"}]}),
                json!({"podIPs": [{"$patch": "replace"}, {"ip": "1"}]}),
                vec!["podIPs"],
            ),
            (
                "the same list",
                json!({"podIPs": [{"ip": "1"}]}),
                json!({"podIPs": [{"$patch": "replace"}, {"ip": "1"}]}),
                vec![],
            ),
            ("containers", json!({"containerStatuses": running}), json!({"containerStatuses": running}), vec![]),
            (
                "what a container's status must not keep",
                json!({"containerStatuses": [{"name": "a", "state": {"waiting": {}, "running": {"startedAt": "t"}}, "lastState": {"terminated": {"exitCode": 1}}}]}),
                json!({"containerStatuses": [{"name": "a", "imageID": "", "state": {"running": {"startedAt": "t"}}, "lastState": {}}]}),
                vec!["containerStatuses[0].lastState"],
            ),
            (
                "what should be gone",
                json!({"reason": "Evicted"}),
                json!({"reason": null, "message": null}),
                vec!["reason"],
            ),
            ("nothing known", Value::Null, json!({"phase": "Running"}), vec![""]),
        ] {
            let expected: BTreeSet<String> = paths.into_iter().map(str::to_owned).collect();
            assert_eq!(differences(&held, &patch), expected, "{about}");
        }
    }
}
