//! The scheduler.
//!
//! ```text
//! informers ─▶ Cache (nodes, their pods, assumed pods) ──snapshot──▶ schedule: plugins filter, then score ─▶ a node
//!      └─────▶ Queue (active · back-off · unschedulable) ──a pod──▶     └ nothing fits: condition, event, queue again
//!                                                                       └ assume ─▶ bind in the background
//! ```
//!
//! Plugins are functions of a pod and a snapshot; they do no IO and read no clock.

mod args;
mod cache;
mod metrics;
mod node_info;
mod plugins;
mod pod_info;
mod preempt;
mod queue;
mod resources;
mod run;
mod schedule;
mod volumes;
mod worker;

pub use args::Args;
pub use run::{main, run};
