//! `persistentvolume-binder`: brings claims and volumes together and reclaims volumes whose claim is gone
//! (`pkg/controller/volume/persistentvolume`).
//!
//! ```text
//! claim  ─ no volume named ─▶ the best that fits ─▶ bind: volume.claimRef, volume Bound, claim.volumeName, claim Bound
//!        │                 └▶ none: wait for a consumer, ask the class's provisioner, or say so
//!        └ bound once, volume gone ─▶ Lost
//! volume ─ its claim is gone ─▶ Released ─▶ policy: Retain leaves it, Delete is its provisioner's affair
//! ```
//!
//! `claim` and `volume` decide, without IO; `act` writes. Each write carries the version that the decision was made on,
//! so that a decision on old news is refused and made again.

mod act;
mod claim;
mod volume;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kinit_client::informer::{Change, Store, join_key, key_of, split_key};
use kinit_client::queue::Queue;
use kinit_component_helpers::pod::{is_terminal, node_name};
use kinit_component_helpers::storage::{
    claim_ref, claims_of, class_of_claim, class_of_volume, default_class, is_bound, names_class, volume_name,
};
use kube::ResourceExt;
use kube::api::Api;

use super::Key;
use crate::context::Context;
use act::Writer;
use claim::{ClaimView, claim_step};
use volume::volume_step;

const WORKERS: usize = 4;
/// The index of claims without a volume, by class.
const UNBOUND: &str = "unbound";
/// The index of volumes by class.
const CLASS: &str = "class";
/// The index of volumes by the claim they are for.
const CLAIM: &str = "claim";
/// The index of pods by the claims they use.
const USED: &str = "claims";

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("persistent-volume-binder").await?;
    let stores = Stores { claims: ctx.store(), volumes: ctx.store(), classes: ctx.store(), pods: ctx.store() };
    let queue = Queue::new();
    stores.index();
    stores.watch(&queue);
    stores.synced().await;
    let recorder = ctx.recorder(client.clone(), "persistentvolume-controller");
    let work = Arc::new(Controller { writer: Writer { client, recorder }, stores, queue: queue.clone() });
    queue.run("persistentvolume-binder", WORKERS, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

struct Stores {
    claims: Arc<Store<PersistentVolumeClaim>>,
    volumes: Arc<Store<PersistentVolume>>,
    classes: Arc<Store<StorageClass>>,
    pods: Arc<Store<Pod>>,
}

impl Stores {
    fn index(&self) {
        self.claims.index(UNBOUND, |c| if is_bound(c) { Vec::new() } else { vec![class_of_claim(c).to_owned()] });
        self.volumes.index(CLASS, |v| vec![class_of_volume(v).to_owned()]);
        self.volumes.index(CLAIM, |v| claim_key(v).into_iter().collect());
        self.pods.index(USED, |pod| {
            let namespace = pod.namespace().unwrap_or_default();
            claims_of(pod).map(|c| join_key(&namespace, &c.claim)).collect()
        });
    }

    /// Makes due what a change may concern: the claim and the volume that refer to each other, and all claims that wait
    /// for a volume of the class.
    fn watch(&self, queue: &Arc<Queue<Key>>) {
        let on_claim = queue.clone();
        let volumes = self.volumes.clone();
        self.claims.on_change(move |change: &Change<PersistentVolumeClaim>| {
            let claim = change.object();
            let key = key_of(&**claim);
            for volume in volumes.by_index(CLAIM, &key) {
                on_claim.add(Key::Volume(volume.name_any()));
            }
            let named = volume_name(claim);
            if !named.is_empty() {
                on_claim.add(Key::Volume(named.to_owned()));
            }
            if !matches!(change, Change::Deleted(_)) {
                on_claim.add(Key::Claim(key));
            }
        });
        let (on_volume, claims) = (queue.clone(), self.claims.clone());
        self.volumes.on_change(move |change: &Change<PersistentVolume>| {
            let volume = change.object();
            if !matches!(change, Change::Deleted(_)) {
                on_volume.add(Key::Volume(volume.name_any()));
            }
            if let Some(key) = claim_key(volume) {
                on_volume.add(Key::Claim(key));
            }
            // A claim may also name a volume that names no claim, or have been bound to one that is gone.
            for claim in claims.by_index(UNBOUND, class_of_volume(volume)) {
                on_volume.add(Key::Claim(key_of(&*claim)));
            }
        });
        let (on_class, claims) = (queue.clone(), self.claims.clone());
        self.classes.on_change(move |change: &Change<StorageClass>| {
            let class = change.object().name_any();
            // Claims without a class may get one that has become the default.
            for claim in claims.by_index(UNBOUND, &class).into_iter().chain(claims.by_index(UNBOUND, "")) {
                on_class.add(Key::Claim(key_of(&*claim)));
            }
        });
    }

    async fn synced(&self) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.pods.synced().await;
    }

    /// The volumes that a claim could get: those of its class, and those reserved for it.
    fn candidates(&self, key: &str, class: &str) -> Vec<Arc<PersistentVolume>> {
        let mut found = self.volumes.by_index(CLAIM, key);
        found.extend(self.volumes.by_index(CLASS, class).into_iter().filter(|v| claim_ref(v).is_none()));
        found
    }

    /// A pod that uses the claim and has no node yet.
    fn waiting_pod(&self, key: &str) -> Option<String> {
        let pods = self.pods.by_index(USED, key);
        let waiting = pods.iter().find(|p| node_name(p).is_none() && !is_terminal(p))?;
        Some(waiting.name_any())
    }
}

