//! The command line: upstream's flag names (`cmd/kube-apiserver/app/options`). What is not here is refused.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{ArgAction, Parser};
use ipnet::IpNet;
use kinit_component_base::ciphers::TlsArgs;
use kinit_component_base::compatibility::CompatibilityArgs;
use kinit_component_base::flags;
use kinit_component_base::logs::LoggingArgs;

/// Flags of kube-apiserver.
#[derive(Parser, Debug, Clone)]
#[command(name = "kube-apiserver", about = "Serves the Kubernetes API", version = kinit_component_base::version::GIT_VERSION)]
pub struct Options {
    /// What is logged.
    #[command(flatten)]
    pub logging: LoggingArgs,
    /// The minor version that is served.
    #[command(flatten)]
    pub compatibility: CompatibilityArgs,
    /// Address that other members of the cluster reach this server at
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port to listen on
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// etcd's client URLs, comma-separated
    #[arg(long, value_delimiter = ',', required = true)]
    pub etcd_servers: Vec<String>,
    /// CA of etcd's certificates
    #[arg(long)]
    pub etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd
    #[arg(long)]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate for etcd
    #[arg(long)]
    pub etcd_keyfile: Option<PathBuf>,
    /// CA of clients' certificates
    #[arg(long)]
    pub client_ca_file: PathBuf,
    /// Serving certificate
    #[arg(long)]
    pub tls_cert_file: PathBuf,
    /// Key of the serving certificate
    #[arg(long)]
    pub tls_private_key_file: PathBuf,
    /// Client certificate for kubelets
    #[arg(long)]
    pub kubelet_client_certificate: Option<PathBuf>,
    /// Key of the client certificate for kubelets
    #[arg(long)]
    pub kubelet_client_key: Option<PathBuf>,
    /// Versions and suites of TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// CA of kubelets' serving certificates
    #[arg(long)]
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// Which of a node's addresses to reach its kubelet at, in this order
    #[arg(long, value_delimiter = ',', default_value = "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP")]
    pub kubelet_preferred_address_types: Vec<String>,
    /// Issuer of service account tokens; the first issues, all are accepted
    #[arg(long, required = true)]
    pub service_account_issuer: Vec<String>,
    /// Keys that service account tokens are checked with (PEM, public or private)
    #[arg(long, required = true)]
    pub service_account_key_file: Vec<PathBuf>,
    /// Key that service account tokens are signed with
    #[arg(long, required = true)]
    pub service_account_signing_key_file: PathBuf,
    /// Audiences of the API; the issuer when not given
    #[arg(long, value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// Longest life of an issued token, as 1h or 8760h
    #[arg(long, default_value = "0s", value_parser = flags::duration)]
    pub service_account_max_token_expiration: Duration,
    /// Give tokens of pods an hour of grace beyond what they ask for, up to a year
    #[arg(long, action = ArgAction::Set, default_value_t = true, num_args = 0..=1, default_missing_value = "true")]
    pub service_account_extend_token_expiration: bool,
    /// Addresses of services (one IPv4 or IPv6 range, or one of each)
    #[arg(long, value_delimiter = ',', default_value = "10.0.0.0/24")]
    pub service_cluster_ip_range: Vec<IpNet>,
    /// Ports of services of type NodePort
    #[arg(long, default_value = "30000-32767", value_parser = port_range)]
    pub service_node_port_range: (u16, u16),
    /// Authorizers, in this order: Node, RBAC
    #[arg(long, value_delimiter = ',', default_value = "Node,RBAC")]
    pub authorization_mode: Vec<String>,
    /// Admission plugins to turn on beyond the default ones
    #[arg(long, value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Default admission plugins to leave out
    #[arg(long, value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// Accept bootstrap tokens of kube-system
    #[arg(long, action = ArgAction::Set, default_value_t = false, num_args = 0..=1, default_missing_value = "true")]
    pub enable_bootstrap_token_auth: bool,
    /// Static tokens: lines of token,user,uid,"group1,group2"
    #[arg(long)]
    pub token_auth_file: Option<PathBuf>,
    /// Allow privileged containers
    #[arg(long, action = ArgAction::Set, default_value_t = false, num_args = 0..=1, default_missing_value = "true")]
    pub allow_privileged: bool,
    /// EncryptionConfiguration for what is stored
    #[arg(long)]
    pub encryption_provider_config: Option<PathBuf>,
    /// AuthenticationConfiguration: where anonymous requests are let through
    #[arg(long)]
    pub authentication_config: Option<PathBuf>,
    /// Let anonymous requests through to authorization (conflicts with --authentication-config)
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub anonymous_auth: Option<bool>,
    /// Audit policy; without it nothing is audited
    #[arg(long)]
    pub audit_policy_file: Option<PathBuf>,
    /// Audit log, - for standard output
    #[arg(long)]
    pub audit_log_path: Option<PathBuf>,
    /// How the audit log is written: blocking (answers wait for their event), blocking-strict (and what cannot be
    /// logged is refused)
    #[arg(long, default_value = "blocking")]
    pub audit_log_mode: String,
    /// Days to keep rotated audit logs, 0 for ever
    #[arg(long, default_value_t = 0)]
    pub audit_log_maxage: u32,
    /// Rotated audit logs to keep, 0 for all
    #[arg(long, default_value_t = 0)]
    pub audit_log_maxbackup: u32,
    /// Megabytes before the audit log is rotated, 0 for never
    #[arg(long, default_value_t = 0)]
    pub audit_log_maxsize: u64,
    /// Profiling endpoints; there are none, so only false is taken
    #[arg(long, action = ArgAction::Set, default_value_t = false, num_args = 0..=1, default_missing_value = "true")]
    pub profiling: bool,
    /// CA of front proxies' certificates
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names front proxies may have; any when empty
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    /// Prefixes of headers with extra facts of a user
    #[arg(long, value_delimiter = ',')]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// Headers with a user's groups
    #[arg(long, value_delimiter = ',')]
    pub requestheader_group_headers: Vec<String>,
    /// Headers with a user's name
    #[arg(long, value_delimiter = ',')]
    pub requestheader_username_headers: Vec<String>,
    /// Headers with a user's UID
    #[arg(long, value_delimiter = ',')]
    pub requestheader_uid_headers: Vec<String>,
    /// Client certificate that proves to extension API servers who passes requests on
    #[arg(long)]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Key of --proxy-client-cert-file
    #[arg(long)]
    pub proxy_client_key_file: Option<PathBuf>,
    /// Call the endpoints of extension API servers' Services, not their cluster IPs
    #[arg(long, action = ArgAction::Set, default_value_t = false, num_args = 0..=1, default_missing_value = "true")]
    pub enable_aggregator_routing: bool,
    /// Longest time of a request that is not long-running, as 1m0s; its body is part of it
    #[arg(long, default_value = "1m0s", value_parser = flags::duration)]
    pub request_timeout: Duration,
    /// Shortest time, in seconds, after which a watch without timeoutSeconds is ended
    #[arg(long, default_value_t = 1800)]
    pub min_request_timeout: u64,
    /// Queue requests by the FlowSchemas and PriorityLevelConfigurations of the cluster
    #[arg(long, action = ArgAction::Set, default_value_t = true, num_args = 0..=1, default_missing_value = "true")]
    pub enable_priority_and_fairness: bool,
    /// Reading requests at the same time; with priority and fairness its sum with the writing ones counts
    #[arg(long, default_value_t = 400)]
    pub max_requests_inflight: usize,
    /// Writing requests at the same time
    #[arg(long, default_value_t = 200)]
    pub max_mutating_requests_inflight: usize,
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let (low, high) = text.split_once('-').ok_or("want LOW-HIGH")?;
    let (low, high): (u16, u16) =
        (low.parse().map_err(|_| "LOW is no port")?, high.parse().map_err(|_| "HIGH is no port")?);
    if low == 0 || low > high { Err("want 0 < LOW <= HIGH".into()) } else { Ok((low, high)) }
}

