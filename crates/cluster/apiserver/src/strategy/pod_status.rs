//! Updates of a pod's status (`ValidatePodStatusUpdate`).

use std::net::IpAddr;

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::names::{self, NameRule};
use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

use super::tools::items;

/// Checks what a kubelet or a controller writes.
pub fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    for (i, condition) in items(new, &["status", "conditions"]).iter().enumerate() {
        let kind = condition.str_at(&["type"]);
        for problem in names::check_qualified_name(kind) {
            errors.invalid(&format!("status.conditions[{i}].type"), &kind.into(), &problem);
        }
    }
    let nominated = new.str_at(&["status", "nominatedNodeName"]);
    if !nominated.is_empty() && nominated != old.str_at(&["status", "nominatedNodeName"]) {
        for problem in NameRule::Subdomain.check(nominated) {
            errors.invalid("status.nominatedNodeName", &nominated.into(), &problem);
        }
    }
    if new.str_at(&["status", "qosClass"]) != old.str_at(&["status", "qosClass"]) {
        let class = new.at(&["status", "qosClass"]).cloned().unwrap_or_default();
        errors.invalid("status.qosClass", &class, "field is immutable");
    }
    for (statuses, containers) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        terminated_stay(new, old, statuses, containers, errors);
    }
    addresses(new, "podIPs", errors);
    addresses(new, "hostIPs", errors);
}

/// A container that ended does not run again when its restart policy says so.
fn terminated_stay(new: &Value, old: &Value, statuses: &str, containers: &str, errors: &mut FieldErrors) {
    let have = items(new, &["status", statuses]);
    for before in items(old, &["status", statuses]) {
        let Some(end) = before.at(&["state", "terminated"]).filter(|end| !end.is_null()) else { continue };
        let name = before.str_at(&["name"]);
        let failed = end.get("exitCode").and_then(Value::as_i64).unwrap_or(0) != 0;
        if may_restart(old, containers, name, failed) {
            continue;
        }
        for (i, now) in have.iter().enumerate().filter(|(_, status)| status.str_at(&["name"]) == name) {
            if now.at(&["state", "terminated"]).is_none_or(Value::is_null) {
                errors.forbidden(
                    &format!("status.{statuses}[{i}].state"),
                    "may not be transitioned to non-terminated state",
                );
            }
        }
    }
}

fn may_restart(pod: &Value, containers: &str, name: &str, failed: bool) -> bool {
    let container = items(pod, &["spec", containers]).iter().find(|c| c.str_at(&["name"]) == name);
    let own = container.map_or("", |c| c.str_at(&["restartPolicy"]));
    if container.is_some_and(|c| !items(c, &["restartPolicyRules"]).is_empty()) {
        return true;
    }
    let policy = if own.is_empty() { pod.str_at(&["spec", "restartPolicy"]) } else { own };
    match policy {
        "Never" => false,
        // Init containers run until they succeed, and again with a new sandbox.
        "OnFailure" => failed || containers == "initContainers",
        _ => true,
    }
}

/// At most one address of each family.
fn addresses(pod: &Value, list: &str, errors: &mut FieldErrors) {
    let mut seen = [false; 2];
    for (i, entry) in items(pod, &["status", list]).iter().enumerate() {
        let text = entry.str_at(&["ip"]);
        match text.parse::<IpAddr>() {
            Err(_) => errors.invalid(
                &format!("status.{list}[{i}]"),
                &text.into(),
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
            Ok(address) => {
                if std::mem::replace(&mut seen[usize::from(address.is_ipv6())], true) {
                    let text = "may specify no more than one IP for each IP family";
                    errors.invalid(&format!("status.{list}"), &entry.clone(), text);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(policy: &str, old: Value, new: Value) -> Vec<String> {
        let pod =
            |status: Value| json!({"spec": {"restartPolicy": policy, "containers": [{"name": "c"}]}, "status": status});
        let mut errors = FieldErrors::default();
        validate_update(&pod(new), &pod(old), &mut errors);
        errors.0.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn what_a_status_must_not_say() {
        let none: [&str; 0] = [];
        assert_eq!(wrong("Always", json!({}), json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]})), none);
        assert_eq!(
            wrong("Always", json!({}), json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]})),
            ["status.podIPs"]
        );
        assert_eq!(wrong("Always", json!({}), json!({"podIPs": [{"ip": "x"}]})), ["status.podIPs[0]"]);
        assert_eq!(
            wrong("Always", json!({"qosClass": "Burstable"}), json!({"qosClass": "BestEffort"})),
            ["status.qosClass"]
        );
        assert_eq!(wrong("Always", json!({}), json!({"nominatedNodeName": "A/B"})), ["status.nominatedNodeName"]);
        assert_eq!(wrong("Always", json!({}), json!({"conditions": [{"type": "a b"}]})), ["status.conditions[0].type"]);
    }

    #[test]
    fn what_ended_stays_ended() {
        let ended =
            |code: i64| json!({"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": code}}}]});
        let running = json!({"containerStatuses": [{"name": "c", "state": {"running": {}}}]});
        for (policy, code, allowed) in [
            ("Always", 0, true),
            ("OnFailure", 1, true),
            ("OnFailure", 0, false),
            ("Never", 1, false),
            ("Never", 0, false),
        ] {
            assert_eq!(wrong(policy, ended(code), running.clone()).is_empty(), allowed, "{policy} after {code}");
        }
        assert!(wrong("Never", ended(0), ended(0)).is_empty());
    }
}
