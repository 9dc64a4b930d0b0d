//! Upstream's flags of `kube-controller-manager`, as far as they are honoured here.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};
use ipnet::IpNet;
use kinit_client::component::ComponentArgs;
use kinit_component_base::flags::{boolean, duration};

/// Runs the control loops of a Kubernetes cluster
#[derive(Parser, Debug, Clone)]
#[command(name = "kube-controller-manager", version = kinit_component_base::version::GIT_VERSION)]
pub struct Args {
    /// Flags that components which lead by election share.
    #[command(flatten)]
    pub component: ComponentArgs,
    /// Port for health checks and metrics over TLS
    #[arg(long, default_value_t = 10257)]
    pub secure_port: u16,
    /// Controllers to run: '*' for those on by default, 'foo' to add, '-foo' to leave out
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    pub controllers: Vec<String>,
    /// Gives each controller a service account of its own
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = boolean)]
    pub use_service_account_credentials: bool,
    /// CA certificate that pods get to verify the API server with
    #[arg(long)]
    pub root_ca_file: Option<PathBuf>,
    /// CA certificate that signs certificate signing requests
    #[arg(long, requires = "cluster_signing_key_file")]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// Key of --cluster-signing-cert-file
    #[arg(long, requires = "cluster_signing_cert_file")]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// Longest life of a signed certificate
    #[arg(long, default_value = "8760h", value_parser = duration)]
    pub cluster_signing_duration: Duration,
    /// Key that signs tokens of kubernetes.io/service-account-token Secrets
    #[arg(long)]
    pub service_account_private_key_file: Option<PathBuf>,
    /// Gives each node a pod CIDR out of --cluster-cidr
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = boolean)]
    pub allocate_node_cidrs: bool,
    /// Range of pod addresses
    #[arg(long)]
    pub cluster_cidr: Option<IpNet>,
    /// Prefix length of a node's pod CIDR
    #[arg(long, default_value_t = 24)]
    pub node_cidr_mask_size: u8,
    /// Range of service addresses; never given to nodes
    #[arg(long)]
    pub service_cluster_ip_range: Option<IpNet>,
    /// The cluster's name; no controller here depends on it (upstream's cloud loops did)
    #[arg(long, default_value = "kubernetes")]
    pub cluster_name: String,
    /// How many terminated pods may stay; 0 turns their collection off
    #[arg(long, default_value_t = 12500)]
    pub terminated_pod_gc_threshold: usize,
    /// How often nodes are looked at
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub node_monitor_period: Duration,
    /// How long a node may be silent before it counts as lost
    #[arg(long, default_value = "50s", value_parser = duration)]
    pub node_monitor_grace_period: Duration,
    /// How pods are autoscaled.
    #[command(flatten)]
    pub autoscaler: AutoscalerArgs,
}

/// Flags of the horizontal pod autoscaler (`podautoscalerconfig`).
#[derive(clap::Args, Debug, Clone)]
pub struct AutoscalerArgs {
    /// How often each HorizontalPodAutoscaler is looked at
    #[arg(long, default_value = "15s", value_parser = duration)]
    pub horizontal_pod_autoscaler_sync_period: Duration,
    /// For how long the highest recommendation counts before pods are taken away
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub horizontal_pod_autoscaler_downscale_stabilization: Duration,
    /// How far a metric may be from its target without a change: 0.1 is ten percent
    #[arg(long, default_value_t = 0.1, value_parser = tolerance)]
    pub horizontal_pod_autoscaler_tolerance: f64,
    /// How long after its start a pod's CPU counts only while it is ready
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub horizontal_pod_autoscaler_cpu_initialization_period: Duration,
    /// How long after its start a change to unready counts as never having been ready
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub horizontal_pod_autoscaler_initial_readiness_delay: Duration,
    /// HorizontalPodAutoscalers that are looked at at the same time
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrent_horizontal_pod_autoscaler_syncs: u16,
}

impl AutoscalerArgs {
    /// How many are looked at at the same time.
    pub fn workers(&self) -> usize {
        usize::from(self.concurrent_horizontal_pod_autoscaler_syncs)
    }
}

fn tolerance(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if value.is_finite() && value >= 0.0 { Ok(value) } else { Err(format!("{text:?} is below zero or no number")) }
}

impl Args {
    /// Checks what one flag's parser cannot see.
    pub fn validate(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            !self.autoscaler.horizontal_pod_autoscaler_sync_period.is_zero(),
            "--horizontal-pod-autoscaler-sync-period must be longer than 0s"
        );
        if self.allocate_node_cidrs {
            let cidr =
                self.cluster_cidr.ok_or_else(|| anyhow::anyhow!("--allocate-node-cidrs needs --cluster-cidr"))?;
            anyhow::ensure!(
                self.node_cidr_mask_size >= cidr.prefix_len() && self.node_cidr_mask_size <= cidr.max_prefix_len(),
                "--node-cidr-mask-size {} does not fit into --cluster-cidr {cidr}",
                self.node_cidr_mask_size
            );
            anyhow::ensure!(
                self.node_cidr_mask_size - cidr.prefix_len() <= 16,
                "--cluster-cidr {cidr} holds more than 65536 blocks of /{}",
                self.node_cidr_mask_size
            );
        }
        Ok(())
    }
}
