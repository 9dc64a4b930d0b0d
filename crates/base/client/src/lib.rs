//! The one place that builds Kubernetes clients.
//!
//! ```text
//! kubeconfig ─ connect ──► kube::Client   one HTTP/2 connection, pings that find a dead server,
//!                                         client certificates read again when their files change
//! Lease      ─ leader  ──► "you lead" / "you no longer lead"
//! resources  ─ informer ─► shared, indexed stores; handlers that fill ─ queue ─► keys to work on
//! command line ─ component ► serve, be elected, run the tasks
//! secure port ─ serving ─► health for all, metrics for whom the API server allows it
//! callers     ─ delegated ─► who they are and what they may, by the API server's word
//! happenings ─ events  ──► events.k8s.io/v1, without ever holding the caller up
//! ```

pub mod component;
mod connect;
mod counted;
pub mod delegated;
pub mod events;
pub mod informer;
pub mod leader;
pub mod queue;
mod rewatch;
pub mod serving;

pub use connect::{
    TokenSource, config_from_kubeconfig, from_config, from_kubeconfig, in_cluster, tls_config, with_token,
    with_token_source,
};
pub use rewatch::Rewatch;
