//! Pods: one worker task each.
//!
//! ```text
//! wanted (API, files) ─┐
//! runtime's events ────┼─► worker: observe → step (pure) → actions, status (pure) → writer
//! probes, timers ──────┘
//! ```

pub mod admit;
pub mod api;
pub mod backoff;
pub mod clean;
pub mod enforce;
pub mod ephemeral;
pub mod hooks;
pub mod kill;
pub mod ledger;
pub mod manager;
pub mod memory;
pub mod mirror;
pub mod observe;
pub mod policy;
pub mod resize;
pub mod start;
pub mod static_pods;
pub mod status;
pub mod step;
pub mod worker;
pub mod writer;
