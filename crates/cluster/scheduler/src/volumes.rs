//! Claims and volumes as the scheduler knows them, and what it does to them when a pod got its node
//! (VolumeBinding's `Reserve` and `PreBind`).
//!
//! ```text
//! stores ─┬─▶ view ─▶ gather ─▶ filter ─▶ choice
//! held  ──┘            ▲                     │ reserve: held until it is written and seen
//!                      └─────────────────────┘ bind: write, then wait for the binder and the provisioner
//! ```

mod bind;
mod place;

pub use place::Place;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kinit_client::informer::{Change, Store, join_key, key_of};
use kinit_component_helpers::storage::{SELECTED_NODE, annotation, claim_ref, class_of_claim, class_of_volume};
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::plugins::volumes::{Choice, Lookup};

const CLASS: &str = "class";
const CLAIM: &str = "claim";

/// The stores.
#[derive(Clone)]
pub struct VolumeStores {
    /// All claims.
    pub claims: Arc<Store<PersistentVolumeClaim>>,
    /// All volumes.
    pub volumes: Arc<Store<PersistentVolume>>,
    /// All classes.
    pub classes: Arc<Store<StorageClass>>,
}

impl VolumeStores {
    /// Waits for the first lists.
    pub async fn synced(&self) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
    }
}

/// Decisions that the stores do not show yet.
#[derive(Default)]
struct Held {
    /// By a volume's name, the claim that gets it.
    volumes: HashMap<String, ObjectReference>,
    /// By a claim's uid, the node of its volume to be.
    claims: HashMap<String, String>,
}

/// See the module.
pub struct Volumes {
    stores: VolumeStores,
    pods: Arc<Store<Pod>>,
    held: Mutex<Held>,
    /// Claims or volumes changed, or a pod is gone.
    changed: Arc<Notify>,
}

impl Volumes {
    /// Over these stores; `happened` is told of each change.
    pub fn new(
        stores: VolumeStores,
        pods: Arc<Store<Pod>>,
        happened: impl Fn() + Send + Sync + Clone + 'static,
    ) -> Self {
        stores.volumes.index(CLASS, |v| vec![class_of_volume(v).to_owned()]);
        stores.volumes.index(CLAIM, |v| claim_key(v).into_iter().collect());
        let changed = Arc::new(Notify::new());
        let tell = {
            let changed = changed.clone();
            move || {
                changed.notify_waiters();
                happened();
            }
        };
        let (on_claim, on_volume, on_class) = (tell.clone(), tell.clone(), tell);
        stores.claims.on_change(move |_| on_claim());
        stores.volumes.on_change(move |_| on_volume());
        stores.classes.on_change(move |_| on_class());
        let on_pod = changed.clone();
        pods.on_change(move |change| {
            if matches!(change, Change::Deleted(_)) {
                on_pod.notify_waiters();
            }
        });
        Self { stores, pods, held: Mutex::default(), changed }
    }

    /// What was decided counts from now on, whatever the stores show.
    pub fn reserve(&self, choice: &Choice, node: &str) {
        let mut held = self.held.lock();
        for (volume, claim) in &choice.bindings {
            held.volumes.insert(volume.name_any(), claim.object_ref(&()));
        }
        for claim in &choice.provisions {
            held.claims.insert(claim.uid().unwrap_or_default(), node.to_owned());
        }
    }

    /// The stores show it, or it came to nothing.
    pub fn release(&self, choice: &Choice) {
        let mut held = self.held.lock();
        for (volume, _) in &choice.bindings {
            held.volumes.remove(&volume.name_any());
        }
        for claim in &choice.provisions {
            held.claims.remove(&claim.uid().unwrap_or_default());
        }
    }

    /// A volume with the claim that it was promised to.
    fn promised(&self, volume: Arc<PersistentVolume>) -> Arc<PersistentVolume> {
        if claim_ref(&volume).is_some() {
            return volume;
        }
        let Some(reference) = self.held.lock().volumes.get(&volume.name_any()).cloned() else { return volume };
        let mut promised = (*volume).clone();
        promised.spec.get_or_insert_default().claim_ref = Some(reference);
        Arc::new(promised)
    }
}

impl Lookup for Volumes {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.stores.claims.get(&join_key(namespace, name))
    }

    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.stores.volumes.get(name)
    }

    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.stores.classes.get(name)
    }

    fn candidates(&self, claim: &PersistentVolumeClaim) -> Vec<Arc<PersistentVolume>> {
        let mut found = self.stores.volumes.by_index(CLAIM, &key_of(claim));
        let of_class = self.stores.volumes.by_index(CLASS, class_of_claim(claim));
        found.extend(of_class.into_iter().filter(|v| claim_ref(v).is_none()).map(|v| self.promised(v)));
        found
    }

    fn selected(&self, claim: &PersistentVolumeClaim) -> Option<String> {
        let written = annotation(claim, SELECTED_NODE).map(str::to_owned);
        written.or_else(|| self.held.lock().claims.get(claim.metadata.uid.as_deref()?).cloned())
    }
}

fn claim_key(volume: &PersistentVolume) -> Option<String> {
    let reference = claim_ref(volume)?;
    Some(join_key(reference.namespace.as_deref()?, reference.name.as_deref()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn promises_count_until_they_are_kept() {
        let stores = VolumeStores { claims: Store::new(), volumes: Store::new(), classes: Store::new() };
        let volumes = Volumes::new(stores.clone(), Store::new(), || ());
        let volume: PersistentVolume =
            serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {"storageClassName": "s"}})).unwrap();
        stores.volumes.apply(volume);
        let claim = |uid: &str| -> Arc<PersistentVolumeClaim> {
            let meta = json!({"name": uid, "namespace": "n", "uid": uid});
            Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": {"storageClassName": "s"}})).unwrap())
        };
        let (mine, other) = (claim("a"), claim("b"));
        let choice =
            Choice { bindings: vec![(volumes.volume("v").unwrap(), mine.clone())], provisions: vec![other.clone()] };
        volumes.reserve(&choice, "n1");
        let holder =
            |claim: &PersistentVolumeClaim| claim_ref(&volumes.candidates(claim)[0]).and_then(|r| r.uid.clone());
        assert_eq!(holder(&other), Some("a".into()), "the volume is promised");
        assert_eq!((volumes.selected(&other), volumes.selected(&mine)), (Some("n1".into()), None));
        volumes.release(&choice);
        assert_eq!((holder(&other), volumes.selected(&other)), (None, None));
    }
}
