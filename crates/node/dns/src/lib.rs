//! Cluster DNS.
//!
//! ```text
//! query ─▶ server ─┬─ ours (cluster.local, addresses of Services and pods) ─▶ zone: an answer from the shared stores
//!                  └─ everything else ─▶ router ─┬─ hosts
//!                       settings: ConfigMap      ├─ forward: the servers of a stub domain, with a cache
//!                       kube-system/kube-dns     └─ forward: upstreamNameservers, or those of /etc/resolv.conf
//! ```
//!
//! What is answered follows the specification "Kubernetes DNS-Based Service Discovery" 1.1.0 and, where that is silent,
//! CoreDNS' kubernetes plugin with `pods insecure` and `ttl 30`.

mod args;
mod data;
mod forward;
mod metrics;
mod router;
mod run;
mod server;
mod settings;
mod zone;

pub use run::main;
