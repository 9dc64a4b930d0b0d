//! What each step of a plan does, cluster-wide, and the four moves of every verb: observe, plan, execute, verify.
//!
//! ```text
//! Request ─► Run: Hosts (an agent each), what is wanted ─► preflight, Situation, plan
//!              └─► execute: workflow engine ─► Steps: agents, certificates, etcd's members, API objects
//! ```

mod access;
mod api;
mod bundle;
mod drain;
mod etcd;
mod execute;
mod history;
mod hosts;
mod nodes;
mod objects;
mod operation;
mod record;
mod request;
mod reset;
mod route;
mod status;
mod wait;

pub use api::{kubeconfig_authority, kubeconfig_is_of_one_cluster};
pub use bundle::LocalBundle;
pub use drain::DrainOptions;
pub use etcd::{EtcdOverview, defragment, disarm, repair_space, snapshot};
pub use history::{HostRun, history};
pub use hosts::{ConnectOptions, Hosts, Unreachable};
pub use operation::{DrainBlocked, Run};
pub use request::{Impossible, Request};
pub use reset::{ResetReport, Strangers, reset, reset_plan};
pub use status::{Expiry, HostStatus, MemberStatus, NodeStatus, Status, status};

/// Hosts worked on at once.
pub const PARALLELISM: usize = 16;
