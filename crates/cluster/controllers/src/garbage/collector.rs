//! Acts on one object at a time: the graph says whom to look at, and each write holds only for the version it was
//! decided on.

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
use tokio::sync::watch;

use super::graph::{Decision, FOREGROUND, Graph, Item, ORPHAN, Owner, blocking, decide};
use super::{Resources, Watched};
use crate::discovery::ApiResource;
use crate::object::{ignore_gone, is_status};

/// How often it is looked whether all resources of an owner's dependents are listed.
const AGAIN: Duration = Duration::from_secs(5);

/// Closed while watches are listing: nobody acts on a graph that lacks what it will have in a moment.
#[derive(Clone)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    /// A closed one.
    pub fn closed() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Nobody passes from now on.
    pub fn close(&self) {
        self.0.send_replace(false);
    }

    /// Everybody passes.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Whether one can pass.
    pub fn is_open(&self) -> bool {
        *self.0.borrow()
    }

    async fn pass(&self) {
        // The sender is part of the gate.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// See the module.
pub struct Collector {
    /// Through which it acts.
    pub client: Client,
    /// Who owns whom.
    pub graph: Arc<Mutex<Graph>>,
    /// Where owners are looked up.
    pub resources: Arc<Resources>,
    /// Uids to look at.
    pub queue: Arc<Queue<String>>,
    /// While it is open.
    pub gate: Gate,
    /// What is listed.
    pub watched: Arc<Watched>,
}

impl Collector {
    fn api(&self, resource: &ApiResource, namespace: &str) -> Api<DynamicObject> {
        if resource.namespaced {
            Api::namespaced_with(self.client.clone(), namespace, &resource.kube())
        } else {
            Api::all_with(self.client.clone(), &resource.kube())
        }
    }

    /// Looks at one object.
    pub async fn sync(self: Arc<Self>, uid: String) -> Result<Option<Duration>> {
        self.gate.pass().await;
        let (item, dependents) = {
            let graph = self.graph.lock();
            let Some(item) = graph.get(&uid).cloned() else { return Ok(None) };
            (item, graph.dependents(&uid))
        };
        if item.deleting && !item.foreground && !item.orphan {
            return Ok(None);
        }
        let api = self.api(&item.resource, &item.namespace);
        if !item.deleting {
            // What the watch showed is enough: each write names the version it was decided on.
            match self.judge(&api, &item, &dependents).await {
                Err(error) if is_conflict(&error) => {}
                done => return done,
            }
        }
        let Some(live) = live(&api, &item.name).await? else { return Ok(None) };
        if live.uid.as_deref() != Some(&uid) {
            return Ok(None);
        }
        let item = Item::of(&item.resource, &live);
        if (item.orphan || item.foreground)
            && let Some(missing) = self.watched.missing(&item.resource)
        {
            let (namespace, name) = (&item.namespace, &item.name);
            tracing::warn!(namespace, name, missing, "an owner waits until a resource of its dependents can be listed");
            return Ok(Some(AGAIN));
        }
        let dependents = self.graph.lock().dependents(&uid);
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
        self.judge(&api, &item, &dependents).await
    }

    async fn judge(&self, api: &Api<DynamicObject>, item: &Item, dependents: &[Item]) -> Result<Option<Duration>> {
        let mut owners = Vec::with_capacity(item.owners.len());
        for reference in &item.owners {
            owners.push((reference.clone(), self.look_up(reference, item).await?));
        }
        match decide(&owners, dependents) {
            Decision::Leave => {}
            Decision::KeepOwners(kept) => {
                patch_owners(api, item, &kept).await?;
            }
            Decision::Delete { foreground, unblock } => {
                let mut version = item.version.clone();
                if unblock {
                    let freed: Vec<OwnerReference> = item
                        .owners
                        .iter()
                        .map(|o| OwnerReference { block_owner_deletion: Some(false), ..o.clone() })
                        .collect();
                    let Some(patched) = patch_owners(api, item, &freed).await? else { return Ok(None) };
                    version = patched;
                }
                self.delete(api, item, foreground, version).await?;
            }
        }
        Ok(None)
    }

    async fn delete(&self, api: &Api<DynamicObject>, item: &Item, foreground: bool, version: String) -> Result<()> {
        let policy = match item.asks {
            _ if foreground => PropagationPolicy::Foreground,
            Some(FOREGROUND) => PropagationPolicy::Foreground,
            Some(_) => PropagationPolicy::Orphan,
            None => PropagationPolicy::Background,
        };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions { uid: Some(item.uid.clone()), resource_version: Some(version) }),
            ..Default::default()
        };
        ignore_gone(api.delete(&item.name, &params).await)
            .with_context(|| format!("delete {} {}/{}", item.resource.plural, item.namespace, item.name))?;
        tracing::info!(resource = item.resource.plural, namespace = item.namespace, name = item.name, "collected");
        Ok(())
    }

    /// Whether an owner is there. Only the API server's own answer makes it gone.
    async fn look_up(&self, reference: &OwnerReference, dependent: &Item) -> Result<Owner> {
        let (known, absent) = {
            let graph = self.graph.lock();
            (graph.get(&reference.uid).cloned(), graph.absent.contains(reference, &dependent.namespace))
        };
        if absent {
            return Ok(Owner::Gone);
        }
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
            // A mistake of whoever wrote it; deleting would not correct it.
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
            _ => {
                self.graph.lock().absent.not_found(reference, &dependent.namespace);
                Owner::Gone
            }
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
            patch_owners(&api, &Item::of(&dependent.resource, &meta), &kept).await?;
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

/// Writes the owners of the item's version; the version after that, or `None` when the object is gone.
async fn patch_owners(api: &Api<DynamicObject>, item: &Item, owners: &[OwnerReference]) -> Result<Option<String>> {
    let patch = json!({"metadata": {"uid": item.uid, "resourceVersion": item.version, "ownerReferences": owners}});
    let patched = ignore_gone(api.patch_metadata(&item.name, &PatchParams::default(), &Patch::Merge(patch)).await)
        .with_context(|| format!("change the owners of {}", item.name))?;
    Ok(patched.and_then(|object| object.metadata.resource_version))
}

fn is_conflict(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<kube::Error>().is_some_and(|e| is_status(e, 409)))
}

async fn drop_finalizer(api: &Api<DynamicObject>, live: &ObjectMeta, finalizer: &str) -> Result<Option<Duration>> {
    let name = live.name.clone().unwrap_or_default();
    let kept: Vec<&String> = live.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
    let patch = json!({"metadata": {"uid": live.uid, "resourceVersion": live.resource_version, "finalizers": kept}});
    ignore_gone(api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(patch)).await)
        .with_context(|| format!("take finalizer {finalizer} from {name}"))?;
    Ok(None)
}
