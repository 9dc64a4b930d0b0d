//! The controller manager's loops.
//!
//! ```text
//! args ─▶ run ─▶ leader election ─▶ Context ─┬─ store::<K>()    one shared informer a resource (process's identity)
//!                                            ├─ client(NAME)    a client as service account kube-system/NAME
//!                                            └─ recorder(NAME)  events
//! registry: name ─▶ one folder (or file) a controller: handlers fill a queue, workers compare and fix
//! ```
//!
//! Every controller reads from shared stores and writes through its own identity; its decisions are functions from what
//! was observed to actions, with no IO inside.

mod args;
mod autoscale;
mod bootstrap;
mod claim_protection;
mod context;
mod csr;
mod discovery;
mod disruption;
mod endpoints;
mod garbage;
mod identity;
mod namespace;
mod node;
mod object;
mod pod_gc;
mod quota;
mod registry;
mod run;
mod service_accounts;
mod ttl;
mod volume;
mod volume_protection;
mod workload;

pub use args::Args;
pub use run::{main, run};
