//! Cluster DNS.
//!
//! ```text
//! query ─▶ server ─┬─ ours (cluster.local, addresses of Services and pods) ─▶ zone: an answer from the shared stores
//!                  └─ everything else ─▶ forward: the resolvers of /etc/resolv.conf, with a cache
//! ```
//!
//! What is answered follows the specification "Kubernetes DNS-Based Service Discovery" 1.1.0 and, where that is silent,
//! CoreDNS' kubernetes plugin with `pods insecure` and `ttl 30`.

mod args;
mod data;
mod forward;
mod metrics;
mod run;
mod server;
mod zone;

pub use run::main;
