//! Everything a host should have, in the order in which it is brought about.

mod balancer;
mod control_plane;
mod node;

use std::collections::BTreeMap;

use kinit_config::{Arg, Cluster, HostSpec, Role};
use kinit_pki::{Authority, Leaf};
use kinit_resource::{Content, FileSpec, LeafForm, LeafSpec, Place, Resource, Shared, UnitState};

use crate::bundle::{Bundle, Program};
use crate::packages::{HostPackages, host_packages};
use crate::phase::Phase;
use crate::template::TemplateError;
use crate::units::Unit;
use crate::{KUBERNETES, PKI};

/// What of a host's facts changes what it should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Whether processes may lower their `oom_score_adj`.
    pub can_lower_oom_score: bool,
    /// Whether the host has the one cgroup v2 hierarchy.
    pub cgroup_v2: bool,
    /// Whether systemd-resolved runs, so that pods need its list of real servers.
    pub has_resolved: bool,
    /// The network interface that has the host's address.
    pub interface: String,
    /// No control plane has the key of the cluster's authority (kubeadm's external CA mode; `caKeys: desk`), so that
    /// the controller manager signs nothing: kubelets get their certificates as all other programs do, and renew none
    /// themselves.
    pub no_signer: bool,
    /// The distribution's release, by which bundles have packages: `debian-trixie`.
    pub release: String,
}

const WAIT_SECONDS: u32 = 120;
/// Components that only control planes run.
const CONTROL_PLANE: [&str; 5] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "cloud-controller-manager", "metrics-server"];

struct Desired<'a> {
    cluster: &'a Cluster,
    host: &'a HostSpec,
    facts: &'a HostFacts,
    bundle: &'a Bundle,
    list: Vec<(Phase, Resource)>,
}

/// The host's resources with the phase that brings each about.
pub fn desired(
    cluster: &Cluster,
    host: &HostSpec,
    facts: &HostFacts,
    bundle: &Bundle,
) -> Result<Vec<(Phase, Resource)>, TemplateError> {
    let facts = &HostFacts { no_signer: facts.no_signer || cluster.signs_on_desk(), ..facts.clone() };
    let mut desired = Desired { cluster, host, facts, bundle, list: Vec::new() };
    desired.prepare();
    if host.is_node() {
        desired.binaries();
    }
    if host.is(Role::ControlPlane) {
        desired.certificates();
        desired.etcd()?;
    }
    if !host.is(Role::ControlPlane) {
        desired.shared(Shared::Authority(Authority::Kubernetes), Place::Public);
    }
    if cluster.balances(host) {
        desired.balancer()?;
    }
    if host.is(Role::ControlPlane) {
        desired.control_plane()?;
        desired.list.extend(crate::backup::scheduled(cluster, host, bundle)?);
    }
    if host.is_node() {
        desired.node()?;
    }
    if host.is_node() {
        let timer = crate::renewal::timer(host, bundle, &desired.list, !facts.no_signer)?;
        desired.list.extend(timer);
    }
    desired.list.sort_by_key(|(phase, _)| *phase);
    Ok(desired.list)
}

