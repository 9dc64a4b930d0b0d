//! The provisioner `kinit.dev/local-path`: a folder on the disk of the node that the scheduler chose. It makes and
//! deletes PersistentVolumes only; the folder is the node's kubelet's affair, which says by a finalizer that it may be
//! there still (`kinit_component_helpers::storage::LocalPath`).
//!
//! In every other way it is an external provisioner, as `sigs.k8s.io/sig-storage-lib-external-provisioner` has them.
//! It writes as the binder, whose rights are just those that it needs: so it works with every API server.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kinit_client::events::Recorder;
use kinit_client::informer::{Change, Store, key_of};
use kinit_client::queue::Queue;
use kinit_component_helpers::storage::{LocalPath, SELECTED_NODE, class_of_claim, volume_name};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};

use super::Key;
use crate::context::Context;
use crate::object::{ignore_gone, is_status};
use plan::{Ending, Growth, Making, ending, growth, making, node_of};

/// The index of volumes by the node whose disk they are on.
const NODE: &str = "local-path-node";

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("persistent-volume-binder").await?;
    let stores = Stores { claims: ctx.store(), volumes: ctx.store(), classes: ctx.store(), nodes: ctx.store() };
    let queue = Queue::new();
    stores.watch(&queue);
    stores.synced().await;
    let recorder = ctx.recorder(client.clone(), LocalPath::PROVISIONER);
    let work = Arc::new(Controller { client, recorder, stores });
    queue.run("local-path", 4, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

struct Stores {
    claims: Arc<Store<PersistentVolumeClaim>>,
    volumes: Arc<Store<PersistentVolume>>,
    classes: Arc<Store<StorageClass>>,
    nodes: Arc<Store<Node>>,
}

impl Stores {
    fn watch(&self, queue: &Arc<Queue<Key>>) {
        self.volumes.index(NODE, |v| node_of(v).map(str::to_owned).into_iter().collect());
        let on_claim = queue.clone();
        self.claims.on_change(move |change| {
            let claim = change.object();
            if !matches!(change, Change::Deleted(_)) && (plan::is_asked(claim) || plan::grows(claim)) {
                on_claim.add(Key::Claim(key_of(&**claim)));
            }
        });
        let on_volume = queue.clone();
        self.volumes.on_change(move |change| {
            if !matches!(change, Change::Deleted(_)) {
                on_volume.add(Key::Volume(change.object().name_any()));
            }
        });
        let (on_node, volumes) = (queue.clone(), self.volumes.clone());
        self.nodes.on_change(move |change| {
            if matches!(change, Change::Deleted(_)) {
                for volume in volumes.by_index(NODE, &change.object().name_any()) {
                    on_node.add(Key::Volume(volume.name_any()));
                }
            }
        });
    }

    async fn synced(&self) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.nodes.synced().await;
    }
}

struct Controller {
    client: Client,
    recorder: Recorder,
    stores: Stores,
}

impl Controller {
    async fn sync(self: Arc<Self>, key: Key) -> Result<Option<Duration>> {
        match &key {
            Key::Claim(key) => self.provide(key).await?,
            Key::Volume(name) => self.reclaim(name).await?,
        }
        Ok(None)
    }

    async fn provide(&self, key: &str) -> Result<()> {
        let Some(claim) = self.stores.claims.get(key) else { return Ok(()) };
        let class = self.stores.classes.get(class_of_claim(&claim));
        if plan::grows(&claim) {
            return self.grow(&claim, class.as_deref()).await;
        }
        let node = claim.annotations().get(SELECTED_NODE).map(|name| (name.as_str(), self.stores.nodes.get(name)));
        match making(&claim, class.as_deref(), node.as_ref().map(|(name, node)| (*name, node.as_deref()))) {
            Making::Nothing => Ok(()),
            Making::Refuse(message) => {
                self.recorder.warning(&*claim, "ProvisioningFailed", message);
                Ok(())
            }
            Making::Elsewhere(message) => {
                self.recorder.warning(&*claim, "ProvisioningFailed", message);
                self.give_back(&claim).await
            }
            Making::Volume(volume) => self.make(&claim, &volume).await,
        }
    }

