//! `ephemeral-volume`: the claims of pods' generic ephemeral volumes (`pkg/controller/volume/ephemeral`). They are the
//! pod's own: the garbage collector removes them with it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use kinit_client::events::Recorder;
use kinit_client::informer::{Change, Store, join_key, key_of};
use kinit_client::queue::Queue;
use kinit_component_helpers::pod::is_active;
use kinit_component_helpers::storage::{ephemeral_claim_name, is_for_pod};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};

use crate::context::Context;
use crate::object::is_status;
use crate::object::owner::{controller_of, controller_ref};

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("ephemeral-volume-controller").await?;
    let (claims, pods) = (ctx.store::<PersistentVolumeClaim>(), ctx.store::<Pod>());
    let queue = Queue::new();
    let on_pod = queue.clone();
    pods.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) && templates(change.object()).next().is_some() {
            on_pod.add(key_of(&**change.object()));
        }
    });
    let on_claim = queue.clone();
    claims.on_change(move |change| {
        // One that was deleted too early is made anew.
        if let (Change::Deleted(claim), Some(owner)) = (change, controller_of(&**change.object()))
            && owner.kind == "Pod"
        {
            on_claim.add(join_key(&claim.namespace().unwrap_or_default(), &owner.name));
        }
    });
    claims.synced().await;
    pods.synced().await;
    let recorder = ctx.recorder(client.clone(), "ephemeral_volume");
    let work = Arc::new(Controller { client, recorder, claims, pods });
    queue.run("ephemeral_volume", 2, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

/// The pod's volumes that claims are made for.
fn templates(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter(|v| v.ephemeral.is_some())
}

/// The claim for one of them; nothing where there is no template.
fn claim_for(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let meta = template.metadata.clone().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(ephemeral_claim_name(pod, &volume.name)),
            namespace: pod.namespace(),
            owner_references: Some(vec![controller_ref(pod)]),
            annotations: meta.annotations,
            labels: meta.labels,
            ..Default::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}

struct Controller {
    client: Client,
    recorder: Recorder,
    claims: Arc<Store<PersistentVolumeClaim>>,
    pods: Arc<Store<Pod>>,
}

impl Controller {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(pod) = self.pods.get(&key).filter(|p| is_active(p)) else { return Ok(None) };
        for volume in templates(&pod) {
            if let Err(error) = self.provide(&pod, volume).await {
                let note = format!("ephemeral volume {}: {error:#}", volume.name);
                self.recorder.warning(&*pod, "FailedBinding", note);
                return Err(error.context(format!("ephemeral volume {} of pod {key}", volume.name)));
            }
        }
        Ok(None)
    }

    async fn provide(&self, pod: &Pod, volume: &Volume) -> Result<()> {
        let Some(claim) = claim_for(pod, volume) else { return Ok(()) };
        if let Some(found) = self.claims.get(&key_of(&claim)) {
            // A claim of somebody else that has the name: no pod takes another's data by its own name.
            return is_for_pod(&found, pod).map_err(|e| anyhow!(e));
        }
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        match api.create(&PostParams::default(), &claim).await {
            Err(error) if is_status(&error, 409) => {
                let found = api.get(&claim.name_any()).await.context("look at the claim of that name")?;
                is_for_pod(&found, pod).map_err(|e| anyhow!(e))
            }
            result => result.map(drop).with_context(|| format!("create PVC {}", claim.name_any())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_from_its_template() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": template}},
                {"name": "e", "emptyDir": {}}, {"name": "w", "ephemeral": {}}]}}))
        .unwrap();
        let claims: Vec<_> = templates(&pod).filter_map(|v| claim_for(&pod, v)).collect();
        assert_eq!(claims.len(), 1, "a volume without a template asks for nothing");
        assert_eq!((claims[0].name_any(), claims[0].namespace()), ("p-v".into(), Some("n".into())));
        assert!(is_for_pod(&claims[0], &pod).is_ok());
        assert_eq!(claims[0].labels().get("a").map(String::as_str), Some("b"));
        assert_eq!(
            claims[0].spec.as_ref().unwrap().access_modes.as_deref(),
            Some(["ReadWriteOnce".to_owned()].as_slice())
        );
    }
}
