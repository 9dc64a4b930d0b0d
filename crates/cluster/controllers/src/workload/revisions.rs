//! ControllerRevisions: the templates a DaemonSet or StatefulSet has had (`pkg/controller/history`).
//!
//! What a revision keeps, its labels and (for StatefulSets) its name are what upstream's controllers write: one that
//! takes over finds the present template among the revisions and rolls nothing.

mod data;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kinit_client::informer::Store;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde_json::json;

use super::deployment::template_hash;
use crate::object::owner::controller_ref;
use crate::object::{ignore_gone, is_status};
pub use data::template_of;
use data::{data, same};

/// Label of pods: which revision. Of a DaemonSet's pods and revisions it is the hash alone, of a StatefulSet's pods the
/// revision's name.
pub const HASH: &str = "controller-revision-hash";
/// Label of a StatefulSet's revisions: the hash in their name.
const NAME_HASH: &str = "controller.kubernetes.io/hash";
/// A hash may belong to another template; so many names are tried in one pass.
const NAMES: i32 = 8;

/// How a kind's revisions are named and labelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `daemon.snapshot`: the hash of the template, in [`HASH`].
    DaemonSet,
    /// `history.NewControllerRevision`: the hash of the data, in [`NAME_HASH`].
    StatefulSet,
}

impl Scheme {
    fn label(self) -> &'static str {
        match self {
            Self::DaemonSet => HASH,
            Self::StatefulSet => NAME_HASH,
        }
    }

    fn hash(self, template: &PodTemplateSpec, collisions: i32) -> String {
        match self {
            // DaemonSets know their revisions by the data, so the hash only has to be some hash of the template.
            Self::DaemonSet => template_hash(template, (collisions > 0).then_some(collisions)),
            Self::StatefulSet => data::hash(&data(template), collisions),
        }
    }

    /// What pods of this revision carry as [`HASH`].
    pub fn pod_label(self, revision: &ControllerRevision) -> String {
        match self {
            Self::DaemonSet => revision.labels().get(HASH).cloned().unwrap_or_else(|| revision.name_any()),
            Self::StatefulSet => revision.name_any(),
        }
    }
}

/// A workload's revisions, oldest first.
pub fn of_owner(store: &Store<ControllerRevision>, uid: &str) -> Vec<Arc<ControllerRevision>> {
    let mut all = store.controlled_by(uid);
    all.sort_by_key(|r| (r.revision, r.name_any()));
    all
}

/// The revision of the workload's present template, made or renumbered where needed.
pub async fn current<O>(
    client: &Client,
    owner: &O,
    scheme: Scheme,
    template: &PodTemplateSpec,
    all: &[Arc<ControllerRevision>],
    collisions: i32,
) -> Result<Arc<ControllerRevision>>
where
    O: Resource<DynamicType = ()>,
{
    let namespace = owner.namespace().unwrap_or_default();
    let api: Api<ControllerRevision> = Api::namespaced(client.clone(), &namespace);
    let newest = all.last().map_or(0, |r| r.revision);
    if let Some(found) = all.iter().rev().find(|r| same(r, template)) {
        if found.revision == newest {
            return Ok(found.clone());
        }
        // Rolled back: the old template is the newest again.
        let patch = Patch::Merge(json!({"revision": newest + 1}));
        let updated = api.patch(&found.name_any(), &PatchParams::default(), &patch).await;
        return Ok(Arc::new(updated.context("renumber a revision")?));
    }
    for more in 0..NAMES {
        let revision = fresh(owner, scheme, template, newest + 1, collisions.saturating_add(more));
        match api.create(&PostParams::default(), &revision).await {
            Ok(created) => return Ok(Arc::new(created)),
            Err(error) if is_status(&error, 409) => {
                // The store has not seen our own yet, or the hash belongs to another template.
                let existing = api.get_opt(&revision.name_any()).await.context("read a revision")?;
                if let Some(existing) = existing.filter(|existing| same(existing, template)) {
                    return Ok(Arc::new(existing));
                }
            }
            Err(error) => return Err(error).context("create a revision"),
        }
    }
    anyhow::bail!("{NAMES} names for a revision are taken by other templates")
}

fn fresh<O>(owner: &O, scheme: Scheme, template: &PodTemplateSpec, number: i64, collisions: i32) -> ControllerRevision
where
    O: Resource<DynamicType = ()>,
{
    let hash = scheme.hash(template, collisions);
    // Object names have at most 253 bytes, and upstream leaves 30 for the hash.
    let mut prefix = owner.name_any();
    prefix.truncate(223);
    let mut labels: BTreeMap<String, String> =
        template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    labels.insert(scheme.label().into(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{hash}")),
            namespace: owner.namespace(),
            labels: Some(labels),
            annotations: owner.meta().annotations.clone(),
            owner_references: Some(vec![controller_ref(owner)]),
            ..Default::default()
        },
        data: Some(RawExtension(data(template))),
        revision: number,
    }
}

/// Deletes the oldest of `old` revisions that no pod carries, beyond `limit` (10 when absent).
pub async fn forget_unused<O: Resource<DynamicType = ()>>(
    client: &Client,
    owner: &O,
    scheme: Scheme,
    old: &[Arc<ControllerRevision>],
    pods: &[Arc<Pod>],
    limit: Option<i32>,
) -> Result<()> {
    let api: Api<ControllerRevision> = Api::namespaced(client.clone(), &owner.namespace().unwrap_or_default());
    let in_use: Vec<&String> = pods.iter().filter_map(|p| p.labels().get(HASH)).collect();
    let idle: Vec<_> = old.iter().filter(|r| !in_use.contains(&&scheme.pod_label(r))).collect();
    let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(10);
    for revision in idle.iter().take(idle.len().saturating_sub(limit)) {
        ignore_gone(api.delete(&revision.name_any(), &DeleteParams::default()).await).context("delete a revision")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
    use serde_json::json;

    #[test]
    fn names_and_labels() {
        let template: PodTemplateSpec = serde_json::from_value(data::tests::template()).unwrap();
        let meta = json!({"metadata": {"name": "test", "namespace": "n", "uid": "u", "annotations": {"a": "b"}}});
        let set: StatefulSet = serde_json::from_value(meta.clone()).unwrap();
        let revision = fresh(&set, Scheme::StatefulSet, &template, 2, 0);
        // The name is that of upstream's own compatibility test for this template.
        assert_eq!(revision.name_any(), "test-776999688b");
        assert_eq!(revision.labels()[NAME_HASH], "776999688b");
        assert_eq!((revision.labels()["app"].as_str(), revision.annotations()["a"].as_str()), ("foo", "b"));
        assert_eq!(Scheme::StatefulSet.pod_label(&revision), "test-776999688b");
        let set: DaemonSet = serde_json::from_value(meta).unwrap();
        let revision = fresh(&set, Scheme::DaemonSet, &template, 1, 0);
        assert_eq!(revision.name_any(), format!("test-{}", revision.labels()[HASH]));
        assert_eq!(Scheme::DaemonSet.pod_label(&revision), revision.labels()[HASH]);
        assert_ne!(fresh(&set, Scheme::DaemonSet, &template, 1, 1).name_any(), revision.name_any());
    }
}
