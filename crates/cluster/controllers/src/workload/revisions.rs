//! ControllerRevisions: the templates a DaemonSet or StatefulSet has had (`pkg/controller/history`).

use std::sync::Arc;

use anyhow::{Context as _, Result};
use k8s_openapi::DeepMerge;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kinit_client::informer::Store;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};

use super::deployment::template_hash;
use crate::object::owner::controller_ref;
use crate::object::{ignore_gone, is_status};

/// Label of pods and revisions: which template.
pub const HASH: &str = "controller-revision-hash";

/// A workload's revisions, oldest first.
pub fn of_owner(store: &Store<ControllerRevision>, uid: &str) -> Vec<Arc<ControllerRevision>> {
    let mut all = store.controlled_by(uid);
    all.sort_by_key(|r| (r.revision, r.name_any()));
    all
}

/// The hash label's value of a revision.
pub fn hash_of(revision: &ControllerRevision) -> String {
    revision.labels().get(HASH).cloned().unwrap_or_else(|| revision.name_any())
}

/// What a revision keeps: a strategic merge patch that brings the template back.
fn data(template: &PodTemplateSpec) -> Value {
    let mut value = serde_json::to_value(template).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.insert("$patch".into(), json!("replace"));
    }
    json!({"spec": {"template": value}})
}

/// The template a revision keeps.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut value = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    value.as_object_mut()?.remove("$patch");
    serde_json::from_value(value).ok()
}

fn same(revision: &ControllerRevision, template: &PodTemplateSpec) -> bool {
    // Compared as objects: how the JSON is written does not matter.
    let normal = |t: &PodTemplateSpec| {
        let mut base = PodTemplateSpec::default();
        base.merge_from(t.clone());
        serde_json::to_value(base).unwrap_or_default()
    };
    template_of(revision).is_some_and(|kept| normal(&kept) == normal(template))
}

/// The revision of the workload's present template, made or renumbered where needed.
pub async fn current<O>(
    client: &Client,
    owner: &O,
    labels: Option<std::collections::BTreeMap<String, String>>,
    template: &PodTemplateSpec,
    all: &[Arc<ControllerRevision>],
    collisions: Option<i32>,
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
    let hash = template_hash(template, collisions);
    let mut labels = labels.unwrap_or_default();
    labels.insert(HASH.into(), hash.clone());
    let revision = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", owner.name_any())),
            namespace: Some(namespace),
            labels: Some(labels),
            owner_references: Some(vec![controller_ref(owner)]),
            ..Default::default()
        },
        data: Some(RawExtension(data(template))),
        revision: newest + 1,
    };
    match api.create(&PostParams::default(), &revision).await {
        Ok(created) => Ok(Arc::new(created)),
        Err(error) if is_status(&error, 409) => {
            // The store has not seen our own yet, or the hash belongs to another template: the next pass will know.
            let existing = api.get(&revision.name_any()).await.context("read a revision")?;
            anyhow::ensure!(same(&existing, template), "revision {} is another template's", existing.name_any());
            Ok(Arc::new(existing))
        }
        Err(error) => Err(error).context("create a revision"),
    }
}

/// Deletes the oldest of `old` revisions that no pod carries, beyond `limit` (10 when absent).
pub async fn forget_unused<O: Resource<DynamicType = ()>>(
    client: &Client,
    owner: &O,
    old: &[Arc<ControllerRevision>],
    pods: &[Arc<Pod>],
    limit: Option<i32>,
) -> Result<()> {
    let api: Api<ControllerRevision> = Api::namespaced(client.clone(), &owner.namespace().unwrap_or_default());
    let in_use: Vec<&String> = pods.iter().filter_map(|p| p.labels().get(HASH)).collect();
    let idle: Vec<_> = old.iter().filter(|r| !in_use.contains(&&hash_of(r))).collect();
    let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(10);
    for revision in idle.iter().take(idle.len().saturating_sub(limit)) {
        ignore_gone(api.delete(&revision.name_any(), &DeleteParams::default()).await).context("delete a revision")?;
    }
    Ok(())
}
