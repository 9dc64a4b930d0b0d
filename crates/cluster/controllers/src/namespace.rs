//! `namespace`: empties namespaces that are deleted, then lets them go (`pkg/controller/namespace/deletion`).
//!
//! ```text
//! deleted ─▶ pods ──▶ nothing of them left? ──▶ all other resources ──▶ nothing left? ──▶ finalize
//!              └── watch them ── gone ─▶ again      └── watch what is left ── gone ─▶ again
//! ```
//!
//! Pods go first, so that none of them runs on without the NetworkPolicy or Secret it was given
//! (OrderedNamespaceDeletion).

mod conditions;
mod remains;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Namespace;
use kinit_client::informer::{Change, Store};
use kinit_client::queue::Queue;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::{Client, ResourceExt};

use crate::context::Context;
use crate::discovery::{ApiResource, discover};
use crate::object::is_status;
use conditions::{Findings, with_conditions};
use remains::Remains;

const FINALIZER: &str = "kubernetes";
/// What is left is watched; should a deletion have been undone or a watch be blind, a look now and then still helps.
const AGAIN: Duration = Duration::from_secs(300);

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("namespace-controller").await?;
    let namespaces = ctx.store::<Namespace>();
    let queue = Queue::new();
    let handler = queue.clone();
    namespaces.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) && begins(change.old().map(|n| &**n), change.object()) {
            handler.add(change.object().name_any());
        }
    });
    // The controller's own account may not watch everything; upstream's may neither.
    let remains = Remains::new(ctx.root(), queue.clone(), ctx.shutdown());
    let work = Arc::new(Deletion { client, namespaces, remains });
    queue.run("namespace", 10, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

/// A deletion begins, or somebody has let the namespace go; what the controller itself writes is no news.
fn begins(old: Option<&Namespace>, new: &Namespace) -> bool {
    let finalizers = |n: &Namespace| n.spec.as_ref().and_then(|s| s.finalizers.clone());
    let deleting = |n: &Namespace| n.metadata.deletion_timestamp.is_some();
    deleting(new) && old.is_none_or(|old| !deleting(old) || finalizers(old) != finalizers(new))
}

struct Deletion {
    client: Client,
    namespaces: Arc<Store<Namespace>>,
    remains: Remains,
}

impl Deletion {
    async fn sync(self: Arc<Self>, name: String) -> Result<Option<Duration>> {
        let Some(namespace) = self.namespaces.get(&name) else { return Ok(None) };
        let finalizers: Vec<String> = namespace.spec.as_ref().and_then(|s| s.finalizers.clone()).unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|f| f == FINALIZER) {
            return Ok(None);
        }
        let (findings, left) = self.empty(&name).await?;
        let api: Api<Namespace> = Api::all(self.client.clone());
        if let Some(updated) = with_conditions(&namespace, &findings, &crate::object::now()) {
            match api.replace_status(&name, &PostParams::default(), &updated).await {
                Ok(_) => {}
                Err(error) if is_status(&error, 404) => return Ok(None),
                Err(error) => return Err(error).with_context(|| format!("write the conditions of namespace {name}")),
            }
        }
        let waits = !left.is_empty();
        if waits {
            self.remains.watch(&name, left);
        }
        let failures = findings.failures();
        anyhow::ensure!(failures.is_empty(), "empty namespace {name}: {failures}");
        if waits {
            return Ok(Some(AGAIN));
        }
        // A fresh read: the finalizers of others must stay.
        let Some(mut fresh) = api.get_opt(&name).await? else { return Ok(None) };
        if let Some(spec) = fresh.spec.as_mut()
            && let Some(finalizers) = spec.finalizers.as_mut()
        {
            finalizers.retain(|f| f != FINALIZER);
        }
        let done: Result<Namespace, _> =
            api.replace_subresource("finalize", &name, &PostParams::default(), &fresh).await;
        match done {
            Err(error) if is_status(&error, 404) => {}
            done => {
                done.with_context(|| format!("finalize namespace {name}"))?;
                tracing::info!(namespace = name, "emptied");
            }
        }
        Ok(None)
    }

    /// Deletes what is in the namespace, as far as it is its turn; what was found and which resources have objects
    /// left.
    async fn empty(&self, namespace: &str) -> Result<(Findings, Vec<ApiResource>)> {
        let discovered = discover(&self.client).await.context("list the API groups")?;
        let mut findings = Findings { discovery: discovered.failures, ..Default::default() };
        let deletable = |r: &&ApiResource| r.namespaced && r.can("list") && r.can("delete");
        let (pods, others): (Vec<_>, Vec<_>) = discovered.resources.iter().filter(deletable).partition(|r| is_pods(r));
        let mut left = Vec::new();
        for turn in [pods, others] {
            for resource in turn {
                match self.delete_all(namespace, resource).await {
                    Ok(objects) if objects.is_empty() => {}
                    Ok(objects) => {
                        findings.add(resource, &objects);
                        left.push(resource.clone());
                    }
                    Err(error) => findings.content.push(format!("{}: {error}", resource.qualified())),
                }
            }
            if !left.is_empty() || !findings.content.is_empty() {
                break;
            }
        }
        Ok((findings, left))
    }

    async fn delete_all(
        &self,
        namespace: &str,
        resource: &ApiResource,
    ) -> Result<Vec<PartialObjectMeta<DynamicObject>>, kube::Error> {
        let kind = resource.kube();
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &kind);
        let list = |api: Api<DynamicObject>| async move {
            match api.list_metadata(&ListParams::default()).await {
                Err(error) if is_status(&error, 404) || is_status(&error, 405) => Ok(Vec::new()),
                list => list.map(|list| list.items),
            }
        };
        let present = list(api.clone()).await?;
        if present.is_empty() {
            return Ok(present);
        }
        let params = DeleteParams::background();
        let mut one_by_one = !resource.can("deletecollection");
        if !one_by_one {
            match api.delete_collection(&params, &ListParams::default()).await {
                Ok(_) => {}
                Err(error) if is_status(&error, 405) || is_status(&error, 404) => one_by_one = true,
                Err(error) => return Err(error),
            }
        }
        if one_by_one {
            for object in present.iter().filter(|o| o.metadata.deletion_timestamp.is_none()) {
                match api.delete(&object.name_any(), &params).await {
                    Err(error) if !is_status(&error, 404) => return Err(error),
                    _ => {}
                }
            }
        }
        list(api).await
    }
}

fn is_pods(resource: &ApiResource) -> bool {
    resource.group.is_empty() && resource.plural == "pods"
}
