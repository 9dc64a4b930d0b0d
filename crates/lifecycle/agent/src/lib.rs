//! The program on the host, and the desk's end of the conversation with it.
//!
//! ```text
//! desk                                   host
//! client ── Request ──► SSH channel ──►  serve ── observe ─► files, packages, systemd, kernel, containerd, secrets
//!        ◄─ Reply ─────────────────────        ├─ apply ──► the same, and the ledger that reset reads
//!                                             └─ journal, for people: who did what, when, and how it ended
//! ```
//!
//! kinit copies itself to the host once and starts `kinit host-agent` there. The agent holds the host's lock, does one
//! request at a time, and stops when its channel closes or its desk is silent for 25 s: a killed and restarted kinit
//! never races itself. Another kinit can break the lock: then it stops before its next step.

mod answer;
mod apply;
mod apt_locks;
mod backup;
mod blobs;
mod certificates;
mod client;
mod components;
mod diff;
mod encryption;
mod etcd;
mod evidence;
mod facts;
mod files;
mod health;
mod images;
mod journal;
mod kernel;
mod kubeconfig;
mod kubelet_certificates;
mod ledger;
mod lock;
mod logs;
mod netfilter;
mod notes;
mod observe;
mod opening;
mod packages;
mod pod_credentials;
mod pod_dns;
mod prune;
mod put_back;
mod reach;
mod release;
mod renewal;
mod renewal_state;
mod reset;
mod reset_pods;
mod residue;
mod rotation;
mod secrets;
mod serve;
mod shared;
mod signed;
mod sockets;
mod surroundings;
mod systemd;
mod wire;
mod wire_use;

pub use backup::{
    BackupRequest, Create, LastBackup, Look, Looked, MARKER, Marker, Restore, RestoreFrom, Scheduled, Target,
    look_into, run_scheduled,
};
pub use certificates::HostCertificate;
pub use client::{Agent, Busy, OnNote, OnWaiting, Pieces, Upload};
pub use etcd::EtcdRequest;
pub use journal::{History, JournalEntry, JournalEvent};
pub use logs::LogRequest;
pub use opening::{Caller, Held, Holder, LockMode, Opening};
pub use packages::PackagePlan;
pub use pod_dns::{PodDns, PodDnsRequest};
pub use reach::Reached;
pub use renewal::{Renewing, Signer, run_renewal};
pub use renewal_state::{DueRenewal, LastRenewal, RenewalState};
pub use rotation::RotationRequest;
pub use serve::serve;
pub use signed::{Signed, SignedRequest};
pub use wire::{ApplyItem, Progress};
pub use wire_use::WireUse;
