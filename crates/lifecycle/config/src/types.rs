//! The types of the cluster file, with their defaults.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use kinit_pki::{NodeNames, TreeNames};
use serde::{Deserialize, Serialize};

use crate::backup::Backup;
use crate::balancing::LoadBalancer;
use crate::bundles::Bundles;
use crate::certificates::{CaKeys, Certificates};
use crate::metrics_server::MetricsServer;
use crate::pools::LoadBalancerPool;
use crate::ssh::{HostSsh, Ssh};
use crate::storage::Storage;
use crate::version::Version;

/// The only version so far.
pub const API_VERSION: &str = "kinit.dev/v1alpha1";
/// The only kind so far.
pub const KIND: &str = "Cluster";
/// The version of Kubernetes that kinit's own components have: what they say of themselves
/// (`kinit_component_base::version`), without the build.
pub const KUBERNETES_VERSION: &str = "v1.36.0";

/// A cluster, as its operator wants it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// `kinit.dev/v1alpha1`.
    pub api_version: String,
    /// `Cluster`.
    pub kind: String,
    /// Its name.
    #[serde(default)]
    pub metadata: Metadata,
    /// What it consists of.
    pub spec: Spec,
}

/// Name of the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// kubeadm's `clusterName`: the cluster's name in kubeconfigs.
    pub name: String,
}

impl Default for Metadata {
    fn default() -> Self {
        Self { name: "kubernetes".to_owned() }
    }
}

/// Everything about the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Version of Kubernetes, without a build. Default: that of the bundle. `kinit upgrade` changes it on a live
    /// cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_version: Option<Version>,
    /// `HOST[:PORT]` where clients reach the API. Default: the load balancers' virtual address, the load balancer's
    /// own, or without one the first control plane's; port 6443.
    #[serde(default)]
    pub control_plane_endpoint: String,
    /// What is in front of the API servers.
    #[serde(default, skip_serializing_if = "LoadBalancer::is_default")]
    pub load_balancer: LoadBalancer,
    /// Addresses for Services of type LoadBalancer. Without any such Services wait, unless somebody else serves them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_pools: Vec<LoadBalancerPool>,
    /// Subnets and names.
    #[serde(default)]
    pub networking: Networking,
    /// The key-value store.
    #[serde(default)]
    pub etcd: Etcd,
    /// Keys and lives of certificates.
    #[serde(default)]
    pub certificates: Certificates,
    /// The API server.
    #[serde(default)]
    pub api_server: Component,
    /// The controller manager.
    #[serde(default)]
    pub controller_manager: Component,
    /// The scheduler.
    #[serde(default)]
    pub scheduler: Component,
    /// The cloud controller manager, where there are `loadBalancerPools`.
    #[serde(default, skip_serializing_if = "Component::is_default")]
    pub cloud_controller_manager: Component,
    /// What serves `metrics.k8s.io`, on control planes.
    #[serde(default, skip_serializing_if = "MetricsServer::is_default")]
    pub metrics_server: MetricsServer,
    /// The node agent, on all nodes.
    #[serde(default)]
    pub kubelet: Kubelet,
    /// The service proxy, on all nodes.
    #[serde(default)]
    pub proxy: Component,
    /// The pod network, on all nodes.
    #[serde(default)]
    pub network: Component,
    /// Backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Backup>,
    /// Which bundles are accepted.
    #[serde(default, skip_serializing_if = "Bundles::is_default")]
    pub bundles: Bundles,
    /// What claims get volumes from.
    #[serde(default, skip_serializing_if = "Storage::is_default")]
    pub storage: Storage,
    /// How hosts are reached.
    #[serde(default)]
    pub ssh: Ssh,
    /// The machines.
    pub hosts: Vec<HostSpec>,
}

/// Subnets and names. IPv4 only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Networking {
    /// Addresses of Services.
    #[serde(default = "service_subnet")]
    pub service_subnet: String,
    /// Addresses of pods; each node gets a /24 of it.
    #[serde(default = "pod_subnet")]
    pub pod_subnet: String,
    /// Domain of Services' names.
    #[serde(default = "dns_domain")]
    pub dns_domain: String,
}

fn service_subnet() -> String {
    "10.96.0.0/12".to_owned()
}
fn pod_subnet() -> String {
    "10.244.0.0/16".to_owned()
}
fn dns_domain() -> String {
    "cluster.local".to_owned()
}

impl Default for Networking {
    fn default() -> Self {
        Self { service_subnet: service_subnet(), pod_subnet: pod_subnet(), dns_domain: dns_domain() }
    }
}

/// A command-line flag, as in kubeadm's v1beta4: a list, so that a flag can be given twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Arg {
    /// Name without dashes.
    pub name: String,
    /// Value.
    pub value: String,
}

/// A component's own settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Component {
    /// Flags added to kinit's, or in their place where the name is the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_args: Vec<Arg>,
    /// Further names and addresses for the serving certificate (API server only).
    #[serde(default, rename = "certSANs", skip_serializing_if = "Vec::is_empty")]
    pub cert_sans: Vec<String>,
}

