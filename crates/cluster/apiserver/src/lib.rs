//! The API server.
//!
//! ```text
//! chain ── authn ─ audit ─ impersonation ─ limits ─ authz ──┬─ paths     health, version, discovery, OpenAPI, OpenID
//!                                                           ├─ node      logs, exec, port-forward, proxies
//!                                                           ├─ aggregation  group versions of extension API servers
//!                                                           └─ dispatch ── registry ── admission ── strategy ── store
//! resources   one descriptor per resource: what is served is data, no handler per kind
//! definitions custom resources: descriptors that come and go
//! bootstrap   namespaces, default roles, the kubernetes Service and its endpoints
//! services    cluster IPs and node ports     tables   what kubectl get prints
//! ```

pub mod admission;
pub mod aggregation;
pub mod audit;
pub mod authn;
pub mod authz;
mod bodies;
pub mod bootstrap;
mod chain;
mod component_status;
pub mod definitions;
pub mod discovery;
mod dispatch;
pub mod encryption;
pub mod flow;
pub mod http;
mod inflight;
mod limits;
pub mod metrics;
pub mod node;
pub mod openapi;
mod openid;
pub mod options;
mod paths;
mod pods;
pub mod references;
pub mod registry;
pub mod resources;
pub mod server;
pub mod services;
pub mod strategy;
pub mod tables;
mod tokens;
pub mod trust;

use std::ffi::OsString;
use std::process::ExitCode;

use kinit_component_base::Shutdown;

pub use options::Options;
pub use server::Server;

/// The program.
pub fn main(args: Vec<OsString>) -> ExitCode {
    kinit_component_base::main("kube-apiserver", args, |options: &Options| &options.logging, serve)
}

async fn serve(options: Options, shutdown: Shutdown) -> anyhow::Result<()> {
    Server::build(options, shutdown).await?.run().await
}
