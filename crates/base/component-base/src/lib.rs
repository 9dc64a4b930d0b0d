//! Process plumbing that every component shares, and nothing else.
//!
//! ```text
//! main ─ runtime::main ─┬─ logs      tracing to stderr, verbosity as upstream's -v
//!                       ├─ Shutdown  SIGTERM/SIGINT → one token everybody watches
//!                       └─ your async fn
//!                            ├─ supervise  tasks that must not end unseen: a panic ends the process, or is told
//!                            ├─ tls    certificates that reload when their files change
//!                            ├─ unverified  TLS to pods' own servers, the one place without verification
//!                            ├─ serve  HTTP/1.1 + HTTP/2 over TLS (or plain, loopback), with peers' certificates
//!                            ├─ health /healthz /livez /readyz with upstream's verbose form
//!                            └─ metrics /metrics
//! ```

pub mod ciphers;
pub mod compatibility;
pub mod flags;
pub mod health;
pub mod logs;
pub mod metrics;
pub mod runtime;
pub mod serve;
pub mod supervise;
pub mod tls;
pub mod unverified;
pub mod version;

pub use runtime::{Shutdown, main, run};
