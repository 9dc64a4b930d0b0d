//! The cluster file: `apiVersion: kinit.dev/v1alpha1, kind: Cluster`.
//!
//! ```text
//! text ─ strict decode ─► v1alpha1 ─ default ─► Cluster ─ validate ─► all errors, each with its path
//! ```
//!
//! Unknown fields are refused. Defaults are kubeadm's (`kubeadm config print init-defaults`).

mod change;
mod edit;
mod load;
mod ssh;
mod syntax;
mod types;
mod validate;

pub use change::{differences, fixed};
pub use edit::{EditError, add_host, host_lines, remove_host};
pub use load::{LoadError, example, load, print, read};
pub use ssh::{HostSsh, Ssh};
pub use types::{
    API_VERSION, Arg, Certificates, Cluster, Component, Etcd, HostSpec, KIND, KUBERNETES_VERSION, Metadata, Networking,
    NodeTaint, Role, Spec,
};
pub use validate::{FieldError, validate};
