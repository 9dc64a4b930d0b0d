//! Everything a host should have, in the order in which it is brought about.

use kinit_config::{Arg, Cluster, HostSpec, Role};
use kinit_pki::{Authority, Leaf};
use kinit_resource::{Content, FileSpec, LeafForm, LeafSpec, Place, Resource, Shared, UnitState};
use serde::Serialize;

use crate::bundle::{Bundle, PAUSE_IMAGE};
use crate::components as flags;
use crate::phase::Phase;
use crate::template::{self, TemplateError};
use crate::units::Unit;
use crate::{BOOTSTRAP_KUBECONFIG, ETCD_START, KUBELET_CERTIFICATE, KUBERNETES, PKI, etcd_member_dir, etcd_start};

/// What of a host's facts changes what it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostFacts {
    /// Whether processes may lower their `oom_score_adj`.
    pub can_lower_oom_score: bool,
    /// Whether the host has the one cgroup v2 hierarchy.
    pub cgroup_v2: bool,
    /// Whether systemd-resolved runs, so that pods need its list of real servers.
    pub has_resolved: bool,
}

const WAIT_SECONDS: u32 = 120;

struct Desired<'a> {
    cluster: &'a Cluster,
    host: &'a HostSpec,
    facts: HostFacts,
    bundle: &'a Bundle,
    list: Vec<(Phase, Resource)>,
}

