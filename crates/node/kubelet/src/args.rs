//! The command line: upstream's flags, as far as the contract with the units goes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use k8s_openapi::api::core::v1::Taint;
use kinit_component_base::logs::LoggingArgs;

/// Flags of the kubelet.
#[derive(clap::Parser, Debug, Clone)]
#[command(name = "kubelet", about = "The node agent: runs pods through a CRI runtime", version = kinit_component_base::version::GIT_VERSION)]
pub struct Args {
    /// File with a KubeletConfiguration (kubelet.config.k8s.io/v1beta1)
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Kubeconfig towards the API server; without it the kubelet runs static pods only
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Kubeconfig with a bootstrap token, used once to ask for a client certificate
    #[arg(long)]
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Name of the node; the host's name in lower case by default
    #[arg(long)]
    pub hostname_override: Option<String>,
    /// Address of the node; by default that of the interface with the default route
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// Labels of a node that registers for the first time, key=value
    #[arg(long, value_delimiter = ',')]
    pub node_labels: Vec<String>,
    /// Taints of a node that registers for the first time, key=value:Effect
    #[arg(long, value_delimiter = ',')]
    pub register_with_taints: Vec<String>,
    /// Directory of the kubelet's state
    #[arg(long, default_value = "/var/lib/kubelet")]
    pub root_dir: PathBuf,
    /// Directory of the kubelet's certificates
    #[arg(long)]
    pub cert_dir: Option<PathBuf>,
    /// What is logged
    #[command(flatten)]
    pub logging: LoggingArgs,
}

impl Args {
    /// The node's name (`k8s.io/kubernetes/pkg/util/node.GetHostname`: trimmed, lower case).
    pub fn node_name(&self) -> Result<String> {
        let name = match &self.hostname_override {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname()?.into_string().map_err(|n| anyhow!("host name {n:?} is not text"))?,
        };
        let name = name.trim().to_lowercase();
        if name.is_empty() {
            bail!("empty node name");
        }
        Ok(name)
    }

    /// `--node-labels`, checked: labels under kubernetes.io and k8s.io are limited to those a node may give itself.
    pub fn labels(&self) -> Result<BTreeMap<String, String>> {
        self.node_labels.iter().filter(|l| !l.is_empty()).map(|l| parse_label(l)).collect()
    }

    /// `--register-with-taints`.
    pub fn taints(&self) -> Result<Vec<Taint>> {
        self.register_with_taints.iter().filter(|t| !t.is_empty()).map(|t| parse_taint(t)).collect()
    }

    /// Directory of certificates.
    pub fn certificates(&self) -> PathBuf {
        self.cert_dir.clone().unwrap_or_else(|| self.root_dir.join("pki"))
    }
}

fn parse_label(text: &str) -> Result<(String, String)> {
    let Some((key, value)) = text.split_once('=') else { bail!("--node-labels: {text:?} is not key=value") };
    if !may_label(key) {
        bail!(
            "--node-labels: {key:?} is not allowed: labels under kubernetes.io and k8s.io must begin with an allowed prefix (kubelet.kubernetes.io, node.kubernetes.io) or be in the allowed set"
        );
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// `k8s.io/kubelet/pkg/apis.IsKubeletLabel`, for keys of the two reserved domains.
fn may_label(key: &str) -> bool {
    const ALLOWED: [&str; 12] = [
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "node.kubernetes.io/instance-type",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "node.kubernetes.io/exclude-from-external-load-balancers",
    ];
    let Some((namespace, _)) = key.split_once('/') else { return true };
    let within = |domain: &str| namespace == domain || namespace.ends_with(&format!(".{domain}"));
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    ALLOWED.contains(&key) || within("kubelet.kubernetes.io") || within("node.kubernetes.io")
}

fn parse_taint(text: &str) -> Result<Taint> {
    let bad = || anyhow!("--register-with-taints: {text:?} is not key=value:Effect");
    let (key, effect) = text.rsplit_once(':').ok_or_else(bad)?;
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(bad());
    }
    let (key, value) = match key.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned()).filter(|v| !v.is_empty())),
        None => (key, None),
    };
    if key.is_empty() {
        return Err(bad());
    }
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_reserved_domains_are_limited() {
        for (key, allowed) in [
            ("disk", true),
            ("example.com/rack", true),
            ("node.kubernetes.io/pool", true),
            ("kubernetes.io/hostname", true),
            ("node-role.kubernetes.io/control-plane", false),
            ("kubernetes.io/secret", false),
            ("x.k8s.io/y", false),
        ] {
            assert_eq!(may_label(key), allowed, "{key}");
        }
    }

    #[test]
    fn taints_parse() {
        let taint = parse_taint("node-role.kubernetes.io/control-plane:NoSchedule").unwrap();
        assert_eq!((taint.value, taint.effect.as_str()), (None, "NoSchedule"));
        assert_eq!(parse_taint("a=b:NoExecute").unwrap().value.as_deref(), Some("b"));
        for bad in ["a", "a:Never", ":NoSchedule"] {
            assert!(parse_taint(bad).is_err(), "{bad}");
        }
    }
}
