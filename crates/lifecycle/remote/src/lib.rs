//! Bytes to a host, and a program on it to talk to.
//!
//! ```text
//! Wanted (cluster file) ─┐
//! SshConfig (~/.ssh) ────┴─ Routes ──► Target: jump hosts, host, keys, whom to believe
//! Desk ── connect(Target) ──► Transport ── exec ──► Process: stdin, stdout, the end of stderr, exit status
//!             │               (by sudo) └─ put  ──► a file, whole or not at all
//!             └ host key: the cluster file's ► known_hosts ► asked for once ► refused
//! ```

mod connect;
mod desk;
mod hostkey;
mod keyring;
mod known_hosts;
mod local;
mod login;
mod pattern;
mod process;
mod route;
mod ssh;
mod ssh_config;
mod ssh_settings;
mod sudo;
#[cfg(test)]
mod test_server;
mod upload;

pub use connect::Desk;
pub use desk::{NoPrompt, Prompt, Secret};
pub use hostkey::{HostKeyPolicy, HostKeyProblem, OnUnknown};
pub use known_hosts::{KnownHosts, Verdict};
pub use local::Local;
pub use process::{Outcome, Process};
pub use route::{Hop, Identities, Routes, Target, Wanted, local_user};
pub use ssh_config::{ConfigProblem, SshConfig};
pub use sudo::SudoProblem;

/// A way to a host.
#[async_trait::async_trait]
pub trait Transport: Send + Sync {
    /// Starts a program; `command` goes through the login shell, so it must not hold anything that a shell would
    /// expand.
    async fn exec(&self, command: &str) -> anyhow::Result<Process>;
    /// Writes a file so that it is there whole, with its mode from the first byte, or not at all. Its folder must
    /// exist.
    async fn put(&self, path: &str, bytes: &[u8], mode: u32) -> anyhow::Result<()>;
}
