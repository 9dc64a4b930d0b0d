//! `pv-protection`: a volume that is deleted stays while a claim is bound to it (`pkg/controller/volume/pvprotection`).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::PersistentVolume;
use kinit_client::informer::{Change, Store};
use kinit_client::queue::Queue;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};

use crate::context::Context;
use crate::object::ignore_gone;

const FINALIZER: &str = "kubernetes.io/pv-protection";

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("pv-protection-controller").await?;
    let volumes = ctx.store::<PersistentVolume>();
    let queue = Queue::new();
    let on_volume = queue.clone();
    volumes.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) && due(change.object()).is_some() {
            on_volume.add(change.object().name_any());
        }
    });
    volumes.synced().await;
    let work = Arc::new(Controller { client, volumes });
    queue.run("pv-protection", 1, ctx.shutdown(), move |name| work.clone().sync(name)).await;
    Ok(())
}

/// The finalizers the volume is to have, when it has others.
///
/// Admission gives a new volume its finalizer; here it is given to volumes that came before that, and taken from those
/// that are deleted and not bound, by the phase that whoever binds claims writes.
fn due(volume: &PersistentVolume) -> Option<Vec<String>> {
    let mut finalizers = volume.finalizers().to_vec();
    let protected = finalizers.iter().any(|f| f == FINALIZER);
    let bound = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    match volume.metadata.deletion_timestamp {
        None if !protected => finalizers.push(FINALIZER.to_owned()),
        Some(_) if protected && !bound => finalizers.retain(|f| f != FINALIZER),
        _ => return None,
    }
    Some(finalizers)
}

struct Controller {
    client: Client,
    volumes: Arc<Store<PersistentVolume>>,
}

impl Controller {
    async fn sync(self: Arc<Self>, name: String) -> Result<Option<Duration>> {
        let Some(volume) = self.volumes.get(&name) else { return Ok(None) };
        let Some(finalizers) = due(&volume) else { return Ok(None) };
        let mut wanted = (*volume).clone();
        wanted.metadata.finalizers = Some(finalizers);
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        ignore_gone(api.replace(&name, &PostParams::default(), &wanted).await)
            .with_context(|| format!("change the finalizers of volume {name}"))?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_is_protected() {
        let other = "example.com/x";
        for (finalizers, deleting, phase, expected) in [
            (vec![], false, "Available", Some(vec![FINALIZER])),
            (vec![FINALIZER], false, "Available", None),
            (vec![FINALIZER], true, "Bound", None),
            (vec![other, FINALIZER], true, "Released", Some(vec![other])),
            (vec![FINALIZER], true, "Available", Some(vec![])),
            (vec![other], true, "Available", None),
        ] {
            let mut volume: PersistentVolume = serde_json::from_value(
                json!({"metadata": {"name": "v", "finalizers": finalizers}, "status": {"phase": phase}}),
            )
            .unwrap();
            volume.metadata.deletion_timestamp = deleting.then(crate::object::now);
            let expected = expected.map(|list| list.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(due(&volume), expected, "{finalizers:?} {deleting} {phase}");
        }
    }
}
