//! `garbagecollector`: objects go when their owners are gone (`pkg/controller/garbagecollector`).
//!
//! ```text
//! metadata watches of all resources ─▶ Graph (who owns whom) ─▶ queue of uids ─▶ Collector ─▶ delete / patch
//!                                 └─ all listed? ─ gate ────────────────────────▶┘
//! ```
//!
//! Nobody acts before all watches have had their first list, or a while has passed: a resource that cannot be listed
//! must not stop all others. An owner that waits for its dependents, or is to let them go, waits on until every
//! resource is listed in which it may have some: it would go as one that has none.

mod absent;
mod collector;
mod graph;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use kinit_client::informer::{Change, Store, spawn};
use kinit_client::queue::Queue;
use kube::Api;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::watcher::Config;
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::discovery::{ApiResource, discover};
use collector::{Collector, Gate};
use graph::{Graph, Item};

type Metadata = PartialObjectMeta<DynamicObject>;

/// New resources (CRDs, aggregated ones) are looked for this often, as upstream does.
const DISCOVERY: Duration = Duration::from_secs(30);
/// A resource that cannot be listed holds all others up for so long (`initialSyncTimeout`).
const FIRST_LISTS: Duration = Duration::from_secs(30);

/// The resources known now, for looking owners up.
#[derive(Default)]
pub struct Resources(RwLock<Vec<ApiResource>>);

impl Resources {
    /// The resource of an owner reference, whatever version it names.
    pub fn of(&self, api_version: &str, kind: &str) -> Option<ApiResource> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        self.0.read().iter().find(|r| r.group == group && r.kind == kind).cloned()
    }
}

/// What is known of a resource, and what ends its watch.
type Watch = (Arc<Store<Metadata>>, CancellationToken);

/// The watches by resource.
#[derive(Default)]
pub struct Watched(Mutex<HashMap<ApiResource, Watch>>);

impl Watched {
    /// The stores, with the names of their resources.
    fn stores(&self) -> Vec<(String, Arc<Store<Metadata>>)> {
        self.0.lock().iter().map(|(resource, (store, _))| (resource.qualified(), store.clone())).collect()
    }

    /// A resource that has not been listed yet, and of which the owner may own objects.
    pub fn missing(&self, owner: &ApiResource) -> Option<String> {
        let watched = self.0.lock();
        let mut late = watched.iter().filter(|(_, (store, _))| !store.is_synced()).map(|(resource, _)| resource);
        late.find(|resource| may_own(owner.namespaced, resource.namespaced)).map(ApiResource::qualified)
    }
}

/// What is in a namespace owns nothing outside of it.
fn may_own(owner_namespaced: bool, dependent_namespaced: bool) -> bool {
    dependent_namespaced || !owner_namespaced
}

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("generic-garbage-collector").await?;
    let graph = Arc::new(Mutex::new(Graph::default()));
    let queue = Queue::new();
    let resources = Arc::new(Resources::default());
    let gate = Gate::closed();
    let watched = Arc::new(Watched::default());
    let collector = Arc::new(Collector {
        client,
        graph: graph.clone(),
        resources: resources.clone(),
        queue: queue.clone(),
        gate: gate.clone(),
        watched: watched.clone(),
    });
    let mut monitors = Monitors { ctx: ctx.clone(), graph, resources, queue: queue.clone(), gate, watched };
    let watching = monitors.run();
    let working = queue.run("garbagecollector", 20, ctx.shutdown(), move |uid| collector.clone().sync(uid));
    tokio::join!(watching, working);
    Ok(())
}

/// The watches that feed the graph.
struct Monitors {
    ctx: Context,
    graph: Arc<Mutex<Graph>>,
    resources: Arc<Resources>,
    queue: Arc<Queue<String>>,
    gate: Gate,
    watched: Arc<Watched>,
}

