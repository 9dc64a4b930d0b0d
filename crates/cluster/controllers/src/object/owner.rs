//! Ownership: controller references, adoption and release
//! (`k8s.io/kubernetes/pkg/controller/controller_ref_manager.go`).

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kinit_client::informer::{Store, controller_uid};
use kube::api::{Api, Patch, PatchParams};
use kube::core::SelectorExt;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

/// A reference that makes `owner` the controller of what carries it.
pub fn controller_ref<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The controlling owner's reference.
pub fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    object.meta().owner_references.iter().flatten().find(|o| o.controller == Some(true))
}

/// What a controller is to do about an object it might own.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Claim {
    /// It owns it, or leaves it as it is although the selector no longer matches (the owner is being deleted).
    Keep,
    /// It owns it, but the selector no longer matches: to be released.
    Release,
    /// Nobody owns it and the selector matches: to be adopted.
    Adopt,
    /// Not its affair.
    Ignore,
}

/// The rule: owned and matching is kept, owned and not matching is released, an orphan that matches is adopted; an
/// owner that is being deleted changes nothing, and an object that is being deleted is not adopted.
pub fn claim<K: Resource>(owner_uid: &str, owner_deleting: bool, object: &K, matches: bool) -> Claim {
    match controller_uid(object) {
        Some(uid) if uid == owner_uid && matches => Claim::Keep,
        Some(uid) if uid == owner_uid && owner_deleting => Claim::Ignore,
        Some(uid) if uid == owner_uid => Claim::Release,
        Some(_) => Claim::Ignore,
        None if matches && !owner_deleting && object.meta().deletion_timestamp.is_none() => Claim::Adopt,
        None => Claim::Ignore,
    }
}

/// Makes `owner`'s claims on the objects of its namespace true and returns what it owns now.
///
/// Candidates are those it controls and those that nobody controls. Adoption is checked against a fresh read of the
/// owner, as upstream does: a stale view of a deleted and re-created owner must not adopt.
pub async fn claim_all<O, K>(
    owners: &Api<O>,
    owner: &O,
    selector: &kube::core::Selector,
    objects: &Api<K>,
    store: &Store<K>,
) -> anyhow::Result<Vec<Arc<K>>>
where
    O: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let uid = owner.uid().unwrap_or_default();
    let deleting = owner.meta().deletion_timestamp.is_some();
    let mut owned = Vec::new();
    let mut checked = None;
    for object in store.in_namespace(&owner.namespace().unwrap_or_default()) {
        let matches = selector.matches(object.labels());
        match claim(&uid, deleting, &*object, matches) {
            Claim::Ignore => {}
            Claim::Keep => owned.push(object),
            Claim::Release => release(objects, &*object, &uid).await?,
            Claim::Adopt => {
                if checked.is_none() {
                    let fresh = owners.get(&owner.name_any()).await?;
                    checked = Some(fresh.uid().as_deref() == Some(&uid) && fresh.meta().deletion_timestamp.is_none());
                }
                if checked == Some(true)
                    && let Some(adopted) = adopt(objects, &*object, owner).await?
                {
                    owned.push(Arc::new(adopted));
                }
            }
        }
    }
    Ok(owned)
}

async fn adopt<O, K>(api: &Api<K>, object: &K, owner: &O) -> anyhow::Result<Option<K>>
where
    O: Resource<DynamicType = ()>,
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut owners = object.meta().owner_references.clone().unwrap_or_default();
    owners.push(controller_ref(owner));
    let patch = json!({"metadata": {"uid": object.uid(), "resourceVersion": object.resource_version(), "ownerReferences": owners}});
    Ok(super::ignore_gone(api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await)?)
}

async fn release<K>(api: &Api<K>, object: &K, owner_uid: &str) -> anyhow::Result<()>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let owners: Vec<_> = object.meta().owner_references.iter().flatten().filter(|o| o.uid != owner_uid).collect();
    let patch = json!({"metadata": {"uid": object.uid(), "resourceVersion": object.resource_version(), "ownerReferences": owners}});
    super::ignore_gone(api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    #[test]
    fn claims() {
        let pod = |owner: Option<&str>, deleting: bool| -> Pod {
            let owners: Vec<_> = owner
                .iter()
                .map(|uid| json!({"apiVersion": "v1", "kind": "X", "name": "x", "uid": uid, "controller": true}))
                .collect();
            let mut pod: Pod =
                serde_json::from_value(json!({"metadata": {"name": "p", "ownerReferences": owners}})).unwrap();
            pod.metadata.deletion_timestamp = deleting.then(super::super::now);
            pod
        };
        for (owner, deleting, owner_deleting, matches, expected) in [
            (Some("me"), false, false, true, Claim::Keep),
            (Some("me"), true, false, true, Claim::Keep),
            (Some("me"), false, false, false, Claim::Release),
            (Some("me"), false, true, false, Claim::Ignore),
            (Some("you"), false, false, true, Claim::Ignore),
            (None, false, false, true, Claim::Adopt),
            (None, true, false, true, Claim::Ignore),
            (None, false, true, true, Claim::Ignore),
            (None, false, false, false, Claim::Ignore),
        ] {
            assert_eq!(claim("me", owner_deleting, &pod(owner, deleting), matches), expected, "{owner:?} {matches}");
        }
    }
}
