//! Upstream's flags of `cloud-controller-manager`, as far as they are honoured here.

use std::path::PathBuf;

use clap::{ArgAction, Parser};
use kinit_client::component::ComponentArgs;
use kinit_component_base::flags::only_false;

/// Gives addresses to Services of type LoadBalancer
#[derive(Parser, Debug, Clone)]
#[command(name = "cloud-controller-manager", version = kinit_component_base::version::GIT_VERSION)]
pub struct Args {
    /// Flags that components which lead by election share.
    #[command(flatten)]
    pub component: ComponentArgs,
    /// Port for health checks and metrics over TLS
    #[arg(long, default_value_t = 10258)]
    pub secure_port: u16,
    /// The provider; there is one
    #[arg(long, default_value = "baremetal", value_parser = ["baremetal"])]
    pub cloud_provider: String,
    /// File with the pools of addresses (kind LoadBalancerPools)
    #[arg(long)]
    pub cloud_config: PathBuf,
    /// Controllers to run: '*' for all, 'foo' to add, '-foo' to leave out
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    pub controllers: Vec<String>,
    /// The cluster's name
    #[arg(long, default_value = "kubernetes")]
    pub cluster_name: String,
    /// Services that are worked on at the same time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub concurrent_service_syncs: u16,
    /// Gives nodes pod CIDRs; kube-controller-manager does
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = only_false)]
    pub allocate_node_cidrs: bool,
    /// Makes routes in the cloud; there is none
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = only_false)]
    pub configure_cloud_routes: bool,
    /// Gives each controller a service account of its own; there is one controller
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = only_false)]
    pub use_service_account_credentials: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted() {
        for (flags, good) in [
            (&["--kubeconfig=/k", "--cloud-config=/c"][..], true),
            (&["--kubeconfig=/k", "--cloud-config=/c", "--leader-elect=false", "--secure-port=1", "--v=2"], true),
            (&["--kubeconfig=/k", "--cloud-config=/c", "--cloud-provider=baremetal", "--cluster-name=x"], true),
            (&["--kubeconfig=/k"], false),
            (&["--kubeconfig=/k", "--cloud-config=/c", "--cloud-provider=aws"], false),
            (&["--kubeconfig=/k", "--cloud-config=/c", "--configure-cloud-routes=true"], false),
            (&["--kubeconfig=/k", "--cloud-config=/c", "--concurrent-service-syncs=0"], false),
        ] {
            assert_eq!(Args::try_parse_from([&["x"], flags].concat()).is_ok(), good, "{flags:?}");
        }
    }
}
