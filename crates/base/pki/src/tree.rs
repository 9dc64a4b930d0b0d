//! kubeadm's certificate tree, declared (`cmd/kubeadm/app/phases/certs/certlist.go`; subjects and names as the kubeadm
//! implementation page lists them).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::issue::{Subject, Usage};

/// The group that kubeadm's administrators belong to; bound to cluster-admin by `kubeadm:cluster-admins`.
const ADMINS: &str = "kubeadm:cluster-admins";

/// The three authorities, below `/etc/kubernetes/pki`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Authority {
    /// Everything of Kubernetes itself.
    Kubernetes,
    /// The front proxy of aggregated API servers.
    FrontProxy,
    /// etcd's members and clients.
    Etcd,
}

impl Authority {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Kubernetes, Self::FrontProxy, Self::Etcd];

    /// File name without `.crt` or `.key`.
    pub fn stem(self) -> &'static str {
        match self {
            Self::Kubernetes => "ca",
            Self::FrontProxy => "front-proxy-ca",
            Self::Etcd => "etcd/ca",
        }
    }

    /// Its CN.
    pub fn common_name(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::FrontProxy => "front-proxy-ca",
            Self::Etcd => "etcd-ca",
        }
    }
}

/// What is the same for every node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeNames {
    /// `cluster.local`.
    pub dns_domain: String,
    /// The first address of the service subnet: Service `kubernetes`.
    pub first_service_ip: IpAddr,
    /// Host part of the control-plane endpoint, a name or an address.
    pub endpoint: String,
    /// `apiServer.certSANs`.
    pub extra_api_names: Vec<String>,
    /// Life of leaf certificates.
    pub days: u32,
}

/// What differs between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeNames {
    /// The node's name, lower-case.
    pub name: String,
    /// Its advertise address.
    pub address: IpAddr,
}

/// Every leaf certificate and every kubeconfig's client certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Leaf {
    /// The API server's serving certificate.
    ApiServer,
    /// The API server as client of kubelets.
    ApiServerKubeletClient,
    /// The API server as client of aggregated API servers.
    FrontProxyClient,
    /// An etcd member's serving certificate.
    EtcdServer,
    /// An etcd member towards its peers.
    EtcdPeer,
    /// Health checks of etcd.
    EtcdHealthcheckClient,
    /// The API server as client of etcd.
    ApiServerEtcdClient,
    /// The metrics server's serving certificate, where it runs.
    MetricsServer,
    /// admin.conf.
    Admin,
    /// super-admin.conf: system:masters, on the first control plane only.
    SuperAdmin,
    /// controller-manager.conf.
    ControllerManager,
    /// scheduler.conf.
    Scheduler,
    /// cloud-controller-manager.conf, where it runs.
    CloudControllerManager,
    /// metrics-server.conf, where it runs.
    MetricsServerClient,
    /// kube-proxy.conf.
    Proxy,
    /// kube-netd.conf.
    Netd,
}

impl Leaf {
    /// The certificates with files of their own on a control plane.
    pub const FILES: [Self; 7] = [
        Self::ApiServer,
        Self::ApiServerKubeletClient,
        Self::FrontProxyClient,
        Self::EtcdServer,
        Self::EtcdPeer,
        Self::EtcdHealthcheckClient,
        Self::ApiServerEtcdClient,
    ];

