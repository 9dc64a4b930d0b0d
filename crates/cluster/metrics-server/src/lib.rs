//! `metrics.k8s.io/v1beta1`: what nodes and pods use now (sigs.k8s.io/metrics-server).
//!
//! ```text
//! nodes, running pods ─watch─▶ known ──────────────┐ names, labels, addresses; nothing else is kept
//! kubelets /metrics/resource ─scrape, every 15 s─▶ exposition ─▶ storage (pure)   the last two points of each
//! API server ─aggregation─▶ server ─ delegated authn, authz ─▶ api ─▶ NodeMetrics, PodMetrics, Tables, discovery
//! ```
//!
//! Nothing is written anywhere: after a restart there are metrics again after two rounds. Every instance may serve;
//! none leads.

mod api;
mod args;
mod exposition;
mod known;
mod kubelet;
mod metrics;
mod rounds;
mod run;
mod server;
mod storage;

pub use args::Args;
pub use run::{main, run};
