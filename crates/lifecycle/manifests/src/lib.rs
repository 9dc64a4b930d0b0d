//! From the cluster file to what hosts and API should hold. Pure: no IO, no clock, no secrets.
//!
//! ```text
//! Cluster + Facts + Bundle ─► host::desired ─► [(Phase, Resource)] per host, in order
//!                           ─► objects       ─► API objects: RBAC, ConfigMaps, DNS, StorageClass
//! ```
//!
//! Text that is a host's file comes from `templates/`; API objects are typed structs.

mod backup;
mod bundle;
mod components;
mod dns;
mod host;
mod kubeadm;
mod load_balancer;
mod metrics_server;
mod objects;
mod packages;
mod phase;
mod renewal;
mod retired;
mod storage;
mod template;
mod units;

pub use bundle::{Bundle, DNS_IMAGE, ImageArchive, PAUSE_IMAGE, Program};
pub use dns::dns_objects;
pub use host::{HostFacts, desired};
pub use metrics_server::{is_managed, unwanted as unwanted_objects};
pub use objects::{BootstrapToken, OPERATORS, TOKENS, bootstrap_token, cluster_objects, kubeconfig_for_token};
pub use packages::{HOST_PACKAGES, HostPackages, host_packages};
pub use phase::Phase;
pub use retired::retired;
pub use storage::storage_objects;
pub use template::TemplateError;

/// Where certificates are.
pub const PKI: &str = "/etc/kubernetes/pki";
/// Where kubeconfigs are.
pub const KUBERNETES: &str = "/etc/kubernetes";
/// Name under which the bootstrap kubeconfig's text is known until it is made.
pub const BOOTSTRAP_KUBECONFIG: &str = "bootstrap-kubeconfig";
/// The kubelet's client certificate: once it is there, the node needs no bootstrapping.
pub const KUBELET_CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";
/// The certificate of the kubelet's server, with its key.
pub const KUBELET_SERVING: &str = "/var/lib/kubelet/pki/kubelet-server-current.pem";
/// What etcd reads at its first start: who the members are, and whether there is a cluster already.
pub const ETCD_START: &str = "/etc/kubernetes/etcd.env";

/// The cloud controller manager's configuration: the pools of addresses.
pub const CLOUD_CONFIG: &str = "/etc/kubernetes/cloud-config.yaml";

/// The folder that tells whether etcd has data.
pub fn etcd_member_dir(cluster: &kinit_config::Cluster) -> String {
    format!("{}/member", cluster.spec.etcd.data_dir.trim_end_matches('/'))
}

/// The text of [`ETCD_START`]: members by name and peer URL; `new`, or `existing` for one that joins. etcd reads it
/// while it has no data.
pub fn etcd_start(members: &[(String, String)], state: &str) -> String {
    let list: Vec<String> = members.iter().map(|(name, url)| format!("{name}={url}")).collect();
    format!("ETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_CLUSTER_STATE={state}\n", list.join(","))
}
