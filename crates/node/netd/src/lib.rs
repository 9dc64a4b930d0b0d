//! The pod network of a node, with the reference CNI plugins and the kernel's routing table.
//!
//! ```text
//! Node (own)    spec.podCIDR ─► cni     /etc/cni/net.d/10-kinit.conflist (ptp, host-local, portmap)
//! Nodes (other) podCIDR via InternalIP ─► plan (pure) ─► routes, marked with a protocol number of our own
//!               own pod CIDR ─► masquerade   what leaves the cluster leaves under the host's address (nftables)
//! Services (LoadBalancer) ─► announce    one node an address answers for it by ARP
//! Namespaces, Pods, NetworkPolicies ─► policy   who may talk to the pods of this node (nftables)
//! --cleanup     portmap   host ports of pods that were killed, with the plugin's chains
//! kernel        changes of routes and of our rules ─► look again
//! ```
//!
//! `ptp` gives every pod a routed /32: no bridge, and so no bridge netfilter to trip over.

mod announce;
mod cni;
mod masquerade;
mod metrics;
mod plan;
mod policy;
mod portmap;
mod routes;
mod run;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ipnet::Ipv4Net;
use kinit_component_base::logs::LoggingArgs;

/// Flags of kube-netd.
#[derive(Parser, Debug, Clone)]
#[command(name = "kube-netd", about = "The pod network of a node", version = kinit_component_base::version::GIT_VERSION)]
pub struct Args {
    /// Kubeconfig towards the API server
    #[arg(long, required_unless_present = "cleanup")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of this node
    #[arg(long, required_unless_present = "cleanup")]
    pub node_name: Option<String>,
    /// Addresses of all pods of the cluster
    #[arg(long, required_unless_present = "cleanup")]
    pub cluster_cidr: Option<Ipv4Net>,
    /// Directory of CNI configurations
    #[arg(long, default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Where /healthz and /metrics are served
    #[arg(long, default_value = "127.0.0.1:10247")]
    pub healthz_bind_address: SocketAddr,
    /// Remove the routes, the rules (those of its pods' host ports too) and the CNI configuration this program made,
    /// then end
    #[arg(long)]
    pub cleanup: bool,
    /// What is logged.
    #[command(flatten)]
    pub logging: LoggingArgs,
}

/// The program.
pub fn main(args: Vec<OsString>) -> ExitCode {
    kinit_component_base::main("kube-netd", args, |args: &Args| &args.logging, run::run)
}
