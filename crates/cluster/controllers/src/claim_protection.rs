//! `pvc-protection`: a claim that is deleted stays while a pod uses it (`pkg/controller/volume/pvcprotection`).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kinit_client::informer::{Change, Store, join_key, key_of, split_key};
use kinit_client::queue::Queue;
use kinit_component_helpers::pod::node_name;
use kinit_component_helpers::storage::claims_of;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt};

use crate::context::Context;
use crate::object::ignore_gone;

const FINALIZER: &str = "kubernetes.io/pvc-protection";

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("pvc-protection-controller").await?;
    let (claims, pods) = (ctx.store::<PersistentVolumeClaim>(), ctx.store::<Pod>());
    let queue = Queue::new();
    let (on_claim, on_pod) = (queue.clone(), queue.clone());
    claims.on_change(move |change| on_claim.add(key_of(&**change.object())));
    pods.on_change(move |change| {
        // Only a pod's end sets a claim free.
        if let Change::Deleted(pod) = change {
            let namespace = pod.namespace().unwrap_or_default();
            claims_of(pod).for_each(|c| on_pod.add(join_key(&namespace, &c.claim)));
        }
    });
    claims.synced().await;
    pods.synced().await;
    let work = Arc::new(Controller { client, claims, pods });
    queue.run("pvc-protection", 2, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

/// Only a pod that was given a node holds its claims: a kubelet starts none whose claim is being deleted.
fn uses(pod: &Pod, claim: &str) -> bool {
    node_name(pod).is_some() && claims_of(pod).any(|c| c.claim == claim)
}

struct Controller {
    client: Client,
    claims: Arc<Store<PersistentVolumeClaim>>,
    pods: Arc<Store<Pod>>,
}

impl Controller {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(claim) = self.claims.get(&key) else { return Ok(None) };
        let protected = claim.finalizers().iter().any(|f| f == FINALIZER);
        let deleting = claim.metadata.deletion_timestamp.is_some();
        let (namespace, name) = split_key(&key);
        let mut wanted = (*claim).clone();
        if !deleting && !protected {
            wanted.finalizers_mut().push(FINALIZER.to_owned());
        } else if deleting && protected && !self.is_used(namespace, name).await? {
            wanted.finalizers_mut().retain(|f| f != FINALIZER);
        } else {
            return Ok(None);
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        ignore_gone(api.replace(name, &PostParams::default(), &wanted).await)
            .with_context(|| format!("change the finalizers of claim {key}"))?;
        Ok(None)
    }

    /// By the store, and, before a claim goes, by the API server itself.
    async fn is_used(&self, namespace: &str, claim: &str) -> Result<bool> {
        if self.pods.in_namespace(namespace).iter().any(|p| uses(p, claim)) {
            return Ok(true);
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let pods = api.list(&ListParams::default()).await.with_context(|| format!("look for pods that use {claim}"))?;
        Ok(pods.items.iter().any(|p| uses(p, claim)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_uses_a_claim() {
        let pod = |node: Option<&str>, volume: serde_json::Value| -> Pod {
            let spec = json!({"nodeName": node, "containers": [], "volumes": [volume]});
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
        };
        let claim = json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}});
        for (pod, name, expected) in [
            (pod(Some("a"), claim.clone()), "data", true),
            (pod(Some("a"), claim.clone()), "other", false),
            (pod(None, claim), "data", false),
            (pod(Some("a"), json!({"name": "v", "ephemeral": {}})), "p-v", true),
            (pod(Some("a"), json!({"name": "v", "emptyDir": {}})), "v", false),
        ] {
            assert_eq!(uses(&pod, name), expected, "{:?} {name}", pod.spec);
        }
    }
}
