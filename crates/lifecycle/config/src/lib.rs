//! The cluster file: `apiVersion: kinit.dev/v1alpha1, kind: Cluster`.
//!
//! ```text
//! text ─ strict decode ─► v1alpha1 ─ default ─► Cluster ─ validate ─► all errors, each with its path
//! ```
//!
//! Unknown fields are refused. Defaults are kubeadm's (`kubeadm config print init-defaults`).

mod backup;
mod balancing;
mod bundles;
mod certificates;
mod change;
mod edit;
mod load;
mod metrics_server;
mod pools;
mod ssh;
mod storage;
mod syntax;
mod types;
mod validate;
mod version;

pub use backup::{Backup, BackupTarget, S3};
pub use balancing::{Balancing, LoadBalancer};
pub use bundles::{Bundles, TrustedKey};
pub use certificates::{CaKeys, Certificates};
pub use change::{differences, fixed};
pub use edit::{EditError, add_host, host_lines, remove_host, set_version};
pub use load::{LoadError, example, load, print, read, to_yaml};
pub use metrics_server::MetricsServer;
pub use pools::LoadBalancerPool;
pub use ssh::{HostSsh, Ssh};
pub use storage::{LocalPathClass, Storage};
pub use types::{
    API_VERSION, Arg, Cluster, Component, Etcd, HostSpec, KIND, KUBERNETES_VERSION, Metadata, Networking, NodeTaint,
    Role, Spec,
};
pub use validate::{FieldError, validate};
pub use version::{Minor, NoVersion, Version};