    /// File name without extension below the pki folder, or the kubeconfig's name without `.conf`. Also the name for
    /// `certs renew`.
    pub fn stem(self) -> &'static str {
        match self {
            Self::ApiServer => "apiserver",
            Self::ApiServerKubeletClient => "apiserver-kubelet-client",
            Self::FrontProxyClient => "front-proxy-client",
            Self::EtcdServer => "etcd/server",
            Self::EtcdPeer => "etcd/peer",
            Self::EtcdHealthcheckClient => "etcd/healthcheck-client",
            Self::ApiServerEtcdClient => "apiserver-etcd-client",
            Self::Admin => "admin",
            Self::SuperAdmin => "super-admin",
            Self::ControllerManager => "controller-manager",
            Self::Scheduler => "scheduler",
            Self::CloudControllerManager => "cloud-controller-manager",
            // A file below the pki folder, and a kubeconfig: their names differ for `certs renew`.
            Self::MetricsServer => "metrics-server-serving",
            Self::MetricsServerClient => "metrics-server",
            Self::Proxy => "kube-proxy",
            Self::Netd => "kube-netd",
        }
    }

    /// Who signs it.
    pub fn authority(self) -> Authority {
        match self {
            Self::EtcdServer | Self::EtcdPeer | Self::EtcdHealthcheckClient | Self::ApiServerEtcdClient => {
                Authority::Etcd
            }
            Self::FrontProxyClient => Authority::FrontProxy,
            _ => Authority::Kubernetes,
        }
    }

    /// Its subject on that node.
    pub fn subject(self, tree: &TreeNames, node: &NodeNames) -> Subject {
        let client = |cn: &str, group: Option<&str>| Subject {
            common_name: cn.to_owned(),
            organization: group.map(str::to_owned),
            usages: vec![Usage::Client],
            dns: Vec::new(),
            ips: Vec::new(),
            days: tree.days,
        };
        match self {
            Self::ApiServer => api_server(tree, node),
            Self::EtcdServer | Self::EtcdPeer => etcd(tree, node),
            Self::ApiServerKubeletClient => client("kube-apiserver-kubelet-client", Some(ADMINS)),
            Self::FrontProxyClient => client("front-proxy-client", None),
            Self::EtcdHealthcheckClient => client("kube-etcd-healthcheck-client", None),
            Self::ApiServerEtcdClient => client("kube-apiserver-etcd-client", None),
            Self::Admin => client("kubernetes-admin", Some(ADMINS)),
            Self::SuperAdmin => client("kubernetes-super-admin", Some("system:masters")),
            Self::ControllerManager => client("system:kube-controller-manager", None),
            Self::Scheduler => client("system:kube-scheduler", None),
            Self::CloudControllerManager => client("system:cloud-controller-manager", None),
            Self::MetricsServer => metrics_server(tree),
            Self::MetricsServerClient => client("system:metrics-server", None),
            Self::Proxy => client("system:kube-proxy", None),
            Self::Netd => client("system:kube-netd", None),
        }
    }
}

/// Called by the name of its Service: API servers verify that.
fn metrics_server(tree: &TreeNames) -> Subject {
    let name = "metrics-server.kube-system.svc";
    Subject {
        common_name: "metrics-server".to_owned(),
        organization: None,
        usages: vec![Usage::Server],
        dns: vec![name.to_owned()],
        ips: Vec::new(),
        days: tree.days,
    }
}

fn api_server(tree: &TreeNames, node: &NodeNames) -> Subject {
    let mut dns =
        vec![node.name.clone(), "kubernetes".into(), "kubernetes.default".into(), "kubernetes.default.svc".into()];
    dns.push(format!("kubernetes.default.svc.{}", tree.dns_domain));
    let mut ips = vec![tree.first_service_ip, node.address];
    for name in std::iter::once(&tree.endpoint).chain(&tree.extra_api_names) {
        match name.parse() {
            Ok(ip) if !ips.contains(&ip) => ips.push(ip),
            Err(_) if !dns.contains(name) => dns.push(name.clone()),
            _ => {}
        }
    }
    Subject {
        common_name: "kube-apiserver".into(),
        organization: None,
        usages: vec![Usage::Server],
        dns,
        ips,
        days: tree.days,
    }
}

fn etcd(tree: &TreeNames, node: &NodeNames) -> Subject {
    Subject {
        common_name: node.name.clone(),
        organization: None,
        usages: vec![Usage::Server, Usage::Client],
        dns: vec!["localhost".into(), node.name.clone()],
        ips: vec![IpAddr::from([127, 0, 0, 1]), std::net::Ipv6Addr::LOCALHOST.into(), node.address],
        days: tree.days,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_servers_names_are_kubeadms() {
        let tree = TreeNames {
            dns_domain: "cluster.local".into(),
            first_service_ip: "10.96.0.1".parse().unwrap(),
            endpoint: "10.0.0.10".into(),
            extra_api_names: vec!["k8s.example.org".into(), "10.0.0.10".into()],
            days: 365,
        };
        let node = NodeNames { name: "cp1".into(), address: "10.0.0.1".parse().unwrap() };
        let subject = Leaf::ApiServer.subject(&tree, &node);
        let ips: Vec<_> = subject.ips.iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.96.0.1", "10.0.0.1", "10.0.0.10"]);
        let names = [
            "cp1",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "k8s.example.org",
        ];
        assert_eq!(subject.dns, names);
        assert_eq!(Leaf::EtcdPeer.subject(&tree, &node).ips.len(), 3);
    }
}
