//! `endpointslice`: writes the changes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kinit_client::events::Recorder;
use kinit_client::informer::{Change, Store, key_of, split_key};
use kinit_client::queue::Queue;
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, ResourceExt};

use super::reconcile::{Changes, MANAGED_BY, MANAGER, SERVICE_NAME, reconcile};
use super::{selected, selector, watch};
use crate::context::Context;
use crate::object::{ignore_gone, is_status};
use crate::workload::expectations::Expectations;
use crate::workload::pods::{brief, is_terminating};

const BY_SERVICE: &str = "service";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("endpointslice-controller").await?;
    let (services, pods, nodes) = (ctx.store::<Service>(), ctx.store::<Pod>(), ctx.store::<Node>());
    let slices = ctx.store::<EndpointSlice>();
    slices.index(BY_SERVICE, |s| owner_key(s, MANAGER).into_iter().collect());
    let (queue, expectations) = (Queue::new(), Arc::new(Expectations::default()));
    pods.synced().await;
    nodes.synced().await;
    services.synced().await;
    slices.synced().await;
    watch(&services, &pods, &queue);
    watch_slices(&slices, &queue, &expectations, MANAGER);
    let (on_node, all) = (queue.clone(), services.clone());
    nodes.on_change(move |change| {
        let zone = |n: &Node| n.labels().get(ZONE).cloned();
        let same = change.old().is_some_and(|old| zone(old) == zone(change.object()));
        if !same {
            all.list().iter().for_each(|s| on_node.add(key_of(&**s)));
        }
    });
    let recorder = ctx.recorder(client.clone(), "endpoint-slice-controller");
    let work = Arc::new(Controller { client, services, pods, nodes, slices, recorder, expectations });
    queue.run("endpointslice", 5, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

/// Makes the Services due whose slices, kept by `manager`, change.
pub fn watch_slices(
    slices: &Arc<Store<EndpointSlice>>,
    queue: &Arc<Queue<String>>,
    expectations: &Arc<Expectations>,
    manager: &'static str,
) {
    let (queue, seen) = (queue.clone(), expectations.clone());
    slices.on_change(move |change| {
        let Some(key) = owner_key(change.object(), manager) else { return };
        if matches!(change, Change::Added(_)) {
            seen.created(&key);
        }
        queue.add(key);
    });
}

/// The key of the Service of a slice that `manager` keeps.
pub fn owner_key(slice: &EndpointSlice, manager: &str) -> Option<String> {
    let labels = slice.labels();
    let ours = labels.get(MANAGED_BY).map(String::as_str) == Some(manager);
    let service = labels.get(SERVICE_NAME).filter(|_| ours)?;
    Some(format!("{}/{service}", slice.namespace().unwrap_or_default()))
}

struct Controller {
    client: Client,
    services: Arc<Store<Service>>,
    pods: Arc<Store<Pod>>,
    nodes: Arc<Store<Node>>,
    slices: Arc<Store<EndpointSlice>>,
    recorder: Recorder,
    expectations: Arc<Expectations>,
}

impl Controller {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(service) = self.services.get(&key) else {
            // Its slices are its dependents: the garbage collector takes them.
            self.expectations.forget(&key);
            return Ok(None);
        };
        if selector(&service).is_none() || service.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        // Our own creations must be seen first, or there would be two of each. They come as events.
        if !self.expectations.satisfied(&key) {
            return Ok(None);
        }
        let pods = selected(&service, &self.pods);
        let existing = self.slices.by_index(BY_SERVICE, &key);
        let zone_of = |node: &str| self.nodes.get(node).and_then(|n| n.labels().get(ZONE).cloned());
        let changes = reconcile(&service, &pods, &zone_of, &existing);
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), split_key(&key).0);
        let failure = write(&api, &changes, &self.expectations, &key).await.err();
        match failure {
            None => Ok(None),
            Some(error) => {
                if !is_status(&error, 409) {
                    let note = format!("Error updating Endpoint Slices for Service {key}: {}", brief(&error));
                    self.recorder.warning(&*service, "FailedToUpdateEndpointSlices", note);
                }
                Err(error).context("write endpoint slices")
            }
        }
    }
}

/// Writes the changes of the slices of `key`'s owner; goes on after a failure and returns the first.
pub async fn write(
    api: &Api<EndpointSlice>,
    changes: &Changes,
    expectations: &Expectations,
    key: &str,
) -> Result<(), kube::Error> {
    let mut failure = None;
    expectations.expect_creations(key, changes.create.len());
    for slice in &changes.create {
        if let Err(error) = api.create(&PostParams::default(), slice).await {
            expectations.created(key);
            if !is_terminating(&error) {
                failure = failure.or(Some(error));
            }
        }
    }
    for slice in &changes.update {
        if let Err(error) = ignore_gone(api.replace(&slice.name_any(), &PostParams::default(), slice).await) {
            failure = failure.or(Some(error));
        }
    }
    for name in &changes.delete {
        if let Err(error) = ignore_gone(api.delete(name, &DeleteParams::default()).await) {
            failure = failure.or(Some(error));
        }
    }
    failure.map_or(Ok(()), Err)
}
