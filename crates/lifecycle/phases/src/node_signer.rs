//! The cluster signs what a node's own programs need, asked through the API with the node's identity.
//!
//! ```text
//! kubelet.conf ─► CertificateSigningRequest (kubernetes.io/kube-apiserver-client)
//!              ─► approved by the controller manager, which asks whether nodes may create
//!                 certificatesigningrequests/nodecomponentclient, and signed
//! ```
//!
//! A node gets nothing by it that it does not have: the service proxy and the pod network of every node have the same
//! names towards the API, and the approver knows no others.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use kinit_agent::Signer;
use kinit_pki::Leaf;
use kinit_resource::{LeafName, LeafSpec};

use crate::user;

const KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";
/// The controller manager approves and signs within a moment; one that takes over from another, within half a minute.
const PATIENCE: Duration = Duration::from_secs(90);

/// Asks with the kubelet's identity.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeSigner;

#[async_trait::async_trait]
impl Signer for NodeSigner {
    async fn sign(&self, leaf: &LeafSpec, request: String) -> Result<String> {
        let name = &leaf.subject.common_name;
        let is_a_nodes = matches!(leaf.leaf, LeafName::Tree(Leaf::Proxy | Leaf::Netd));
        ensure!(is_a_nodes, "the cluster signs no certificate of {name} for a node");
        let client = kinit_client::from_kubeconfig(Path::new(KUBECONFIG), "kinit").await;
        let client = client.with_context(|| format!("use {KUBECONFIG}"))?;
        let life = Duration::from_secs(u64::from(leaf.subject.days) * 86_400);
        let request = user::request(&client, "kinit-node-", request, Some(life)).await?;
        let signed = tokio::time::timeout(PATIENCE, user::signed(&client, &request)).await;
        signed.map_err(|_| {
            anyhow!(
                "CertificateSigningRequest {request} was not signed within {} s: is it approved?",
                PATIENCE.as_secs()
            )
        })?
    }
}
