//! The kubelet: runs the pods of one node through a CRI runtime and tells the API how they are.
//!
//! ```text
//!            static pods ─┐                     ┌─ volumes   directories, tmpfs, atomic files
//! API: pods of this node ─┼─► pod::manager      ├─ make      spec → CRI messages
//!      ConfigMaps, Secrets│      └ worker × n ──┼─ image     policy, credentials, pulls
//!      Services ──────────┘        │  step()    ├─ probe     startup, liveness, readiness
//!                                  │  status()  └─ cgroup    kubepods/class/pod
//!             CRI events ──────────┘     │
//!                                        ▼
//!                                   pod::writer ──► API: statuses
//! node: registration, status, lease ────────────────► API
//! server: logs, exec, port-forward, stats ◄───────── API server
//! ```
//!
//! Restarting this process touches no container: everything it must know is in the runtime's labels and annotations.

mod args;
mod certs;
mod cgroup;
mod config;
mod dns;
mod downward;
mod drift;
mod events;
mod evict;
mod expand;
mod hosts;
mod image;
mod image_gc;
mod inotify;
mod kubelet;
mod listen;
mod make;
mod metrics;
mod names;
mod node;
mod objects;
mod pace;
mod pod;
mod probe;
mod process;
mod quantity;
mod references;
mod resources;
mod rotate_logs;
mod run;
mod server;
mod volumes;

use std::ffi::OsString;
use std::process::ExitCode;

pub use args::Args;
pub use run::run;

/// The program.
pub fn main(args: Vec<OsString>) -> ExitCode {
    kinit_component_base::main("kubelet", args, |args: &args::Args| &args.logging, run::run)
}
