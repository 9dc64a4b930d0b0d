//! The node's heartbeat: a Lease in kube-node-lease (`component-helpers/apimachinery/lease`).

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kinit_component_base::Shutdown;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

/// Renews for ever, at a quarter of the duration.
pub async fn run(client: Client, node: Node, seconds: i32, shutdown: Shutdown) {
    let api: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let every = Duration::from_secs(u64::try_from(seconds / 4).unwrap_or(10).max(1));
    let mut known: Option<Lease> = None;
    loop {
        let attempt = tokio::time::timeout(every, renew(&api, &node, seconds, known.take())).await;
        let pause = match attempt {
            Ok(Ok(lease)) => {
                known = Some(lease);
                every
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "renew the node's lease");
                Duration::from_secs(1).min(every)
            }
            Err(_) => {
                tracing::warn!("renew the node's lease: no answer");
                Duration::ZERO
            }
        };
        tokio::select! { () = shutdown.cancelled() => return, () = tokio::time::sleep(pause) => {} }
    }
}

async fn renew(api: &Api<Lease>, node: &Node, seconds: i32, known: Option<Lease>) -> Result<Lease, kube::Error> {
    let name = node.metadata.name.clone().unwrap_or_default();
    let known = match known {
        Some(lease) => Some(lease),
        None => api.get_opt(&name).await?,
    };
    let spec = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(seconds),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..Default::default()
    };
    let Some(mut lease) = known else {
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.clone(),
            uid: node.metadata.uid.clone().unwrap_or_default(),
            controller: None,
            block_owner_deletion: None,
        };
        let metadata = ObjectMeta {
            name: Some(name),
            namespace: Some("kube-node-lease".into()),
            owner_references: Some(vec![owner]),
            ..Default::default()
        };
        return api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await;
    };
    lease.spec = Some(spec);
    api.replace(&name, &PostParams::default(), &lease).await
}
