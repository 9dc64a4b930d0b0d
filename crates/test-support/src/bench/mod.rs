//! Figures of a control plane whose programs run as processes of their own, as they do on hosts.
//!
//! ```text
//! Setup::start ─▶ etcd ◀─ kube-apiserver ◀─┬─ kube-controller-manager, kube-scheduler   (pods)
//!      │                                   └─ this process: an administrator over HTTP/2 and TLS
//!      └─ Process   user and system time, resident memory: from /proc
//!
//! apiserver  one row per operation, beside its floor: the same bytes written to and read from etcd, without the server
//! pods       a ReplicaSet's pods created, bound and deleted: time, CPU of each process, what etcd was asked for
//! ```
//!
//! The figures inform. An operation that fails, or an answer that is not what was asked for, is an error; a slow one is
//! not.

pub mod apiserver;
mod etcd;
mod flood;
mod floor;
mod http;
mod nodes;
pub mod pods;
mod process;
mod setup;
mod table;
mod watchers;

use std::path::PathBuf;

/// What every benchmark is started with.
#[derive(clap::Args, Debug, Clone)]
pub struct Common {
    /// The multi-call program whose components are measured
    #[arg(long)]
    pub hyperkube: PathBuf,
}