/// The key of the claim that a volume is for.
fn claim_key(volume: &PersistentVolume) -> Option<String> {
    let reference = claim_ref(volume)?;
    Some(join_key(reference.namespace.as_deref()?, reference.name.as_deref()?))
}

struct Controller {
    writer: Writer,
    stores: Stores,
    queue: Arc<Queue<Key>>,
}

impl Controller {
    async fn sync(self: Arc<Self>, key: Key) -> Result<Option<Duration>> {
        match &key {
            Key::Claim(key) => self.sync_claim(key).await?,
            Key::Volume(name) => self.sync_volume(name).await?,
        }
        Ok(None)
    }

    async fn sync_claim(&self, key: &str) -> Result<()> {
        let Some(claim) = self.stores.claims.get(key) else { return Ok(()) };
        let class_name = class_of_claim(&claim);
        let classes = if names_class(&claim) { Vec::new() } else { self.stores.classes.list() };
        let view = ClaimView {
            claim: &claim,
            class: self.stores.classes.get(class_name),
            default_class: default_class(classes.iter().map(AsRef::as_ref)).map(ResourceExt::name_any),
            named: self.stores.volumes.get(volume_name(&claim)),
            candidates: self.stores.candidates(key, class_name),
            waiting_pod: self.stores.waiting_pod(key),
        };
        self.writer.claim(&claim, claim_step(view)).await.with_context(|| format!("claim {key}"))
    }

    async fn sync_volume(&self, name: &str) -> Result<()> {
        let Some(volume) = self.stores.volumes.get(name) else { return Ok(()) };
        let claim = self.claim_of(&volume).await?;
        let step = volume_step(&volume, claim.as_deref());
        if step == volume::VolumeStep::Claim
            && let Some(key) = claim_key(&volume)
        {
            self.queue.add(Key::Claim(key));
        }
        self.writer.volume(&volume, step).await.with_context(|| format!("volume {name}"))
    }

    /// The claim that a volume is bound to. That it is gone is not believed the store alone: a volume must not be
    /// reclaimed because of late news.
    async fn claim_of(&self, volume: &PersistentVolume) -> Result<Option<Arc<PersistentVolumeClaim>>> {
        let Some(key) = claim_key(volume) else { return Ok(None) };
        let uid = claim_ref(volume).and_then(|r| r.uid.clone()).unwrap_or_default();
        let known = self.stores.claims.get(&key);
        if uid.is_empty() || known.as_ref().is_some_and(|c| c.uid().as_deref() == Some(&uid)) {
            return Ok(known);
        }
        let (namespace, name) = split_key(&key);
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.writer.client.clone(), namespace);
        let found = api.get_opt(name).await.with_context(|| format!("look for claim {key}"))?;
        Ok(found.map(Arc::new))
    }
}
