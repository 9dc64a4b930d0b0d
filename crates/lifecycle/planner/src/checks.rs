//! Names of the preflight checks, for `--ignore-preflight-errors` and its help.

/// Every check. A name in angle brackets stands for any port or path.
pub const CHECKS: &[&str] = &[
    "Clock",
    "ComponentVersion",
    "DirAvailable--var-lib-etcd",
    "DiskFree",
    "EtcdHealth",
    "EtcdMembers",
    "FileAvailable-<PATH>",
    "HostAddress",
    "HostToHost",
    "Hostname",
    "IsPrivilegedUser",
    "MachineId",
    "Mem",
    "NoLoadBalancer",
    "NodeReady",
    "NumCPU",
    "OtherCluster",
    "Packages",
    "PackagesRelease",
    "PodDisruptionBudget",
    "Port-<PORT>",
    "Service-Systemd",
    "SingleLoadBalancer",
    "SystemVerification",
    "SystemVerification-Architecture",
    "VersionSkew",
];

/// Whether there is a check of that name; case does not matter.
pub fn is_check(name: &str) -> bool {
    CHECKS.iter().any(|check| match check.split_once('<') {
        Some((prefix, _)) => {
            name.len() > prefix.len() && name.get(..prefix.len()).is_some_and(|p| p.eq_ignore_ascii_case(prefix))
        }
        None => check.eq_ignore_ascii_case(name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_with_their_port_or_path() {
        for (name, expected) in [
            ("mem", true),
            ("Port-6443", true),
            ("FileAvailable--etc-kubernetes-kubelet.conf", true),
            ("Port-", false),
            ("all", false),
            ("Memory", false),
            ("é", false),
        ] {
            assert_eq!(is_check(name), expected, "{name}");
        }
    }
}