/// Admission plugins of this server. Those of [`ON_REQUEST`] are on when `--enable-admission-plugins` names them; the
/// others are on unless `--disable-admission-plugins` does.
pub const PLUGINS: &[&str] = &[
    "NamespaceLifecycle",
    "LimitRanger",
    "ServiceAccount",
    "PodSecurity",
    "TaintNodesByCondition",
    "Priority",
    "DefaultTolerationSeconds",
    "DefaultStorageClass",
    "StorageObjectInUseProtection",
    "PersistentVolumeClaimResize",
    "CertificateApproval",
    "CertificateSigning",
    "CertificateSubjectRestriction",
    "DefaultIngressClass",
    "RuntimeClass",
    "NodeRestriction",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionWebhook",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
    "ResourceQuota",
    "AlwaysPullImages",
    "DenyServiceExternalIPs",
];

/// What is off unless it is asked for.
const ON_REQUEST: &[&str] = &["NodeRestriction", "AlwaysPullImages", "DenyServiceExternalIPs"];

impl Options {
    /// Checks what clap cannot.
    pub fn validate(&self) -> Result<()> {
        for mode in &self.authorization_mode {
            if !matches!(mode.as_str(), "Node" | "RBAC") {
                bail!("--authorization-mode: {mode} is not supported; Node and RBAC are");
            }
        }
        if self.authorization_mode.is_empty() {
            bail!("--authorization-mode names no authorizer");
        }
        for plugin in self.enable_admission_plugins.iter().chain(&self.disable_admission_plugins) {
            if !PLUGINS.contains(&plugin.as_str()) {
                bail!("admission plugin {plugin} is not supported; supported are {}", PLUGINS.join(", "));
            }
        }
        if self.profiling {
            bail!("--profiling=true is not supported: there are no profiling endpoints");
        }
        if self.authentication_config.is_some() && self.anonymous_auth.is_some() {
            bail!("--anonymous-auth and --authentication-config exclude each other");
        }
        if self.kubelet_client_certificate.is_some() != self.kubelet_client_key.is_some() {
            bail!("--kubelet-client-certificate and --kubelet-client-key go together");
        }
        if self.proxy_client_cert_file.is_some() != self.proxy_client_key_file.is_some() {
            bail!("--proxy-client-cert-file and --proxy-client-key-file go together");
        }
        if self.service_cluster_ip_range.is_empty() || self.service_cluster_ip_range.len() > 2 {
            bail!("--service-cluster-ip-range takes one range, or one IPv4 and one IPv6 range");
        }
        if let [a, b] = self.service_cluster_ip_range.as_slice()
            && a.addr().is_ipv4() == b.addr().is_ipv4()
        {
            bail!("--service-cluster-ip-range: two ranges must be of different families");
        }
        self.tls.server()?;
        if self.request_timeout.is_zero() {
            bail!("--request-timeout must be more than zero");
        }
        if !matches!(self.audit_log_mode.as_str(), "blocking" | "blocking-strict") {
            bail!("--audit-log-mode={} is not supported; blocking and blocking-strict are", self.audit_log_mode);
        }
        if self.audit_log_path.is_some() && self.audit_policy_file.is_none() {
            bail!("--audit-log-path needs --audit-policy-file");
        }
        Ok(())
    }

