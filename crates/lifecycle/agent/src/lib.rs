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
mod blobs;
mod client;
mod etcd;
mod facts;
mod files;
mod health;
mod images;
mod journal;
mod kernel;
mod kubeconfig;
mod ledger;
mod lock;
mod netfilter;
mod notes;
mod observe;
mod opening;
mod packages;
mod prune;
mod release;
mod reset;
mod reset_pods;
mod residue;
mod secrets;
mod serve;
mod shared;
mod surroundings;
mod systemd;
mod wire;

pub use client::{Agent, Busy, OnNote, OnWaiting, Upload};
pub use etcd::EtcdRequest;
pub use journal::{History, JournalEntry, JournalEvent};
pub use opening::{Caller, Held, Holder, LockMode, Opening};
pub use serve::serve;
pub use wire::{ApplyItem, Progress};