impl Component {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The kubelet's settings, on all nodes; named as in its own configuration (`KubeletConfiguration`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kubelet {
    /// Flags added to kinit's, or in their place where the name is the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_args: Vec<Arg>,
    /// When pods are evicted: signals (`nodefs.available`) and quantities or percentages. Replaces the kubelet's
    /// defaults as a whole.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub eviction_hard: BTreeMap<String, String>,
    /// Disk usage in percent above which unused images are removed; 100 is never. Default 85.
    #[serde(default, rename = "imageGCHighThresholdPercent", skip_serializing_if = "Option::is_none")]
    pub image_gc_high_threshold_percent: Option<u8>,
    /// Whether containers that name no seccomp profile run with the runtime's. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp_default: Option<bool>,
    /// Processes and threads that a pod may have; -1 is no limit. Default 4096.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_pids_limit: Option<i64>,
}

impl Kubelet {
    /// Whether the runtime's seccomp profile is the default.
    pub fn seccomp_by_default(&self) -> bool {
        self.seccomp_default.unwrap_or(true)
    }

    /// Processes and threads of a pod.
    pub fn pids_of_a_pod(&self) -> i64 {
        self.pod_pids_limit.unwrap_or(4096)
    }

    /// Percentage of a disk that must stay free, by signal: what is set or else the kubelet's default.
    pub fn free_percent(&self, signal: &str) -> u64 {
        let default = match (self.eviction_hard.is_empty(), signal) {
            (true, "nodefs.available") => 10,
            (true, "imagefs.available") => 15,
            _ => 0,
        };
        let set = self.eviction_hard.get(signal).and_then(|v| v.strip_suffix('%'));
        set.and_then(|p| p.parse::<f64>().ok()).map_or(default, |p| p.ceil() as u64)
    }
}

/// etcd's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Etcd {
    /// Where a member keeps its data.
    #[serde(default = "etcd_dir")]
    pub data_dir: String,
    /// Flags added to kinit's, or in their place where the name is the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_args: Vec<Arg>,
}

fn etcd_dir() -> String {
    "/var/lib/etcd".to_owned()
}

impl Default for Etcd {
    fn default() -> Self {
        Self { data_dir: etcd_dir(), extra_args: Vec::new() }
    }
}

/// What a host is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// etcd and the control plane; a node too, tainted.
    #[serde(rename = "control-plane")]
    ControlPlane,
    /// Runs pods.
    #[serde(rename = "worker")]
    Worker,
    /// HAProxy in front of the API servers, for the type `hosts` of [`LoadBalancer`].
    #[serde(rename = "loadbalancer")]
    LoadBalancer,
}

/// One machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostSpec {
    /// Its name in the cluster: lower-case, a DNS label or subdomain.
    pub name: String,
    /// Its own address, by which the others reach it (IPv4).
    pub address: String,
    /// What it is for.
    pub roles: Vec<Role>,
    /// What differs from `spec.ssh`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<HostSsh>,
    /// Labels for its Node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Taints for its Node, at registration. A control plane that is no worker gets kubeadm's own besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<NodeTaint>,
}

/// A taint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeTaint {
    /// Key.
    pub key: String,
    /// Value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// NoSchedule, PreferNoSchedule or NoExecute.
    pub effect: String,
}

impl HostSpec {
    /// Whether it has that role.
    pub fn is(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Whether it runs a kubelet.
    pub fn is_node(&self) -> bool {
        self.is(Role::ControlPlane) || self.is(Role::Worker)
    }

    /// Its address; the file was validated.
    pub fn ip(&self) -> IpAddr {
        self.address.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// Where its etcd listens for its peers.
    pub fn peer_url(&self) -> String {
        format!("https://{}:2380", self.address)
    }

    /// Names for its certificates.
    pub fn names(&self) -> NodeNames {
        NodeNames { name: self.name.clone(), address: self.ip() }
    }
}

impl Cluster {
    /// Whether the authorities' keys are kept on the desk, so that hosts and cluster sign nothing.
    pub fn signs_on_desk(&self) -> bool {
        self.spec.certificates.ca_keys == CaKeys::Desk
    }

    /// Its version of Kubernetes; that of kinit's own components where nobody has said which.
    pub fn kubernetes_version(&self) -> String {
        self.spec.kubernetes_version.as_ref().map_or_else(|| KUBERNETES_VERSION.to_owned(), ToString::to_string)
    }

    /// Hosts of a role, in the file's order.
    pub fn hosts(&self, role: Role) -> impl Iterator<Item = &HostSpec> {
        self.spec.hosts.iter().filter(move |h| h.is(role))
    }

    /// The first control plane: where the authorities are born.
    pub fn first_control_plane(&self) -> Option<&HostSpec> {
        self.hosts(Role::ControlPlane).next()
    }

    /// Host and port of the endpoint.
    pub fn endpoint(&self) -> (&str, u16) {
        let text = self.spec.control_plane_endpoint.as_str();
        match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().unwrap_or(6443)),
            None => (text, 6443),
        }
    }

    /// The `n`th address of the service subnet: 1 is Service `kubernetes`, 10 is DNS.
    pub fn service_ip(&self, n: u32) -> Ipv4Addr {
        let net: Ipv4Net = self.spec.networking.service_subnet.parse().unwrap_or_default();
        Ipv4Addr::from(u32::from(net.network()).saturating_add(n))
    }

    /// Names for the certificate tree.
    pub fn tree_names(&self) -> TreeNames {
        TreeNames {
            dns_domain: self.spec.networking.dns_domain.clone(),
            first_service_ip: self.service_ip(1).into(),
            endpoint: self.endpoint().0.to_owned(),
            extra_api_names: self.balancer_names().into_iter().chain(self.spec.api_server.cert_sans.clone()).collect(),
            days: self.spec.certificates.validity_days,
        }
    }
}