    async fn grow(&self, claim: &PersistentVolumeClaim, class: Option<&StorageClass>) -> Result<()> {
        let mut volume = self.stores.volumes.get(volume_name(claim));
        if let Growth::Volume(grown) = growth(claim, class, volume.as_deref()) {
            let api: Api<PersistentVolume> = Api::all(self.client.clone());
            let written = api.replace(&grown.name_any(), &PostParams::default(), &grown).await;
            volume = Some(Arc::new(written.with_context(|| format!("grow volume {}", grown.name_any()))?));
        }
        if let Growth::Claim(reported) = growth(claim, class, volume.as_deref()) {
            let api: Api<PersistentVolumeClaim> =
                Api::namespaced(self.client.clone(), &claim.namespace().unwrap_or_default());
            let written = api.replace_status(&claim.name_any(), &PostParams::default(), &reported).await;
            written.context("write the claim's size")?;
            self.recorder.normal(claim, "VolumeResizeSuccessful", "Resize volume succeeded");
        }
        Ok(())
    }

    /// Has the scheduler choose another node.
    async fn give_back(&self, claim: &PersistentVolumeClaim) -> Result<()> {
        let mut wanted = claim.clone();
        wanted.annotations_mut().remove(SELECTED_NODE);
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), &claim.namespace().unwrap_or_default());
        ignore_gone(api.replace(&claim.name_any(), &PostParams::default(), &wanted).await)
            .context("ask for another node")?;
        Ok(())
    }

    async fn make(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<()> {
        let name = volume.name_any();
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), volume).await {
            // Made by an earlier attempt: the name is that of the claim's identity.
            Err(error) if is_status(&error, 409) => Ok(()),
            Err(error) => {
                let note = format!("failed to create volume {name}: {error}");
                self.recorder.warning(claim, "ProvisioningFailed", note);
                Err(error).with_context(|| format!("create volume {name}"))
            }
            Ok(_) => {
                tracing::info!(claim = claim.name_any(), volume = name, "provisioned");
                let note = format!("Successfully provisioned volume {name}");
                self.recorder.normal(claim, "ProvisioningSucceeded", note);
                Ok(())
            }
        }
    }

    async fn reclaim(&self, name: &str) -> Result<()> {
        let Some(volume) = self.stores.volumes.get(name) else { return Ok(()) };
        let node = node_of(&volume).map(str::to_owned);
        let gone = node.as_ref().is_none_or(|node| self.stores.nodes.get(node).is_none());
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        match ending(&volume, gone) {
            Ending::No => Ok(()),
            Ending::Delete => {
                let preconditions =
                    Some(Preconditions { uid: volume.uid(), resource_version: volume.resource_version() });
                let params = DeleteParams { preconditions, ..Default::default() };
                ignore_gone(api.delete(name, &params).await).with_context(|| format!("delete volume {name}"))?;
                Ok(())
            }
            Ending::Abandon => {
                if let Some(node) = &node
                    && self.exists(node).await?
                {
                    return Ok(());
                }
                let mut wanted = (*volume).clone();
                wanted.finalizers_mut().retain(|f| f != LocalPath::FINALIZER);
                ignore_gone(api.replace(name, &PostParams::default(), &wanted).await)
                    .with_context(|| format!("give up the folder of volume {name}, whose node is gone"))?;
                tracing::info!(volume = name, node, "its node is gone: the folder is given up");
                Ok(())
            }
        }
    }

    /// A folder is not given up for what a store has not heard of yet.
    async fn exists(&self, node: &str) -> Result<bool> {
        let api: Api<Node> = Api::all(self.client.clone());
        Ok(api.get_opt(node).await.with_context(|| format!("look for node {node}"))?.is_some())
    }
}
