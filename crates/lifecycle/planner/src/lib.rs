//! From what is wanted and what was seen to a plan. Pure: the same input gives the same plan, and printing it shows
//! everything that will be done.
//!
//! ```text
//! Situation: hosts' observations, etcd's members, Nodes, API objects, ─┐
//!            who leaves, who cannot be reached, which hosts count      ├─► plan ─► Plan: stages of steps, no secrets
//! Cluster ─────────────────────────────────────────────────────────────┘     └─► Refused: every reason at once
//! ```

mod certs;
mod checks;
mod cis;
mod cluster;
mod desk_keys;
mod external;
mod failures;
mod identity;
mod joining;
mod lanes;
mod leaving;
mod members;
mod operation;
mod plan;
mod preflight;
mod refusal;
mod reset;
mod restore;
mod rotation;
mod situation;
mod skew;
mod surroundings;
mod upgrade;

pub use checks::{CHECKS, is_check};
pub use cis::{Assessed, PROGRAMS as CIS_PROGRAMS, Verdict, cis, cis_paths};
pub use cluster::plan;
pub use external::external_authorities;
pub use failures::{Failure, Unobserved, all_observed};
pub use identity::{Stranger, authority, strangers};
pub use joining::join_plan;
pub use operation::{Gate, Operation, PhaseInfo, Undo};
pub use plan::{Action, DESK, ObjectId, Plan, PlanStage, Step};
pub use preflight::{Finding, preflight};
pub use refusal::{PlanError, Refused};
pub use reset::reset_plan;
pub use restore::{Restoring, restore};
pub use rotation::{Next, Rotating, RotationRefused, rotation};
pub use situation::{HostObservation, Leaving, NodeState, ObjectState, Scope, Situation};
pub use skew::{Direction, Hop, HostVersion, Installed, hops, installed, skew, target};
pub use upgrade::{Upgrade, upgrade};
