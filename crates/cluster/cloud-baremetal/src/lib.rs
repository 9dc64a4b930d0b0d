//! The cloud controller manager where there is no cloud: addresses for Services of type LoadBalancer.
//!
//! ```text
//! --cloud-config ─▶ pools ──┐
//! Services ─▶ request ──────┼─▶ allocate (pure) ─▶ sync ─▶ status.loadBalancer, finalizer, events
//! Services ─▶ ledger ───────┘   who has what: statuses, and what was written but not seen yet
//! ```
//!
//! The Services' statuses are the only record of what is given away, so that a restart, or another leader, knows all of
//! it. Who on the network answers for an address is not this program's to say: the nodes settle it among themselves
//! (kube-netd), from the same statuses.
//!
//! Upstream's cloud controller managers label, taint and delete nodes too. Here no cloud knows better than the nodes
//! and kinit do, so that no node is ever touched.

mod allocate;
mod args;
mod controllers;
mod ledger;
mod metrics;
mod pools;
mod request;
mod run;
mod sync;

pub use args::Args;
pub use run::{main, run};
