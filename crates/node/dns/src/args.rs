//! Flags of `kube-dns`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Parser;
use kinit_component_base::logs::LoggingArgs;

/// Answers DNS queries for Services and pods, and forwards all others
#[derive(Parser, Debug, Clone)]
#[command(name = "kube-dns", version = kinit_component_base::version::GIT_VERSION)]
pub struct Args {
    /// Kubeconfig [default: the pod's service account]
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// The cluster's domain
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Address to answer on
    #[arg(long, default_value = "0.0.0.0")]
    pub dns_bind_address: IpAddr,
    /// Port to answer on, UDP and TCP
    #[arg(long, default_value_t = 53)]
    pub dns_port: u16,
    /// File that names the resolvers for other domains
    #[arg(long, default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// Address and port of /health
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub health_bind_address: SocketAddr,
    /// Address and port of /ready
    #[arg(long, default_value = "0.0.0.0:8181")]
    pub ready_bind_address: SocketAddr,
    /// Address and port of /metrics
    #[arg(long, default_value = "0.0.0.0:9153")]
    pub metrics_bind_address: SocketAddr,
    #[command(flatten)]
    pub logging: LoggingArgs,
}
