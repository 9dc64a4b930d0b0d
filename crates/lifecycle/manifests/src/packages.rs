//! The distribution's packages that clusters stand on: what the field trusts, and kinit does not bring itself.

use kinit_config::{Cluster, HostSpec, Role};

/// All of them. A release of a distribution that has them under these names can be a host.
pub const HOST_PACKAGES: [&str; 6] =
    ["etcd-server", "containerd", "runc", "containernetworking-plugins", "haproxy", "keepalived"];

/// What a host needs of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPackages {
    /// Their names.
    pub names: Vec<String>,
    /// Units that they would start by themselves, before they are configured.
    pub mask: Vec<String>,
}

/// A host's packages, by its roles.
pub fn host_packages(cluster: &Cluster, host: &HostSpec) -> HostPackages {
    let (mut names, mut mask): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    if host.is(Role::ControlPlane) {
        names.push("etcd-server");
        mask.push("etcd.service");
    }
    if cluster.balances(host) {
        names.push("haproxy");
        mask.push("haproxy.service");
    }
    if cluster.virtual_address(host).is_some() {
        names.push("keepalived");
        mask.push("keepalived.service");
    }
    if host.is_node() {
        names.extend(["containerd", "runc", "containernetworking-plugins"]);
        mask.push("containerd.service");
    }
    let own = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
    HostPackages { names: own(names), mask: own(mask) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_need_what_their_roles_run() {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        for (host, expected) in [
            ("lb1", &["haproxy"][..]),
            ("cp1", &["etcd-server", "containerd", "runc", "containernetworking-plugins"]),
            ("w1", &["containerd", "runc", "containernetworking-plugins"]),
        ] {
            let host = cluster.spec.hosts.iter().find(|h| h.name == host).unwrap();
            let needed = host_packages(&cluster, host).names;
            assert_eq!(needed, expected);
            assert!(needed.iter().all(|name| HOST_PACKAGES.contains(&name.as_str())));
        }
    }
}
