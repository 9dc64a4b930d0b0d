//! Upstream's flags of `kube-scheduler`, as far as they are honoured here.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgAction, Parser};
use kinit_client::leader::ElectionArgs;
use kinit_component_base::flags::only_false;
use kinit_component_base::logs::LoggingArgs;

/// Decides on which node each pod runs
#[derive(Parser, Debug, Clone)]
#[command(name = "kube-scheduler", version = kinit_component_base::version::GIT_VERSION)]
pub struct Args {
    /// Kubeconfig with the API server's address and this component's identity
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Kubeconfig for TokenReviews about callers of the secure port [default: --kubeconfig]
    #[arg(long)]
    pub authentication_kubeconfig: Option<PathBuf>,
    /// Kubeconfig for SubjectAccessReviews about callers of the secure port [default: --kubeconfig]
    #[arg(long)]
    pub authorization_kubeconfig: Option<PathBuf>,
    /// Address of the secure port
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port for health checks and metrics over TLS
    #[arg(long, default_value_t = 10259)]
    pub secure_port: u16,
    /// Certificate of the secure port; self-signed in memory when absent
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Key of --tls-cert-file
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// CA of client certificates on the secure port
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// CA of front proxies whose X-Remote-* headers are believed
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    #[command(flatten)]
    pub election: ElectionArgs,
    /// Serves profiles; not available
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = only_false)]
    pub profiling: bool,
    #[command(flatten)]
    pub logging: LoggingArgs,
}
