//! Hollow nodes: Ready, with leases that are renewed, and nothing behind them.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::task::AbortHandle;

use super::setup::PATIENCE;

/// As often as a kubelet renews its lease.
const RENEW: Duration = Duration::from_secs(10);
const LEASES: &str = "kube-node-lease";

/// Nodes whose leases are renewed until this value ends.
pub struct Nodes(AbortHandle);

impl Drop for Nodes {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Nodes {
    /// Makes `count` nodes with room for `pods` each, and waits until pods can be put on them.
    pub async fn start(client: &Client, count: u32, pods: u32) -> Result<Self> {
        let names: Vec<String> = (0..count).map(|i| format!("hollow-{i:03}")).collect();
        try_join_all(names.iter().map(|name| make(client, name, pods))).await?;
        try_join_all(names.iter().map(|name| renew(client, name))).await?;
        let nodes: Api<Node> = Api::all(client.clone());
        let free = async {
            loop {
                let seen = nodes.list(&Default::default()).await.context("list nodes")?;
                let tainted =
                    |node: &Node| node.spec.as_ref().is_some_and(|s| s.taints.iter().flatten().next().is_some());
                if !seen.items.iter().any(tainted) {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(PATIENCE, free).await.context("the nodes keep their taint not-ready")??;
        let client = client.clone();
        let renewing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(RENEW).await;
                for name in &names {
                    if let Err(error) = renew(&client, name).await {
                        eprintln!("the lease of {name} is not renewed: {error:#}");
                    }
                }
            }
        });
        Ok(Self(renewing.abort_handle()))
    }
}

async fn make(client: &Client, name: &str, pods: u32) -> Result<()> {
    let now = jiff::Timestamp::now().to_string();
    let room = json!({"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": pods.to_string()});
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
        "status": {"capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True",
            "reason": "KubeletReady", "message": "hollow", "lastHeartbeatTime": now, "lastTransitionTime": now}]},
    }))?;
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.create(&PostParams::default(), &node).await.with_context(|| format!("create the node {name}"))?;
    let status = Patch::Merge(json!({"status": node.status}));
    let node = nodes.patch_status(name, &PatchParams::default(), &status).await;
    node.with_context(|| format!("the status of the node {}", name)).map(drop)
}

async fn renew(client: &Client, name: &str) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let spec = json!({"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": format!("{:.6}", jiff::Timestamp::now())});
    let lease: Lease = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
    match leases.get_opt(name).await? {
        Some(_) => leases.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await,
        None => leases.create(&PostParams::default(), &lease).await,
    }
    .with_context(|| format!("the lease {}", lease.name_any()))
    .map(drop)
}
