//! What a node has: kernel settings, containerd, the kubelet, the pod network and the service proxy.

use kinit_pki::{Authority, KeyAlgorithm, Leaf, Subject, Usage};
use kinit_resource::{Content, FileSpec, LeafForm, LeafName, LeafSpec, Resource};
use serde::Serialize;

use super::Desired;
use crate::bundle::PAUSE_IMAGE;
use crate::components as flags;
use crate::phase::Phase;
use crate::template::{self, TemplateError};
use crate::{BOOTSTRAP_KUBECONFIG, KUBELET_CERTIFICATE, KUBELET_SERVING, KUBERNETES, PKI};

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
            /// Whether it asks for its certificates itself.
            asks: bool,
            /// Certificate and key of its server, where it does not.
            serving: &'static str,
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
            asks: !self.facts.no_signer,
            serving: KUBELET_SERVING,
            resolv_conf: if self.facts.has_resolved { "/run/systemd/resolve/resolv.conf" } else { "/etc/resolv.conf" },
            // With v1 hierarchies systemd and runc race for a new scope's groups.
            cgroup_driver: if self.facts.cgroup_v2 { "systemd" } else { "cgroupfs" },
        };
        self.data_directory(phase, "/etc/kubernetes/manifests", "root:root");
        self.data_directory(phase, "/var/lib/kubelet", "root:root");
        self.file(phase, "/var/lib/kubelet/config.yaml", 0o600, template::render(template::KUBELET_CONFIG, &values)?);
        let certificates =
            if self.facts.no_signer { self.kubelet_certificates(phase) } else { vec![self.bootstrap(phase)] };
        let stamp = self.cluster_of_kubelet(phase);
        let mut reads = vec!["/var/lib/kubelet/config.yaml".into(), format!("{PKI}/ca.crt"), stamp];
        reads.extend(certificates);
        let args = flags::kubelet(self.cluster, self.host);
        // Containers outlive the kubelet: only its own process is stopped.
        self.program(phase, "kubelet", "Kubernetes node agent", &args, reads, "KillMode=process\nOOMScoreAdjust=-999")?;
        self.healthy(phase, "http://127.0.0.1:10248/healthz".to_owned(), false);
        Ok(())
    }

    /// What a kubelet asks for its first certificate with. Rewritten only for one whose certificate has ended, which
    /// then has to ask for another. Returns its path.
    fn bootstrap(&mut self, phase: Phase) -> String {
        let path = format!("{KUBERNETES}/bootstrap-kubelet.conf");
        let file = FileSpec {
            path: path.clone(),
            mode: 0o600,
            owner: "root:root".to_owned(),
            content: Content::Secret(BOOTSTRAP_KUBECONFIG.to_owned()),
            unless_exists: Some(KUBELET_CERTIFICATE.to_owned()),
        };
        self.add(phase, Resource::File(file));
        path
    }

    /// A kubelet's certificates where nobody signs its requests, in its own places and with its own kind of key, so
    /// that it goes on from there when somebody does. Returns their paths.
    fn kubelet_certificates(&mut self, phase: Phase) -> Vec<String> {
        let names = self.host.names();
        // Upstream's `system:node:NAME` for both (kubelet-serving signer: the same subject, with the node's names).
        let subject = |usage: Usage, serves: bool| Subject {
            common_name: format!("system:node:{}", names.name),
            organization: Some("system:nodes".to_owned()),
            usages: vec![usage],
            dns: if serves { vec![names.name.clone()] } else { Vec::new() },
            ips: if serves { vec![names.address] } else { Vec::new() },
            days: self.cluster.tree_names().days,
        };
        let all = [
            (LeafName::KubeletClient, KUBELET_CERTIFICATE, subject(Usage::Client, false)),
            (LeafName::KubeletServer, KUBELET_SERVING, subject(Usage::Server, true)),
        ];
        let authority_file = format!("{PKI}/{}.crt", Authority::Kubernetes.stem());
        for (leaf, path, subject) in all {
            let form = LeafForm::Combined { path: path.to_owned() };
            let algorithm = KeyAlgorithm::EcdsaP256;
            let spec = LeafSpec { leaf, subject, algorithm, form, authority_file: authority_file.clone() };
            self.add(phase, Resource::Leaf(Box::new(spec)));
        }
        vec![KUBELET_CERTIFICATE.to_owned(), KUBELET_SERVING.to_owned()]
    }

    /// kubelet.conf is the kubelet's own; where it leads is the cluster file's affair. Returns the file whose change
    /// means a restart.
    fn cluster_of_kubelet(&mut self, phase: Phase) -> String {
        let stamp = "/var/lib/kinit/kubelet.conf.stamp".to_owned();
        let (path, authority_file) = (format!("{KUBERNETES}/kubelet.conf"), format!("{PKI}/ca.crt"));
        self.add(
            phase,
            Resource::ClusterOf {
                path,
                server: self.cluster.api_for(self.host),
                authority_file,
                stamp: stamp.clone(),
                credentials: self.facts.no_signer.then(|| KUBELET_CERTIFICATE.to_owned()),
            },
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
