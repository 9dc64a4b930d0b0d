//! Capabilities: no more than the runtime's own in the baseline, next to none when restricted.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Finding, Pod, containers, context, names, quoted};

const DEFAULT: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

fn listed<'a>(container: &'a Value, list: &str) -> impl Iterator<Item = &'a str> {
    let list = context(container, &["capabilities", list]).and_then(Value::as_array);
    list.into_iter().flatten().map(|item| item.as_str().unwrap_or_default())
}

/// `containers "a", "b" must not include "X" in securityContext.capabilities.add`.
fn added(pod: Pod<'_>, allowed: &[&str]) -> Option<String> {
    let extra = |c| listed(c, "add").filter(|name| !allowed.contains(name));
    let bad = names(pod, |c| extra(c).next().is_some());
    let what: BTreeSet<&str> = pod.containers().flat_map(extra).collect();
    (!bad.is_empty())
        .then(|| format!("{} must not include {} in securityContext.capabilities.add", containers(&bad), quoted(what)))
}

/// `capabilities_baseline`.
pub fn baseline(pod: Pod<'_>) -> Option<Finding> {
    Some(Finding::new("non-default capabilities", added(pod, DEFAULT)?))
}

/// `capabilities_restricted`.
pub fn restricted(pod: Pod<'_>) -> Option<Finding> {
    let keeping = names(pod, |c| !listed(c, "drop").any(|name| name == "ALL"));
    let dropping = (!keeping.is_empty())
        .then(|| format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeping)));
    let texts: Vec<String> = dropping.into_iter().chain(added(pod, &["NET_BIND_SERVICE"])).collect();
    (!texts.is_empty()).then(|| Finding::new("unrestricted capabilities", texts.join("; ")))
}

/// From v1.25 on: Windows has no capabilities.
pub fn restricted_but_windows(pod: Pod<'_>) -> Option<Finding> {
    if pod.is_windows() { None } else { restricted(pod) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::*;
    use serde_json::json;

    #[test]
    fn baseline_allows_the_default_set() {
        let spec = json!({"containers": [
            {"name": "a", "securityContext": {"capabilities": {"add": ["FOO", "BAR", "CHOWN"]}}},
            {"name": "b", "securityContext": {"capabilities": {"add": DEFAULT}}},
        ], "initContainers": [{"name": "i", "securityContext": {"capabilities": {"add": ["NET_RAW"]}}}]});
        assert_eq!(
            run(baseline, &spec),
            r#"non-default capabilities (containers "i", "a" must not include "BAR", "FOO", "NET_RAW" in securityContext.capabilities.add)"#
        );
    }

    #[test]
    fn restricted_drops_all() {
        let spec = json!({"os": {"name": "windows"}, "containers": [
            {"name": "a", "securityContext": {"capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}}},
            {"name": "b", "securityContext": {"capabilities": {"add": ["CHOWN"], "drop": ["all", "KILL"]}}},
            {"name": "c"},
        ]});
        assert_eq!(
            run(restricted, &spec),
            r#"unrestricted capabilities (containers "b", "c" must set securityContext.capabilities.drop=["ALL"]; container "b" must not include "CHOWN" in securityContext.capabilities.add)"#
        );
        assert_eq!(run(restricted_but_windows, &spec), "");
    }
}