    /// Whether an authorizer is on.
    pub fn has_mode(&self, mode: &str) -> bool {
        self.authorization_mode.iter().any(|m| m == mode)
    }

    /// Whether an admission plugin is on.
    pub fn has_plugin(&self, plugin: &str) -> bool {
        if self.disable_admission_plugins.iter().any(|p| p == plugin) {
            return false;
        }
        !ON_REQUEST.contains(&plugin) || self.enable_admission_plugins.iter().any(|p| p == plugin)
    }

    /// The issuer that signs.
    pub fn issuer(&self) -> &str {
        self.service_account_issuer.first().map_or("", String::as_str)
    }

    /// Audiences that tokens for this API are for.
    pub fn api_audiences(&self) -> Vec<String> {
        if self.api_audiences.is_empty() { self.service_account_issuer.clone() } else { self.api_audiences.clone() }
    }

    /// The address others reach this server at.
    pub fn advertised(&self) -> IpAddr {
        match self.advertise_address {
            Some(address) => address,
            None if self.bind_address.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
            None => self.bind_address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(flags: &[&str]) -> Options {
        let needed = [
            "kube-apiserver",
            "--etcd-servers=https://127.0.0.1:2379",
            "--client-ca-file=/ca",
            "--tls-cert-file=/crt",
            "--tls-private-key-file=/key",
            "--service-account-issuer=https://issuer",
            "--service-account-key-file=/sa",
            "--service-account-signing-key-file=/sa",
        ];
        Options::try_parse_from(needed.iter().chain(flags)).unwrap()
    }

    #[test]
    fn what_is_not_honoured_is_refused() {
        for (flags, mistake) in [
            (&[][..], ""),
            (&["--disable-admission-plugins=CertificateSigning"], ""),
            (&["--disable-admission-plugins=Other"], "admission plugin Other is not supported"),
            (&["--proxy-client-cert-file=/c", "--proxy-client-key-file=/k"], ""),
            (&["--proxy-client-key-file=/k"], "--proxy-client-cert-file"),
            (&["--profiling=true"], "--profiling=true"),
            (&["--audit-log-mode=batch"], "--audit-log-mode=batch"),
        ] {
            let reported = options(flags).validate().err().map_or_else(String::new, |e| e.to_string());
            assert_eq!(reported.is_empty(), mistake.is_empty(), "{flags:?}: {reported}");
            assert!(reported.starts_with(mistake), "{flags:?}: {reported}");
        }
    }

    #[test]
    fn plugins_are_on_unless_left_out() {
        let options = options(&["--disable-admission-plugins=CertificateApproval"]);
        let on: Vec<&str> = PLUGINS.iter().copied().filter(|p| options.has_plugin(p)).collect();
        let off: Vec<&str> = PLUGINS.iter().copied().filter(|p| !on.contains(p)).collect();
        assert_eq!(off, ["CertificateApproval", "NodeRestriction", "AlwaysPullImages", "DenyServiceExternalIPs"]);
    }
}
