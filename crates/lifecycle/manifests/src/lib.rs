//! From the cluster file to what hosts and API should hold. Pure: no IO, no clock, no secrets.
//!
//! ```text
//! Cluster + Facts + Bundle ─► host::desired ─► [(Phase, Resource)] per host, in order
//!                           ─► objects       ─► API objects: RBAC, ConfigMaps, DNS
//! ```
//!
//! Text that is a host's file comes from `templates/`; API objects are typed structs.

mod bundle;
mod components;
mod dns;
mod host;
mod objects;
mod phase;
mod template;
mod units;

pub use bundle::{Bundle, DNS_IMAGE, ImageArchive, PAUSE_IMAGE};
pub use dns::dns_objects;
pub use host::{HostFacts, desired};
pub use objects::{bootstrap_token, cluster_objects, kubeconfig_for_token, node_patch};
pub use phase::Phase;
pub use template::TemplateError;

/// Where certificates are.
pub const PKI: &str = "/etc/kubernetes/pki";
/// Where kubeconfigs are.
pub const KUBERNETES: &str = "/etc/kubernetes";
/// Name under which the bootstrap kubeconfig's text is known until it is made.
pub const BOOTSTRAP_KUBECONFIG: &str = "bootstrap-kubeconfig";
/// The kubelet's client certificate: once it is there, the node needs no bootstrapping.
pub const KUBELET_CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";
