//! `namespace`: empties namespaces that are being deleted and lets them go (`pkg/controller/namespace/deletion`).

mod conditions;

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

const FINALIZER: &str = "kubernetes";
/// How long to wait before looking again at what is ending by itself; pods mostly.
const AGAIN: Duration = Duration::from_secs(2);

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("namespace-controller").await?;
    let namespaces = ctx.store::<Namespace>();
    let queue = Queue::new();
    let handler = queue.clone();
    namespaces.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) && change.object().metadata.deletion_timestamp.is_some() {
            handler.add(change.object().name_any());
        }
    });
    let work = Arc::new(Deletion { client, namespaces });
    queue.run("namespace", 10, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

struct Deletion {
    client: Client,
    namespaces: Arc<Store<Namespace>>,
}

impl Deletion {
    async fn sync(self: Arc<Self>, name: String) -> Result<Option<Duration>> {
        let Some(namespace) = self.namespaces.get(&name) else { return Ok(None) };
        let finalizers: Vec<String> = namespace.spec.as_ref().and_then(|s| s.finalizers.clone()).unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|f| f == FINALIZER) {
            return Ok(None);
        }
        let findings = self.empty(&name).await?;
        let api: Api<Namespace> = Api::all(self.client.clone());
        if let Some(updated) = with_conditions(&namespace, &findings, &crate::object::now()) {
            match api.replace_status(&name, &PostParams::default(), &updated).await {
                Ok(_) => {}
                Err(error) if is_status(&error, 404) => return Ok(None),
                // Its next version is on the way.
                Err(error) if is_status(&error, 409) => return Ok(Some(Duration::from_millis(100))),
                Err(error) => return Err(error).with_context(|| format!("write the conditions of namespace {name}")),
            }
        }
        if !findings.is_clean() {
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

    /// Deletes everything in the namespace and says what is left.
    async fn empty(&self, namespace: &str) -> Result<Findings> {
        let discovered = discover(&self.client).await.context("list the API groups")?;
        let mut findings = Findings { discovery: discovered.failures, ..Default::default() };
        for resource in discovered.resources.iter().filter(|r| r.namespaced && r.can("list") && r.can("delete")) {
            match self.delete_all(namespace, resource).await {
                Ok(left) => findings.add(resource, &left),
                Err(error) => findings.content.push(format!("{}: {error}", resource.qualified())),
            }
        }
        Ok(findings)
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
