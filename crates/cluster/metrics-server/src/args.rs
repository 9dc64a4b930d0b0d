//! Upstream's flags of `metrics-server`, as far as they are honoured here.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};
use kinit_component_base::ciphers::TlsArgs;
use kinit_component_base::flags::{boolean, duration, only_false};
use kinit_component_base::logs::LoggingArgs;

/// Serves what nodes and pods use
#[derive(Parser, Debug, Clone)]
#[command(name = "metrics-server", version = kinit_component_base::version::GIT_VERSION)]
pub struct Args {
    /// Kubeconfig with the API server's address and this server's identity, which kubelets are shown too
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Kubeconfig for TokenReviews about callers [default: --kubeconfig]
    #[arg(long)]
    pub authentication_kubeconfig: Option<PathBuf>,
    /// Kubeconfig for SubjectAccessReviews about callers [default: --kubeconfig]
    #[arg(long)]
    pub authorization_kubeconfig: Option<PathBuf>,
    /// Address to serve on
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port to serve on, over TLS
    #[arg(long, default_value_t = 10250)]
    pub secure_port: u16,
    /// Certificate to serve with; self-signed certificates are not made
    #[arg(long)]
    pub tls_cert_file: PathBuf,
    /// Key of --tls-cert-file
    #[arg(long)]
    pub tls_private_key_file: PathBuf,
    /// Versions and suites of TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// CA of client certificates, in the place of what the API server publishes
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// How often kubelets are asked; 10s at least
    #[arg(long, default_value = "60s", value_parser = resolution)]
    pub metric_resolution: Duration,
    /// Port of kubelets
    #[arg(long, default_value_t = 10250)]
    pub kubelet_port: u16,
    /// Takes the port from Nodes' status.daemonEndpoints, where that is set
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = boolean)]
    pub kubelet_use_node_status_port: bool,
    /// Which of a node's addresses is called, the best type first
    #[arg(long, value_delimiter = ',', default_value = "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP")]
    pub kubelet_preferred_address_types: Vec<String>,
    /// CA of kubelets' serving certificates [default: the kubeconfig's]
    #[arg(long)]
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// How long a kubelet may take
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub kubelet_request_timeout: Duration,
    /// Does not verify kubelets; not available
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = only_false)]
    pub kubelet_insecure_tls: bool,
    /// Nodes that are asked
    #[arg(long, default_value = "")]
    pub node_selector: String,
    /// What is logged.
    #[command(flatten)]
    pub logging: LoggingArgs,
}

/// Below ten seconds kubelets have nothing new to say (`options.validate`).
fn resolution(text: &str) -> Result<Duration, String> {
    let resolution = duration(text)?;
    match resolution < Duration::from_secs(10) {
        true => Err(format!("{text:?} is less than 10s")),
        false => Ok(resolution),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted() {
        let always = ["x", "--kubeconfig=/k", "--tls-cert-file=/c", "--tls-private-key-file=/p"];
        for (flags, good) in [
            (&[][..], true),
            (&["--metric-resolution=15s", "--kubelet-use-node-status-port", "--secure-port=10260"], true),
            (&["--kubelet-preferred-address-types=InternalIP", "--kubelet-insecure-tls=false"], true),
            (&["--metric-resolution=9s"], false),
            (&["--kubelet-insecure-tls"], false),
        ] {
            assert_eq!(Args::try_parse_from(always.iter().chain(flags)).is_ok(), good, "{flags:?}");
        }
        assert!(Args::try_parse_from(["x", "--kubeconfig=/k"]).is_err(), "a certificate is needed");
    }
}