impl Desired<'_> {
    fn add(&mut self, phase: Phase, resource: Resource) {
        self.list.push((phase, resource));
    }

    fn file(&mut self, phase: Phase, path: impl Into<String>, mode: u32, text: String) {
        let file = FileSpec {
            path: path.into(),
            mode,
            owner: "root:root".into(),
            content: Content::Text(text),
            unless_exists: None,
        };
        self.add(phase, Resource::File(file));
    }

    /// A directory that everybody may look into.
    fn directory(&mut self, phase: Phase, path: &str) {
        let (path, owner) = (path.to_owned(), "root:root".to_owned());
        self.add(phase, Resource::Directory { path, mode: 0o755, owner, populated: false });
    }

    /// A component's own directory, which it fills.
    fn data_directory(&mut self, phase: Phase, path: &str, owner: &str) {
        let (path, owner) = (path.to_owned(), owner.to_owned());
        self.add(phase, Resource::Directory { path, mode: 0o700, owner, populated: true });
    }

    /// A unit file of ours, and the unit running; `reads` are the files it reads at its start.
    fn unit(&mut self, phase: Phase, name: &str, unit: &Unit, mut reads: Vec<String>) -> Result<(), TemplateError> {
        let path = format!("/etc/systemd/system/{name}.service");
        self.file(phase, &path, 0o644, unit.render()?);
        reads.push(path);
        self.running(phase, name, reads);
        Ok(())
    }

    fn running(&mut self, phase: Phase, name: &str, reads: Vec<String>) {
        let state = UnitState::Running { reads, reloads: false };
        self.add(phase, Resource::Unit { name: format!("{name}.service"), state });
    }

    /// Packages of the bundle's that take the places of older ones, and the program of them that a unit runs. Only an
    /// upgrade does that; who wants it for no other reason leaves it out.
    fn package_versions(&mut self, phase: Phase, names: &[&str], program: &str) {
        if let Some(index) = self.bundle.packages.get(&self.facts.release).cloned() {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            self.add(phase, Resource::PackageVersions { names, program: program.to_owned(), index });
        }
    }

    fn healthy(&mut self, phase: Phase, url: String, authority: bool) {
        let authority_file = authority.then(|| format!("{PKI}/ca.crt"));
        self.add(phase, Resource::Healthy { url, authority_file, seconds: WAIT_SECONDS });
    }

    /// One of kinit's programs as a unit.
    fn program(
        &mut self,
        phase: Phase,
        name: &str,
        what: &str,
        args: &[Arg],
        mut reads: Vec<String>,
        extra: &str,
    ) -> Result<(), TemplateError> {
        let program = format!("/usr/local/bin/{name}");
        // Placed everywhere before, switched here: within the host's turn.
        if let Some(target) = self.bundle.programs.get(name).map(Program::path) {
            self.add(phase, Resource::Link { path: program.clone(), target, keep_existing: false });
        }
        let mut unit = Unit::new(what, &program, &self.bundle.flags(name, args.to_vec()));
        unit.extra = extra.to_owned();
        reads.push(program);
        self.unit(phase, name, &unit, reads)
    }

    fn prepare(&mut self) {
        let phase = Phase::PrepareHosts;
        let HostPackages { names, mask } = host_packages(self.cluster, self.host);
        let index = self.bundle.packages.get(&self.facts.release).cloned();
        self.add(phase, Resource::Packages { names, mask, index });
        // Whose host this is, for the next kinit's checks.
        let owner = serde_json::json!({ "cluster": self.cluster.metadata.name });
        self.file(phase, format!("{KUBERNETES}/kinit.json"), 0o644, format!("{owner}\n"));
        if self.host.is_node() {
            self.node_kernel();
        }
    }

    fn binaries(&mut self) {
        let phase = Phase::Binaries;
        let needed = |component: &str| self.host.is(Role::ControlPlane) || !CONTROL_PLANE.contains(&component);
        let programs = self.bundle.programs.iter().filter(|(component, _)| needed(component));
        let files: BTreeMap<String, String> =
            programs.map(|(_, program)| (program.path(), program.sha256.clone())).collect();
        for (path, sha256) in files {
            self.add(phase, Resource::Blob { path, sha256, mode: 0o755 });
        }
    }

    fn shared(&mut self, shared: Shared, place: Place) {
        self.add(Phase::Certs, Resource::Shared { shared, place });
    }

    fn leaf(&mut self, phase: Phase, leaf: Leaf, form: LeafForm) {
        let spec = LeafSpec {
            leaf: leaf.into(),
            subject: leaf.subject(&self.cluster.tree_names(), &self.host.names()),
            algorithm: self.cluster.spec.certificates.encryption_algorithm,
            form,
            authority_file: format!("{PKI}/{}.crt", leaf.authority().stem()),
        };
        self.add(phase, Resource::Leaf(Box::new(spec)));
    }

    fn kubeconfig(&mut self, leaf: Leaf, server: String) {
        let path = format!("{KUBERNETES}/{}.conf", leaf.stem());
        let cluster = self.cluster.metadata.name.clone();
        self.leaf(Phase::Kubeconfig, leaf, LeafForm::Kubeconfig { path, server, cluster });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(host: usize) -> Vec<(Phase, Resource)> {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let bundle = Bundle::sample();
        let facts = HostFacts { can_lower_oom_score: true, cgroup_v2: true, ..HostFacts::default() };
        desired(&cluster, &cluster.spec.hosts[host], &facts, &bundle).unwrap()
    }

    fn has(list: &[(Phase, Resource)], unit: &str) -> bool {
        list.iter().any(|(_, r)| matches!(r, Resource::Unit { name, .. } if name == unit))
    }

    #[test]
    fn each_role_gets_its_units() {
        let (lb, cp, worker) = (list(0), list(1), list(4));
        assert!(has(&lb, "haproxy.service") && !has(&lb, "kubelet.service"));
        for unit in [
            "etcd",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "metrics-server",
            "containerd",
            "kubelet",
            "kube-proxy",
            "kube-netd",
        ] {
            assert!(has(&cp, &format!("{unit}.service")), "{unit}");
        }
        assert!(has(&worker, "kubelet.service") && !has(&worker, "etcd.service"));
    }

    #[test]
    fn kubelets_follow_the_endpoint_and_restart_when_it_changes() {
        for (host, expected) in [(1, "https://192.0.2.11:6443"), (4, "https://192.0.2.10:6443")] {
            let list = list(host);
            let stamp = list.iter().find_map(|(_, r)| match r {
                Resource::ClusterOf { path, server, stamp, .. } if path == "/etc/kubernetes/kubelet.conf" => {
                    assert_eq!(server, expected);
                    Some(stamp.clone())
                }
                _ => None,
            });
            let reads = list.iter().find_map(|(_, r)| match r {
                Resource::Unit { name, state: UnitState::Running { reads, .. } } if name == "kubelet.service" => {
                    Some(reads)
                }
                _ => None,
            });
            assert!(reads.unwrap().contains(&stamp.unwrap()), "host {host}");
        }
    }

    #[test]
    fn workers_never_get_an_authoritys_key() {
        for host in [0, 4, 5] {
            let whole = list(host).iter().any(|(_, r)| matches!(r, Resource::Shared { place: Place::Whole, .. }));
            assert!(!whole, "host {host}");
        }
    }

    #[test]
    fn super_admin_is_on_control_planes_only() {
        let has =
            |host| list(host).iter().any(|(_, r)| matches!(r, Resource::Leaf(l) if l.leaf == Leaf::SuperAdmin.into()));
        assert_eq!([has(1), has(2), has(3), has(4)], [true, true, true, false]);
    }

    #[test]
    fn packages_come_from_the_bundle_where_it_has_those_of_the_hosts_release() {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let mut bundle = Bundle::sample();
        bundle.packages.insert("debian-trixie".into(), "Package: etcd-server\n".into());
        for (release, expected) in [("debian-trixie", true), ("debian-bookworm", false)] {
            let facts = HostFacts { release: release.into(), ..HostFacts::default() };
            let list = desired(&cluster, &cluster.spec.hosts[1], &facts, &bundle).unwrap();
            let from_bundle = list
                .iter()
                .any(|(_, r)| matches!(r, Resource::Packages { index: Some(index), .. } if index.contains("etcd")));
            assert_eq!(from_bundle, expected);
            let versions: Vec<_> = list
                .iter()
                .filter_map(|(phase, r)| match r {
                    Resource::PackageVersions { names, program, .. } => Some((*phase, names.len(), program.as_str())),
                    _ => None,
                })
                .collect();
            let all = [(Phase::Etcd, 1, "/usr/bin/etcd"), (Phase::KubeletStart, 3, "/usr/bin/containerd")];
            assert_eq!(versions, if expected { &all[..] } else { &[] });
        }
    }

    /// A file that comes out otherwise the next time would be a change, and a restart.
    #[test]
    fn the_same_cluster_gives_the_same_files() {
        let mut cluster = kinit_config::load(kinit_config::example()).unwrap();
        let limits = ["memory.available", "nodefs.available", "imagefs.available", "pid.available"];
        cluster.spec.kubelet.eviction_hard = limits.map(|s| (s.to_owned(), "5%".to_owned())).into();
        let host = cluster.spec.hosts[1].clone();
        let bundle = Bundle::sample();
        let facts = HostFacts { can_lower_oom_score: true, cgroup_v2: true, ..HostFacts::default() };
        let make = || desired(&cluster, &host, &facts, &bundle).unwrap();
        let first = make();
        let text = format!("{first:?}");
        assert!(text.contains("evictionHard:\\n  imagefs.available: \\\"5%\\\"\\n  memory.available"), "{text}");
        for _ in 0..16 {
            assert_eq!(make(), first);
        }
    }
}
