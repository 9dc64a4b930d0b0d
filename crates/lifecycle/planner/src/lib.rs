//! From what is wanted and what was seen to a plan. Pure: the same input gives the same plan, and printing it shows
//! everything that will be done.
//!
//! ```text
//! Observation per host ─┐
//! ObjectState per object ┼─► init ─► Plan: stages of steps, without secrets ─► text
//! Cluster ──────────────┘
//! ```

mod identity;
mod init;
mod plan;
mod preflight;
mod surroundings;

pub use identity::{Stranger, authority, strangers};
pub use init::{HostObservation, ObjectState, PlanError, init};
pub use plan::{Action, Plan, PlanStage, Step};
pub use preflight::{Finding, preflight};
