//! What a control plane has: the certificate tree, etcd, the API server and its companions.

use kinit_config::Role;
use kinit_pki::Leaf;
use kinit_resource::{Content, FileSpec, LeafForm, Place, Resource, Shared};

use super::Desired;
use crate::components as flags;
use crate::phase::Phase;
use crate::template::{self, TemplateError};
use crate::units::Unit;
use crate::{CLOUD_CONFIG, ETCD_START, KUBERNETES, PKI, etcd_member_dir, etcd_start, load_balancer};

const ETCD: &str = "/usr/bin/etcd";

impl Desired<'_> {
    pub(super) fn certificates(&mut self) {
        for shared in Shared::ALL {
            let public = self.cluster.signs_on_desk() && matches!(shared, Shared::Authority(_));
            self.shared(shared, if public { Place::Public } else { Place::Whole });
            if public {
                // At the end of the run: until then the desk may have to read it.
                self.add(Phase::CleanupNode, Resource::Erased { path: format!("{PKI}/{}", shared.files().1) });
            }
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
        let endpoint = format!("https://{}", self.cluster.spec.control_plane_endpoint);
        self.kubeconfig(Leaf::Admin, endpoint.clone());
        // On every control plane: none is special, and whoever reads root's files there can sign one anyway.
        self.kubeconfig(Leaf::SuperAdmin, endpoint);
        self.kubeconfig(Leaf::ControllerManager, self.cluster.api_for(self.host));
        self.kubeconfig(Leaf::Scheduler, self.cluster.api_for(self.host));
        if self.has_pools() {
            self.kubeconfig(Leaf::CloudControllerManager, self.cluster.api_for(self.host));
        }
        if self.cluster.spec.metrics_server.enabled {
            let path = format!("{PKI}/{}", Leaf::MetricsServer.stem());
            self.leaf(Phase::Certs, Leaf::MetricsServer, LeafForm::Files { path, owner: "root:root".to_owned() });
            self.kubeconfig(Leaf::MetricsServerClient, self.cluster.api_for(self.host));
        }
    }

    pub(super) fn etcd(&mut self) -> Result<(), TemplateError> {
        let phase = Phase::Etcd;
        self.data_directory(phase, &self.cluster.spec.etcd.data_dir.clone(), "etcd:etcd");
        let mut unit = Unit::new("etcd, the cluster's key-value store", ETCD, &flags::etcd(self.cluster, self.host));
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
        self.package_versions(phase, &["etcd-server"], ETCD);
        // etcd reads certificates anew for every connection, so that their renewal needs no restart; the authority it
        // reads once.
        self.unit(phase, "etcd", &unit, vec![format!("{PKI}/etcd/ca.crt"), ETCD.to_owned()])?;
        self.healthy(phase, "http://127.0.0.1:2381/health".to_owned(), false);
        Ok(())
    }

    pub(super) fn control_plane(&mut self) -> Result<(), TemplateError> {
        let phase = Phase::ControlPlane;
        let ip = self.host.address.clone();
        self.file(phase, format!("{KUBERNETES}/authentication.yaml"), 0o600, template::AUTHENTICATION.1.to_owned());
        self.file(phase, format!("{KUBERNETES}/audit-policy.yaml"), 0o600, template::AUDIT_POLICY.1.to_owned());
        self.data_directory(phase, "/var/log/kubernetes", "root:root");
        let reads = [
            "authentication.yaml",
            "audit-policy.yaml",
            "pki/ca.crt",
            "pki/front-proxy-ca.crt",
            "pki/etcd/ca.crt",
            "pki/sa.pub",
            "pki/sa.key",
            "pki/encryption.yaml",
            "pki/apiserver-etcd-client.crt",
        ];
        let reads = reads.iter().map(|f| format!("{KUBERNETES}/{f}")).collect();
        let args = flags::api_server(self.cluster, self.host);
        self.program(phase, "kube-apiserver", "Kubernetes API server", &args, reads, "OOMScoreAdjust=-997")?;
        self.healthy(phase, format!("https://{ip}:6443/readyz"), true);
        let reads = ["controller-manager.conf", "pki/ca.crt", "pki/front-proxy-ca.crt", "pki/sa.key"];
        let reads = reads.iter().map(|f| format!("{KUBERNETES}/{f}")).collect();
        let args = flags::controller_manager(self.cluster, !self.facts.no_signer);
        self.program(phase, "kube-controller-manager", "Kubernetes controller manager", &args, reads, "")?;
        let args = flags::scheduler(self.cluster);
        self.program(
            phase,
            "kube-scheduler",
            "Kubernetes scheduler",
            &args,
            vec![format!("{KUBERNETES}/scheduler.conf")],
            "",
        )?;
        if self.has_pools() {
            self.cloud_controller_manager()?;
        }
        if self.cluster.spec.metrics_server.enabled { self.metrics_server() } else { Ok(()) }
    }

    /// It reads its serving certificate anew by itself.
    fn metrics_server(&mut self) -> Result<(), TemplateError> {
        let reads = ["metrics-server.conf", "pki/ca.crt"].iter().map(|f| format!("{KUBERNETES}/{f}")).collect();
        let args = flags::metrics_server(self.cluster);
        self.program(Phase::ControlPlane, "metrics-server", "Kubernetes metrics server", &args, reads, "")
    }

    fn has_pools(&self) -> bool {
        !self.cluster.spec.load_balancer_pools.is_empty()
    }

    /// Without addresses to give away there is nothing for it to do, and it would be in the way of another provider.
    fn cloud_controller_manager(&mut self) -> Result<(), TemplateError> {
        let (phase, name) = (Phase::ControlPlane, "cloud-controller-manager");
        self.file(phase, CLOUD_CONFIG, 0o600, load_balancer::cloud_config(self.cluster));
        let reads = ["cloud-controller-manager.conf", "pki/ca.crt", "pki/front-proxy-ca.crt"];
        let reads = reads.iter().map(|f| format!("{KUBERNETES}/{f}")).chain([CLOUD_CONFIG.to_owned()]).collect();
        let args = flags::cloud_controller_manager(self.cluster);
        self.program(phase, name, "Kubernetes cloud controller manager for bare metal", &args, reads, "")
    }
}
