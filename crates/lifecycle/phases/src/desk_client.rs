//! The API as the holder of a kubeconfig on the desk: verbs that need no host.

use anyhow::{Context, Result};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

/// A client of the kubeconfig's context for this cluster: what `init` wrote, or the current one.
pub async fn client(kubeconfig: &str) -> Result<Client> {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).context("parse the kubeconfig")?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    kinit_client::from_config(config.context("use the kubeconfig")?)
}
