//! Real servers for tests: etcd as a process, the API server in this one, a throwaway certificate tree.
//!
//! ```text
//! TestEtcd::start()       a single etcd on 127.0.0.1; an error that tells the remedy where etcd is not installed
//! TestApiServer::start()  that, plus an API server; kubeconfig files for an administrator and for any other identity
//! bench                   figures of a control plane of processes (`cargo xtask bench apiserver|pods`)
//! ```

pub mod apiserver;
pub mod bench;
mod client;
pub mod etcd;
pub mod pki;
mod ports;

pub use apiserver::{ControlPlane, Peer, TestApiServer};
pub use client::kube_client;
pub use etcd::TestEtcd;
pub use pki::TestPki;
pub use ports::free_port;
