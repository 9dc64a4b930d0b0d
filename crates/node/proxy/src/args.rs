//! Upstream's flags of `kube-proxy`, as far as they are honoured here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ipnet::IpNet;
use kinit_component_base::flags::duration;
use kinit_component_base::logs::LoggingArgs;

/// Makes Services reachable on this node
#[derive(Parser, Debug, Clone)]
#[command(name = "kube-proxy", version = kinit_component_base::version::GIT_VERSION)]
pub struct Args {
    /// Kubeconfig with the API server's address and this component's identity
    #[arg(long, required_unless_present = "cleanup")]
    pub kubeconfig: Option<PathBuf>,
    /// This node's name [default: the host's name]
    #[arg(long)]
    pub hostname_override: Option<String>,
    /// Range of pod addresses: what comes from elsewhere to a service address is masqueraded
    #[arg(long)]
    pub cluster_cidr: Option<IpNet>,
    /// Only nftables
    #[arg(long, default_value = "nftables", value_parser = ["nftables"])]
    pub proxy_mode: String,
    /// Bit of the packet mark that means "to be masqueraded"
    #[arg(long, default_value_t = 14, value_parser = clap::value_parser!(u8).range(0..=31))]
    pub iptables_masquerade_bit: u8,
    /// Shortest time between two changes of the rules
    #[arg(long, default_value = "100ms", value_parser = duration)]
    pub iptables_min_sync_period: Duration,
    /// Address and port of /healthz
    #[arg(long, default_value = "0.0.0.0:10256")]
    pub healthz_bind_address: SocketAddr,
    /// Address and port of /metrics
    #[arg(long, default_value = "127.0.0.1:10249")]
    pub metrics_bind_address: SocketAddr,
    /// Removes this proxy's rules and exits
    #[arg(long)]
    pub cleanup: bool,
    #[command(flatten)]
    pub logging: LoggingArgs,
}

impl Args {
    /// The node's name, lower-case as node names are.
    pub fn node_name(&self) -> anyhow::Result<String> {
        let name = match &self.hostname_override {
            Some(name) => name.clone(),
            None => std::fs::read_to_string("/proc/sys/kernel/hostname")?,
        };
        Ok(name.trim().to_lowercase())
    }
}
