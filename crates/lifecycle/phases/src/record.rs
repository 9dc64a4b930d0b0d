//! The cluster file as it was last applied: a ConfigMap that tells the next run who belongs to the cluster.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::ConfigMap;
use kinit_config::Cluster;
use kube::{Api, Client};

/// The cluster file of the last run that finished; `None` before the first.
pub async fn read(client: &Client) -> Result<Option<Cluster>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let object = api.get_opt("kinit-config").await.context("read ConfigMap kube-system/kinit-config")?;
    let Some(text) = object.and_then(|o| o.data?.remove("Cluster")) else { return Ok(None) };
    kinit_config::load(&text).map(Some).context("read the cluster file in ConfigMap kube-system/kinit-config")
}