/// The host's resources with the phase that brings each about.
pub fn desired(
    cluster: &Cluster,
    host: &HostSpec,
    facts: HostFacts,
    bundle: &Bundle,
) -> Result<Vec<(Phase, Resource)>, TemplateError> {
    let mut desired = Desired { cluster, host, facts, bundle, list: Vec::new() };
    desired.prepare();
    if host.is_node() {
        desired.binaries();
    }
    if host.is(Role::ControlPlane) {
        desired.certificates();
        desired.etcd()?;
    }
    if host.is(Role::LoadBalancer) || !host.is(Role::ControlPlane) {
        desired.shared(Shared::Authority(Authority::Kubernetes), Place::Public);
    }
    if host.is(Role::LoadBalancer) {
        desired.load_balancer()?;
    }
    if host.is(Role::ControlPlane) {
        desired.control_plane()?;
    }
    if host.is_node() {
        desired.node()?;
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
        let target = self.bundle.hyperkube_path();
        self.add(phase, Resource::Link { path: program.clone(), target, keep_existing: false });
        let mut unit = Unit::new(what, &program, args);
        unit.extra = extra.to_owned();
        reads.push(program);
        self.unit(phase, name, &unit, reads)
    }

    fn prepare(&mut self) {
        let phase = Phase::PrepareHosts;
        let (mut names, mut hold): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
        if self.host.is(Role::ControlPlane) {
            names.push("etcd-server");
            hold.push("etcd.service");
        }
        if self.host.is(Role::LoadBalancer) {
            names.push("haproxy");
            hold.push("haproxy.service");
        }
        if self.host.is_node() {
            names.extend(["containerd", "runc", "containernetworking-plugins"]);
            hold.push("containerd.service");
        }
        let own = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
        self.add(phase, Resource::Packages { names: own(names), hold: own(hold) });
        // Whose host this is, for the next kinit's checks.
        let owner = serde_json::json!({ "cluster": self.cluster.metadata.name });
        self.file(phase, format!("{KUBERNETES}/kinit.json"), 0o644, format!("{owner}\n"));
        if self.host.is_node() {
            self.node_kernel();
        }
    }

    fn node_kernel(&mut self) {
        let phase = Phase::PrepareHosts;
        let modules = ["overlay", "nf_conntrack", "nf_tables"];
        self.file(phase, "/etc/modules-load.d/kinit.conf", 0o644, modules.join("\n") + "\n");
        for module in modules {
            self.add(phase, Resource::KernelModule(module.to_owned()));
        }
        // What the kubelet expects of a kernel (upstream's protectKernelDefaults), and forwarding for pods.
        let sysctls = [
            ("net.ipv4.ip_forward", "1"),
            ("vm.overcommit_memory", "1"),
            ("kernel.panic", "10"),
            ("kernel.panic_on_oops", "1"),
        ];
        let text: String = sysctls.iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
        self.file(phase, "/etc/sysctl.d/90-kinit.conf", 0o644, text);
        for (key, value) in sysctls {
            self.add(phase, Resource::Sysctl { key: key.into(), value: value.into() });
        }
        self.add(phase, Resource::SwapOff);
    }

    fn binaries(&mut self) {
        let phase = Phase::Binaries;
        let path = self.bundle.hyperkube_path();
        self.add(phase, Resource::Blob { path, sha256: self.bundle.hyperkube.clone(), mode: 0o755 });
    }

    fn shared(&mut self, shared: Shared, place: Place) {
        self.add(Phase::Certs, Resource::Shared { shared, place });
    }

    fn leaf(&mut self, phase: Phase, leaf: Leaf, form: LeafForm) {
        let spec = LeafSpec {
            leaf,
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

    /// Where this host's components find the API: their own server on a control plane, else the balancer.
    fn api(&self) -> String {
        if self.host.is(Role::ControlPlane) { format!("https://{}:6443", self.host.address) } else { self.endpoint() }
    }

    fn endpoint(&self) -> String {
        format!("https://{}", self.cluster.spec.control_plane_endpoint)
    }

    fn certificates(&mut self) {
        for shared in Shared::ALL {
            self.shared(shared, Place::Whole);
        }
        // etcd runs as its own user and reads what is its own; the folder's mode keeps others out of the rest.
        self.directory(Phase::Certs, &format!("{PKI}/etcd"));
        for leaf in Leaf::FILES {
            let owner = if matches!(leaf, Leaf::EtcdServer | Leaf::EtcdPeer) { "etcd:etcd" } else { "root:root" };
            self.leaf(
                Phase::Certs,
                leaf,
                LeafForm::Files { path: format!("{PKI}/{}", leaf.stem()), owner: owner.to_owned() },
            );
        }
        self.kubeconfig(Leaf::Admin, self.endpoint());
        // On every control plane: none is special, and whoever reads root's files there can sign one anyway.
        self.kubeconfig(Leaf::SuperAdmin, self.endpoint());
        self.kubeconfig(Leaf::ControllerManager, self.api());
        self.kubeconfig(Leaf::Scheduler, self.api());
    }

    fn etcd(&mut self) -> Result<(), TemplateError> {
        let phase = Phase::Etcd;
        self.data_directory(phase, &self.cluster.spec.etcd.data_dir.clone(), "etcd:etcd");
        let mut unit =
            Unit::new("etcd, the cluster's key-value store", "/usr/bin/etcd", &flags::etcd(self.cluster, self.host));
        unit.user = "etcd".to_owned();
        // With its peers missing etcd is not ready, but it must not be taken for failed.
        unit.kind = "exec".to_owned();
        unit.extra =
            format!("EnvironmentFile=-{ETCD_START}\nTimeoutStopSec=30\nLimitNOFILE=65536\nOOMScoreAdjust=-999");
        let members =
            self.cluster.hosts(Role::ControlPlane).map(|h| (h.name.clone(), h.peer_url())).collect::<Vec<_>>();
        let start = FileSpec {
            path: ETCD_START.to_owned(),
            mode: 0o644,
            owner: "root:root".to_owned(),
            content: Content::Text(etcd_start(&members, "new")),
            unless_exists: Some(etcd_member_dir(self.cluster)),
        };
        self.add(phase, Resource::File(start));
        // etcd reads certificates anew for every connection, so that their renewal needs no restart; the authority it
        // reads once.
        self.unit(phase, "etcd", &unit, vec![format!("{PKI}/etcd/ca.crt")])?;
        self.healthy(phase, "http://127.0.0.1:2381/health".to_owned(), false);
        Ok(())
    }

    fn load_balancer(&mut self) -> Result<(), TemplateError> {
        #[derive(Serialize)]
        struct Server<'a> {
            name: &'a str,
            address: &'a str,
        }
        #[derive(Serialize)]
        struct Values<'a> {
            bind: &'a str,
            port: u16,
            ca_file: String,
            servers: Vec<Server<'a>>,
        }
        let phase = Phase::LoadBalancer;
        let values = Values {
            bind: "*",
            port: self.cluster.endpoint().1,
            ca_file: format!("{PKI}/ca.crt"),
            servers: self
                .cluster
                .hosts(Role::ControlPlane)
                .map(|h| Server { name: &h.name, address: &h.address })
                .collect(),
        };
        self.file(phase, "/etc/haproxy/haproxy.cfg", 0o644, template::render(template::HAPROXY, &values)?);
        let reads = vec!["/etc/haproxy/haproxy.cfg".to_owned(), format!("{PKI}/ca.crt")];
        // Connections of a changed configuration's predecessor live on.
        let state = UnitState::Running { reads, reloads: true };
        self.add(phase, Resource::Unit { name: "haproxy.service".to_owned(), state });
        Ok(())
    }

    fn control_plane(&mut self) -> Result<(), TemplateError> {
        let phase = Phase::ControlPlane;
        let ip = self.host.address.clone();
        self.file(phase, format!("{KUBERNETES}/authentication.yaml"), 0o600, template::AUTHENTICATION.1.to_owned());
        self.file(phase, format!("{KUBERNETES}/audit-policy.yaml"), 0o600, template::AUDIT_POLICY.1.to_owned());
        self.data_directory(phase, "/var/log/kubernetes", "root:root");
        let reads = [
            "authentication.yaml",
            "audit-policy.yaml",
            "pki/ca.crt",
            "pki/sa.pub",
            "pki/sa.key",
            "pki/encryption.yaml",
            "pki/apiserver-etcd-client.crt",
        ];
        let reads = reads.iter().map(|f| format!("{KUBERNETES}/{f}")).collect();
        let args = flags::api_server(self.cluster, self.host);
        self.program(phase, "kube-apiserver", "Kubernetes API server", &args, reads, "OOMScoreAdjust=-997")?;
        self.healthy(phase, format!("https://{ip}:6443/readyz"), true);
        let reads =
            vec![format!("{KUBERNETES}/controller-manager.conf"), format!("{PKI}/ca.crt"), format!("{PKI}/sa.key")];
        let args = flags::controller_manager(self.cluster);
        self.program(phase, "kube-controller-manager", "Kubernetes controller manager", &args, reads, "")?;
        let args = flags::scheduler(self.cluster);
        self.program(
            phase,
            "kube-scheduler",
            "Kubernetes scheduler",
            &args,
            vec![format!("{KUBERNETES}/scheduler.conf")],
            "",
        )
    }

    fn node(&mut self) -> Result<(), TemplateError> {
        self.runtime()?;
        self.kubelet()?;
        self.network()
    }

    /// containerd, and the images that every node has.
    fn runtime(&mut self) -> Result<(), TemplateError> {
        #[derive(Serialize)]
        struct Containerd {
            pause_image: &'static str,
            restrict_oom_score_adj: bool,
            systemd_cgroup: bool,
        }
        let phase = Phase::KubeletStart;
        let values = Containerd {
            pause_image: PAUSE_IMAGE,
            restrict_oom_score_adj: !self.facts.can_lower_oom_score,
            systemd_cgroup: self.facts.cgroup_v2,
        };
        let config = "/etc/containerd/config.toml";
        self.file(phase, config, 0o644, template::render(template::CONTAINERD, &values)?);
        self.running(phase, "containerd", vec![config.to_owned()]);
        for image in &self.bundle.images {
            let archive = format!("/var/lib/kinit/images/{}.tar", image.sha256.get(..12).unwrap_or(&image.sha256));
            let (name, sha256) = (image.name.clone(), image.sha256.clone());
            self.list.push((phase, Resource::Blob { path: archive.clone(), sha256: sha256.clone(), mode: 0o600 }));
            self.list.push((phase, Resource::Image { name, archive, sha256 }));
        }
        Ok(())
    }

    fn kubelet(&mut self) -> Result<(), TemplateError> {
        #[derive(Serialize)]
        struct Kubelet<'a> {
            address: &'a str,
            dns: String,
            domain: &'a str,
            resolv_conf: &'static str,
            cgroup_driver: &'static str,
            // In order: a template's map has none, and the file must not change by itself.
            eviction_hard: Vec<(&'a String, &'a String)>,
            image_gc_high: Option<u8>,
        }
        let phase = Phase::KubeletStart;
        let values = Kubelet {
            address: &self.host.address,
            dns: self.cluster.service_ip(10).to_string(),
            domain: &self.cluster.spec.networking.dns_domain,
            eviction_hard: self.cluster.spec.kubelet.eviction_hard.iter().collect(),
            image_gc_high: self.cluster.spec.kubelet.image_gc_high_threshold_percent,
            resolv_conf: if self.facts.has_resolved { "/run/systemd/resolve/resolv.conf" } else { "/etc/resolv.conf" },
            // With v1 hierarchies systemd and runc race for a new scope's groups.
            cgroup_driver: if self.facts.cgroup_v2 { "systemd" } else { "cgroupfs" },
        };
        self.data_directory(phase, "/etc/kubernetes/manifests", "root:root");
        self.data_directory(phase, "/var/lib/kubelet", "root:root");
        self.file(phase, "/var/lib/kubelet/config.yaml", 0o600, template::render(template::KUBELET_CONFIG, &values)?);
        let bootstrap = FileSpec {
            path: format!("{KUBERNETES}/bootstrap-kubelet.conf"),
            mode: 0o600,
            owner: "root:root".to_owned(),
            content: Content::Secret(BOOTSTRAP_KUBECONFIG.to_owned()),
            unless_exists: Some(KUBELET_CERTIFICATE.to_owned()),
        };
        self.add(phase, Resource::File(bootstrap));
        let stamp = self.cluster_of_kubelet(phase);
        let args = flags::kubelet(self.cluster, self.host);
        // Containers outlive the kubelet: only its own process is stopped.
        self.program(
            phase,
            "kubelet",
            "Kubernetes node agent",
            &args,
            vec!["/var/lib/kubelet/config.yaml".into(), format!("{PKI}/ca.crt"), stamp],
            "KillMode=process\nOOMScoreAdjust=-999",
        )?;
        self.healthy(phase, "http://127.0.0.1:10248/healthz".to_owned(), false);
        Ok(())
    }

    /// kubelet.conf is the kubelet's own; where it leads is the cluster file's affair. Returns the file whose change
    /// means a restart.
    fn cluster_of_kubelet(&mut self, phase: Phase) -> String {
        let stamp = "/var/lib/kinit/kubelet.conf.stamp".to_owned();
        let (path, authority_file) = (format!("{KUBERNETES}/kubelet.conf"), format!("{PKI}/ca.crt"));
        self.add(phase, Resource::ClusterOf { path, server: self.api(), authority_file, stamp: stamp.clone() });
        stamp
    }

    fn network(&mut self) -> Result<(), TemplateError> {
        let phase = Phase::Network;
        for (leaf, name, what, args) in [
            (Leaf::Netd, "kube-netd", "Kubernetes pod network", flags::netd(self.cluster, self.host)),
            (Leaf::Proxy, "kube-proxy", "Kubernetes service proxy", flags::proxy(self.cluster, self.host)),
        ] {
            self.kubeconfig(leaf, self.api());
            self.program(phase, name, what, &args, vec![format!("{KUBERNETES}/{name}.conf")], "")?;
        }
        for port in [10247, 10256] {
            self.healthy(phase, format!("http://127.0.0.1:{port}/healthz"), false);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(host: usize) -> Vec<(Phase, Resource)> {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let bundle = Bundle { hyperkube: "ab".repeat(32), images: vec![] };
        let facts = HostFacts { can_lower_oom_score: true, has_resolved: false, cgroup_v2: true };
        desired(&cluster, &cluster.spec.hosts[host], facts, &bundle).unwrap()
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
        let has = |host| list(host).iter().any(|(_, r)| matches!(r, Resource::Leaf(l) if l.leaf == Leaf::SuperAdmin));
        assert_eq!([has(1), has(2), has(3), has(4)], [true, true, true, false]);
    }

    #[test]
    fn the_balancer_checks_every_server_with_the_clusters_authority() {
        let text = list(0).into_iter().find_map(|(_, r)| match r {
            Resource::File(FileSpec { path, content: Content::Text(text), .. }) if path.ends_with("haproxy.cfg") => {
                Some(text)
            }
            _ => None,
        });
        let text = text.unwrap();
        assert!(
            text.contains("    server cp3 192.0.2.13:6443\n") && text.contains("ca-file /etc/kubernetes/pki/ca.crt"),
            "{text}"
        );
    }

    /// A file that comes out otherwise the next time would be a change, and a restart.
    #[test]
    fn the_same_cluster_gives_the_same_files() {
        let mut cluster = kinit_config::load(kinit_config::example()).unwrap();
        let limits = ["memory.available", "nodefs.available", "imagefs.available", "pid.available"];
        cluster.spec.kubelet.eviction_hard = limits.map(|s| (s.to_owned(), "5%".to_owned())).into();
        let host = cluster.spec.hosts[1].clone();
        let bundle = Bundle { hyperkube: "ab".repeat(32), images: vec![] };
        let facts = HostFacts { can_lower_oom_score: true, has_resolved: false, cgroup_v2: true };
        let make = || desired(&cluster, &host, facts, &bundle).unwrap();
        let first = make();
        let text = format!("{first:?}");
        assert!(text.contains("evictionHard:\\n  imagefs.available: \\\"5%\\\"\\n  memory.available"), "{text}");
        for _ in 0..16 {
            assert_eq!(make(), first);
        }
    }
}
