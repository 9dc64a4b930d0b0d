//! Sysctls that are the pod's own and harm nobody else.

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::{Finding, Pod};

/// Each with the v1.x since which it is safe.
const SAFE: &[(i64, &str)] = &[
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
];

fn check(pod: Pod<'_>, minor: i64) -> Option<Finding> {
    let listed = pod.context(&["sysctls"]).and_then(Value::as_array).into_iter().flatten();
    let safe = |name: &&str| SAFE.iter().any(|(since, known)| known == name && *since <= minor);
    let bad: Vec<&str> = listed.map(|s| s.str_at(&["name"])).filter(|name| !safe(name)).collect();
    (!bad.is_empty()).then(|| Finding::new("forbidden sysctls", bad.join(", ")))
}

/// `sysctls`.
pub fn v0(pod: Pod<'_>) -> Option<Finding> {
    check(pod, 0)
}

/// `sysctls` from v1.27 on.
pub fn v27(pod: Pod<'_>) -> Option<Finding> {
    check(pod, 27)
}

/// `sysctls` from v1.29 on.
pub fn v29(pod: Pod<'_>) -> Option<Finding> {
    check(pod, 29)
}

/// `sysctls` from v1.32 on.
pub fn v32(pod: Pod<'_>) -> Option<Finding> {
    check(pod, 32)
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::*;
    use serde_json::json;

    #[test]
    fn safe_ones_by_version() {
        let spec = json!({"securityContext": {"sysctls": [
            {"name": "net.ipv4.tcp_syncookies"}, {"name": "a"}, {"name": "net.ipv4.tcp_rmem"},
            {"name": "net.ipv4.tcp_fin_timeout"}, {"name": "net.ipv4.ip_local_reserved_ports"}, {"name": "b"}]}});
        for (version, want) in [
            (
                v0 as super::super::CheckPod,
                "a, net.ipv4.tcp_rmem, net.ipv4.tcp_fin_timeout, net.ipv4.ip_local_reserved_ports, b",
            ),
            (v27, "a, net.ipv4.tcp_rmem, net.ipv4.tcp_fin_timeout, b"),
            (v29, "a, net.ipv4.tcp_rmem, b"),
            (v32, "a, b"),
        ] {
            assert_eq!(run(version, &spec), format!("forbidden sysctls ({want})"));
        }
    }
}