impl Monitors {
    async fn run(&mut self) {
        let (shutdown, client) = (self.ctx.shutdown(), self.ctx.root());
        let mut tick = tokio::time::interval(DISCOVERY);
        loop {
            tokio::select! { () = shutdown.cancelled() => return, _ = tick.tick() => {} }
            let discovered = match discover(&client).await {
                Ok(discovered) => discovered,
                Err(error) => {
                    tracing::warn!(%error, "list the API groups");
                    tick.reset_after(Duration::from_secs(2));
                    continue;
                }
            };
            *self.resources.0.write() = discovered.resources.clone();
            let wanted: Vec<ApiResource> = discovered.resources.into_iter().filter(collectable).collect();
            // A group that does not answer now keeps its watches: its objects are not gone.
            if discovered.failures.is_empty() {
                self.forget_all_but(&wanted);
            }
            let fresh: Vec<ApiResource> =
                wanted.into_iter().filter(|r| !self.watched.0.lock().contains_key(r)).collect();
            if !fresh.is_empty() || !self.gate.is_open() {
                self.gate.close();
                fresh.into_iter().for_each(|resource| self.watch(resource));
                tokio::select! { () = shutdown.cancelled() => return, () = self.listed() => {} }
                self.gate.open();
            }
        }
    }

    /// Waits for the first lists of all watches.
    async fn listed(&self) {
        let stores = self.watched.stores();
        let all = futures::future::join_all(stores.iter().map(|(_, store)| store.synced()));
        if tokio::time::timeout(FIRST_LISTS, all).await.is_err() {
            let late = stores.iter().filter(|(_, store)| !store.is_synced());
            let late: Vec<&str> = late.map(|(resource, _)| resource.as_str()).collect();
            tracing::warn!(resources = late.join(" "), "collecting without resources that cannot be listed");
        }
    }

    fn forget_all_but(&mut self, wanted: &[ApiResource]) {
        let (graph, queue) = (&self.graph, &self.queue);
        self.watched.0.lock().retain(|resource, (store, stop)| {
            let keep = wanted.contains(resource);
            if !keep {
                stop.cancel();
                store.list().iter().for_each(|o| due(queue, graph.lock().forget(uid(o))));
            }
            keep
        });
    }

    fn watch(&mut self, resource: ApiResource) {
        let stop = self.ctx.shutdown().child_token();
        let api: Api<Metadata> = Api::all_with(self.ctx.root(), &resource.kube());
        let store = spawn(api, Config::default(), &stop);
        let (kind, graph, queue) = (resource.clone(), self.graph.clone(), self.queue.clone());
        store.on_change(move |change| {
            let mut graph = graph.lock();
            match change {
                Change::Deleted(object) => due(&queue, graph.remove(uid(object))),
                Change::Updated { old, new } if old.metadata.uid != new.metadata.uid => {
                    due(&queue, graph.remove(uid(old)));
                    due(&queue, graph.put(Item::of(&kind, &new.metadata)));
                }
                _ => due(&queue, graph.put(Item::of(&kind, &change.object().metadata))),
            }
        });
        self.watched.0.lock().insert(resource, (store, stop));
    }
}

fn uid(object: &Metadata) -> &str {
    object.metadata.uid.as_deref().unwrap_or_default()
}

fn due(queue: &Queue<String>, uids: Vec<String>) {
    uids.into_iter().for_each(|uid| queue.add(uid));
}

/// Objects that can own or be owned; events are too many and own nothing, as upstream leaves them out.
fn collectable(resource: &ApiResource) -> bool {
    let event = resource.plural == "events" && (resource.group.is_empty() || resource.group == "events.k8s.io");
    !event && ["list", "watch", "delete"].iter().all(|verb| resource.can(verb))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_in_the_same_namespace_or_in_none() {
        for (owner, dependent, may) in
            [(true, true, true), (true, false, false), (false, true, true), (false, false, true)]
        {
            assert_eq!(may_own(owner, dependent), may, "{owner} {dependent}");
        }
    }
}
