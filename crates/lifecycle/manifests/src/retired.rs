//! What a host has no more use for: everything that some role would need and that none of its own does.

use std::collections::BTreeSet;

use kinit_config::{Balancing, CaKeys, Cluster, HostSpec, LoadBalancer, LoadBalancerPool, Role};
use kinit_resource::{LeafForm, Place, Resource, UnitState};

use crate::bundle::Bundle;
use crate::host::{HostFacts, desired};
use crate::phase::Phase;
use crate::template::TemplateError;
use crate::{ETCD_START, PKI};

/// Units first, then files; agents leave alone what kinit has never made on them. Packages and logs stay until reset.
pub fn retired(
    cluster: &Cluster,
    host: &HostSpec,
    facts: &HostFacts,
    bundle: &Bundle,
) -> Result<Vec<(Phase, Resource)>, TemplateError> {
    let mut all = host.clone();
    all.roles = vec![Role::LoadBalancer, Role::ControlPlane, Role::Worker];
    // The form with the most files, on a host of all roles.
    let mut most = cluster.clone();
    most.spec.load_balancer = LoadBalancer {
        balancing: Some(Balancing::ControlPlanes),
        virtual_address: Some(all.address.clone()),
        virtual_router_id: None,
    };
    // Nor do its pools matter: what gives addresses away goes when there are none.
    most.spec.load_balancer_pools =
        vec![LoadBalancerPool { name: "any".to_owned(), addresses: vec![all.address.clone()], auto_assign: true }];
    most.spec.metrics_server.enabled = true;
    // Authorities' keys leave the hosts when they are kept on the desk.
    most.spec.certificates.ca_keys = CaKeys::Hosts;
    let own = Needs::of(desired(cluster, host, facts, bundle)?);
    // Whether there is a schedule of backups or not: what there was of one goes.
    most.spec.backup.get_or_insert_default().schedule.get_or_insert_with(|| "daily".to_owned());
    let mut other = Needs::of(desired(&most, &all, facts, bundle)?);
    // A bundle may be without its program, the one before it had it.
    other.paths.insert(format!("/usr/local/bin/{}", crate::bundle::METRICS));
    let units =
        other.units.difference(&own.units).map(|name| Resource::Unit { name: name.clone(), state: UnitState::Stopped });
    let mut paths: Vec<String> = other.paths.difference(&own.paths).cloned().collect();
    // What lies in a folder that goes as a whole needs no line of its own.
    let folders = paths.clone();
    paths.retain(|path| !folders.iter().any(|folder| path.starts_with(&format!("{folder}/"))));
    let paths = paths.into_iter().map(|path| Resource::Absent { path });
    Ok(units.chain(paths).map(|resource| (Phase::CleanupNode, resource)).collect())
}

#[derive(Default)]
struct Needs {
    units: BTreeSet<String>,
    paths: BTreeSet<String>,
}

impl Needs {
    fn of(list: Vec<(Phase, Resource)>) -> Self {
        let mut needs = Self::default();
        for (_, resource) in list {
            needs.add(resource);
        }
        needs
    }

    fn add(&mut self, resource: Resource) {
        match resource {
            Resource::Unit { name, .. } => drop(self.units.insert(name)),
            Resource::File(file) => drop(self.paths.insert(file.path)),
            Resource::Link { path, .. } | Resource::Erased { path } => drop(self.paths.insert(path)),
            Resource::Directory { path, .. } if !path.starts_with("/var/log/") => drop(self.paths.insert(path)),
            Resource::Leaf(leaf) => match leaf.form {
                LeafForm::Files { path, .. } => self.paths.extend([format!("{path}.crt"), format!("{path}.key")]),
                LeafForm::Kubeconfig { path, .. } | LeafForm::Combined { path } => drop(self.paths.insert(path)),
            },
            Resource::Shared { shared, place } => {
                let (public, private) = shared.files();
                self.paths.extend(public.map(|file| format!("{PKI}/{file}")));
                if place == Place::Whole {
                    self.paths.insert(format!("{PKI}/{private}"));
                    // Successors of secrets that were to take their places.
                    self.paths.insert(format!("{PKI}/rotation"));
                }
            }
            _ => {}
        }
        // Read by etcd alone.
        if self.units.contains("etcd.service") {
            self.paths.insert(ETCD_START.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(host: usize, roles: &[Role]) -> Vec<String> {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let bundle = Bundle::sample();
        let facts = HostFacts { can_lower_oom_score: true, cgroup_v2: true, ..HostFacts::default() };
        let mut host = cluster.spec.hosts[host].clone();
        if !roles.is_empty() {
            host.roles = roles.to_vec();
        }
        let list = retired(&cluster, &host, &facts, &bundle).unwrap();
        list.into_iter()
            .map(|(_, resource)| match resource {
                Resource::Unit { name, state: UnitState::Stopped } => name,
                Resource::Absent { path } => path,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_worker_keeps_nothing_of_a_control_plane() {
        let gone = names(4, &[]);
        for name in [
            "etcd.service",
            "kube-apiserver.service",
            "kube-controller-manager.service",
            "kube-scheduler.service",
            "haproxy.service",
            "/etc/kubernetes/pki/ca.key",
            "/etc/kubernetes/pki/sa.key",
            "/etc/kubernetes/pki/etcd",
            "/etc/kubernetes/pki/encryption.yaml",
            "/etc/kubernetes/pki/apiserver.key",
            "/etc/kubernetes/admin.conf",
            "/etc/kubernetes/etcd.env",
            "/usr/local/bin/kube-apiserver",
            "/var/lib/etcd",
        ] {
            assert!(gone.iter().any(|g| g == name), "{name} is missing in {gone:?}");
        }
        let kept = ["/etc/kubernetes/pki/ca.crt", "kubelet.service", "/usr/local/bin/kubelet", "/var/lib/kubelet"];
        for name in kept {
            assert!(!gone.iter().any(|g| g == name), "{name} must stay: {gone:?}");
        }
        let unit = gone.iter().rposition(|g| g.ends_with(".service") && !g.starts_with('/')).unwrap();
        let file = gone.iter().position(|g| g.starts_with('/')).unwrap();
        assert!(unit < file, "units stop before their files go: {gone:?}");
    }

    #[test]
    fn a_control_plane_keeps_all_of_its_own() {
        let gone = names(1, &[]);
        // There is no schedule of backups: nothing of an earlier one stays.
        let backups = [
            "kinit-backup.timer",
            "/etc/kubernetes/backup.json",
            "/etc/systemd/system/kinit-backup.service",
            "/etc/systemd/system/kinit-backup.timer",
        ];
        let (of_backups, others): (Vec<String>, Vec<String>) =
            gone.into_iter().partition(|name| backups.contains(&name.as_str()));
        // Nor pools of addresses.
        let (of_pools, others): (Vec<String>, Vec<String>) =
            others.into_iter().partition(|name| name.contains("cloud-"));
        let expected = [
            "haproxy.service",
            "keepalived.service",
            "/etc/haproxy/haproxy.cfg",
            "/etc/keepalived/check-haproxy",
            "/etc/keepalived/keepalived.conf",
            "/etc/sysctl.d/91-kinit-balancer.conf",
        ];
        assert_eq!(others, expected);
        assert_eq!(of_pools.len(), 5, "{of_pools:?}");
        assert_eq!(of_backups, backups);
    }
}
