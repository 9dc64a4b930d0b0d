//! What a node has: kernel settings, containerd, the kubelet, the pod network and the service proxy.

use kinit_pki::Leaf;
use kinit_resource::{Content, FileSpec, Resource};
use serde::Serialize;

use super::Desired;
use crate::bundle::PAUSE_IMAGE;
use crate::components as flags;
use crate::phase::Phase;
use crate::template::{self, TemplateError};
use crate::{BOOTSTRAP_KUBECONFIG, KUBELET_CERTIFICATE, KUBERNETES, PKI};

const CONTAINERD: &str = "/usr/bin/containerd";

impl Desired<'_> {
    pub(super) fn node_kernel(&mut self) {
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

    pub(super) fn node(&mut self) -> Result<(), TemplateError> {
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
        self.package_versions(phase, &["containerd", "runc", "containernetworking-plugins"], CONTAINERD);
        self.running(phase, "containerd", vec![config.to_owned(), CONTAINERD.to_owned()]);
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
            pod_pids_limit: i64,
            seccomp_default: bool,
            cipher_suites: &'a [&'a str],
        }
        let phase = Phase::KubeletStart;
        let values = Kubelet {
            address: &self.host.address,
            dns: self.cluster.service_ip(10).to_string(),
            domain: &self.cluster.spec.networking.dns_domain,
            eviction_hard: self.cluster.spec.kubelet.eviction_hard.iter().collect(),
            image_gc_high: self.cluster.spec.kubelet.image_gc_high_threshold_percent,
            pod_pids_limit: self.cluster.spec.kubelet.pids_of_a_pod(),
            seccomp_default: self.cluster.spec.kubelet.seccomp_by_default(),
            cipher_suites: flags::CIPHER_SUITES,
            resolv_conf: if self.facts.has_resolved { "/run/systemd/resolve/resolv.conf" } else { "/etc/resolv.conf" },
            // With v1 hierarchies systemd and runc race for a new scope's groups.
            cgroup_driver: if self.facts.cgroup_v2 { "systemd" } else { "cgroupfs" },
        };
        self.data_directory(phase, "/etc/kubernetes/manifests", "root:root");
        self.data_directory(phase, "/var/lib/kubelet", "root:root");
        self.file(phase, "/var/lib/kubelet/config.yaml", 0o600, template::render(template::KUBELET_CONFIG, &values)?);
        let bootstrap = format!("{KUBERNETES}/bootstrap-kubelet.conf");
        let file = FileSpec {
            path: bootstrap.clone(),
            mode: 0o600,
            owner: "root:root".to_owned(),
            content: Content::Secret(BOOTSTRAP_KUBECONFIG.to_owned()),
            unless_exists: Some(KUBELET_CERTIFICATE.to_owned()),
        };
        self.add(phase, Resource::File(file));
        let stamp = self.cluster_of_kubelet(phase);
        let args = flags::kubelet(self.cluster, self.host);
        // Containers outlive the kubelet: only its own process is stopped.
        self.program(
            phase,
            "kubelet",
            "Kubernetes node agent",
            &args,
            // Rewritten only for a kubelet whose certificate has ended, which then has to ask for another.
            vec!["/var/lib/kubelet/config.yaml".into(), format!("{PKI}/ca.crt"), stamp, bootstrap],
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
        self.add(
            phase,
            Resource::ClusterOf { path, server: self.cluster.api_for(self.host), authority_file, stamp: stamp.clone() },
        );
        stamp
    }

    fn network(&mut self) -> Result<(), TemplateError> {
        let phase = Phase::Network;
        for (leaf, name, what, args) in [
            (Leaf::Netd, "kube-netd", "Kubernetes pod network", flags::netd(self.cluster, self.host)),
            (Leaf::Proxy, "kube-proxy", "Kubernetes service proxy", flags::proxy(self.cluster, self.host)),
        ] {
            self.kubeconfig(leaf, self.cluster.api_for(self.host));
            self.program(phase, name, what, &args, vec![format!("{KUBERNETES}/{name}.conf")], "")?;
        }
        for port in [10247, 10256] {
            self.healthy(phase, format!("http://127.0.0.1:{port}/healthz"), false);
        }
        Ok(())
    }
}
