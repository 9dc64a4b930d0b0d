//! Acts on one object at a time, always on a fresh look at it: the graph says whom to look at, the API server what is.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kinit_client::queue::Queue;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::DynamicObject;
use parking_lot::Mutex;
use serde_json::json;

use super::Resources;
use super::graph::{Decision, FOREGROUND, Graph, Item, ORPHAN, Owner, blocking, decide};
use crate::discovery::ApiResource;
use crate::object::{ignore_gone, is_status};

/// See the module.
pub struct Collector {
    client: Client,
    graph: Arc<Mutex<Graph>>,
    resources: Arc<Resources>,
    queue: Arc<Queue<String>>,
}

impl Collector {
    /// Acts through `client`.
    pub fn new(client: Client, graph: Arc<Mutex<Graph>>, resources: Arc<Resources>, queue: Arc<Queue<String>>) -> Self {
        Self { client, graph, resources, queue }
    }

    fn api(&self, resource: &ApiResource, namespace: &str) -> Api<DynamicObject> {
        if resource.namespaced {
            Api::namespaced_with(self.client.clone(), namespace, &resource.kube())
        } else {
            Api::all_with(self.client.clone(), &resource.kube())
        }
    }

    /// Looks at one object.
    pub async fn sync(self: Arc<Self>, uid: String) -> Result<Option<Duration>> {
        let (item, dependents) = {
            let graph = self.graph.lock();
            let Some(item) = graph.get(&uid).cloned() else { return Ok(None) };
            (item, graph.dependents(&uid))
        };
        if item.deleting && !item.foreground && !item.orphan {
            return Ok(None);
        }
        let api = self.api(&item.resource, &item.namespace);
        let Some(live) = live(&api, &item.name).await? else { return Ok(None) };
        if live.uid.as_deref() != Some(&uid) {
            return Ok(None);
        }
        let item = Item::of(&item.resource, &live);
        if item.orphan {
            self.let_go(&item, &dependents).await?;
            return drop_finalizer(&api, &live, ORPHAN).await;
        }
        if item.foreground {
            let mut waits = false;
            for dependent in blocking(&uid, &dependents) {
                waits = true;
                if !dependent.foreground {
                    self.queue.add(dependent.uid.clone());
                }
            }
            return if waits { Ok(None) } else { drop_finalizer(&api, &live, FOREGROUND).await };
        }
        if item.deleting {
            return Ok(None);
        }
        self.judge(&api, &item, &live, &dependents).await
    }

    async fn judge(
        &self,
        api: &Api<DynamicObject>,
        item: &Item,
        live: &ObjectMeta,
        dependents: &[Item],
    ) -> Result<Option<Duration>> {
        let mut owners = Vec::with_capacity(item.owners.len());
        for reference in &item.owners {
            owners.push((reference.clone(), self.look_up(reference, item).await?));
        }
        match decide(&owners, dependents) {
            Decision::Leave => {}
            Decision::KeepOwners(kept) => patch_owners(api, live, &kept).await?,
            Decision::Delete { foreground, unblock } => {
                if unblock {
                    let freed: Vec<OwnerReference> = item
                        .owners
                        .iter()
                        .map(|o| OwnerReference { block_owner_deletion: Some(false), ..o.clone() })
                        .collect();
                    patch_owners(api, live, &freed).await?;
                }
                let has = |finalizer: &str| live.finalizers.iter().flatten().any(|f| f == finalizer);
                let policy = match () {
                    () if foreground || has(FOREGROUND) => PropagationPolicy::Foreground,
                    () if has(ORPHAN) => PropagationPolicy::Orphan,
                    () => PropagationPolicy::Background,
                };
                let params = DeleteParams {
                    propagation_policy: Some(policy),
                    preconditions: Some(Preconditions { uid: live.uid.clone(), resource_version: None }),
                    ..Default::default()
                };
                ignore_gone(api.delete(&item.name, &params).await)
                    .with_context(|| format!("delete {} {}/{}", item.resource.plural, item.namespace, item.name))?;
                tracing::info!(
                    resource = item.resource.plural,
                    namespace = item.namespace,
                    name = item.name,
                    "collected"
                );
            }
        }
        Ok(None)
    }

    /// Whether an owner is there. Only the API server's own answer makes it gone.
    async fn look_up(&self, reference: &OwnerReference, dependent: &Item) -> Result<Owner> {
        let known = self.graph.lock().get(&reference.uid).cloned();
        if let Some(owner) = known {
            let visible = !owner.resource.namespaced || owner.namespace == dependent.namespace;
            if visible {
                return Ok(if owner.foreground { Owner::Waiting } else { Owner::Solid });
            }
        }
        let Some(resource) = self.resources.of(&reference.api_version, &reference.kind) else {
            anyhow::bail!("owner {} {}: no such kind", reference.api_version, reference.kind);
        };
        if resource.namespaced && dependent.namespace.is_empty() {
            // A mistake of whoever wrote it; deleting would not mend it.
            tracing::debug!(
                name = dependent.name,
                owner = reference.name,
                "cluster-wide object with a namespaced owner"
            );
            return Ok(Owner::Solid);
        }
        let api = self.api(&resource, &dependent.namespace);
        Ok(match live(&api, &reference.name).await? {
            Some(meta) if meta.uid.as_deref() == Some(&reference.uid) => {
                if Item::of(&resource, &meta).foreground {
                    Owner::Waiting
                } else {
                    Owner::Solid
                }
            }
            _ => Owner::Gone,
        })
    }

    /// Takes the owner out of its dependents' references.
    async fn let_go(&self, owner: &Item, dependents: &[Item]) -> Result<()> {
        for dependent in dependents {
            let api = self.api(&dependent.resource, &dependent.namespace);
            let Some(meta) = live(&api, &dependent.name).await? else { continue };
            if meta.uid.as_deref() != Some(&dependent.uid) {
                continue;
            }
            let kept: Vec<OwnerReference> =
                meta.owner_references.iter().flatten().filter(|o| o.uid != owner.uid).cloned().collect();
            patch_owners(&api, &meta, &kept).await?;
        }
        Ok(())
    }
}

async fn live(api: &Api<DynamicObject>, name: &str) -> Result<Option<ObjectMeta>> {
    match api.get_metadata(name).await {
        Ok(object) => Ok(Some(object.metadata)),
        Err(error) if is_status(&error, 404) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("look at {name}")),
    }
}

async fn patch_owners(api: &Api<DynamicObject>, live: &ObjectMeta, owners: &[OwnerReference]) -> Result<()> {
    let name = live.name.clone().unwrap_or_default();
    let patch =
        json!({"metadata": {"uid": live.uid, "resourceVersion": live.resource_version, "ownerReferences": owners}});
    ignore_gone(api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(patch)).await)
        .with_context(|| format!("change the owners of {name}"))?;
    Ok(())
}

async fn drop_finalizer(api: &Api<DynamicObject>, live: &ObjectMeta, finalizer: &str) -> Result<Option<Duration>> {
    let name = live.name.clone().unwrap_or_default();
    let kept: Vec<&String> = live.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
    let patch = json!({"metadata": {"uid": live.uid, "resourceVersion": live.resource_version, "finalizers": kept}});
    ignore_gone(api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(patch)).await)
        .with_context(|| format!("take finalizer {finalizer} from {name}"))?;
    Ok(None)
}
