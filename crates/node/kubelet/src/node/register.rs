//! The Node object (`pkg/kubelet/kubelet_node_status.go: registerWithAPIServer`, `initialNode`).

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeSpec, Taint};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

/// What a node says of itself when it registers.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Name.
    pub name: String,
    /// Labels given by flag.
    pub labels: BTreeMap<String, String>,
    /// Taints given by flag or configuration.
    pub taints: Vec<Taint>,
    /// `amd64` and the like.
    pub architecture: String,
}

impl Registration {
    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
            labels.insert(format!("{prefix}/os"), "linux".into());
            labels.insert(format!("{prefix}/arch"), self.architecture.clone());
        }
        labels.insert("kubernetes.io/hostname".into(), self.name.clone());
        labels
    }

    /// Registers, or brings the labels of the node that is there up to date. Goes on until it is done.
    pub async fn run(&self, client: Client) -> Node {
        let api: Api<Node> = Api::all(client);
        let mut pause = Duration::from_millis(500);
        loop {
            match self.once(&api).await {
                Ok(node) => return node,
                Err(error) => tracing::warn!(node = self.name, %error, "register the node"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(7));
        }
    }

    async fn once(&self, api: &Api<Node>) -> Result<Node, kube::Error> {
        if let Some(node) = api.get_opt(&self.name).await? {
            let have = node.metadata.labels.clone().unwrap_or_default();
            let missing: BTreeMap<_, _> = self.labels().into_iter().filter(|(k, v)| have.get(k) != Some(v)).collect();
            if missing.is_empty() {
                return Ok(node);
            }
            let patch = json!({"metadata": {"labels": missing}});
            return api.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        }
        match api.create(&PostParams::default(), &self.node()).await {
            Ok(node) => {
                tracing::info!(node = self.name, "registered");
                Ok(node)
            }
            Err(error) => Err(error),
        }
    }

    /// The node as it is registered.
    pub fn node(&self) -> Node {
        let mut taints = self.taints.clone();
        // The node lifecycle controller takes it away once the node is ready.
        taints.push(Taint {
            key: "node.kubernetes.io/not-ready".into(),
            effect: "NoSchedule".into(),
            ..Default::default()
        });
        Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.labels()),
                annotations: Some(
                    [("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())].into(),
                ),
                ..Default::default()
            },
            spec: Some(NodeSpec { taints: Some(taints), ..Default::default() }),
            status: None,
        }
    }
}
