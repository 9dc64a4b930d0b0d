//! What each step of a plan does, cluster-wide, and the four moves of every verb: observe, plan, execute, verify.
//!
//! ```text
//! connect ─► Hosts (an agent each) ─► prepare: facts, preflight, observation, plan
//!                                       └─► execute: workflow engine ─► Steps: agents, certificates, API objects
//! ```

mod api;
mod bundle;
mod execute;
mod hosts;
mod init;
mod objects;
mod reset;
mod route;
mod wait;

pub use api::{kubeconfig_authority, kubeconfig_is_of_one_cluster};
pub use bundle::LocalBundle;
pub use hosts::{ConnectOptions, Hosts, Unreachable};
pub use init::{Init, Prepared};
pub use reset::{ResetReport, Strangers, reset, reset_plan};

/// Hosts worked on at once.
pub const PARALLELISM: usize = 16;
