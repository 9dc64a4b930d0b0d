//! `garbagecollector`: objects go when their owners are gone (`pkg/controller/garbagecollector`).
//!
//! ```text
//! metadata watches of all resources ─▶ Graph (who owns whom) ─▶ queue of uids ─▶ Collector ─▶ delete / patch
//! ```

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
use collector::Collector;
use graph::{Graph, Item};

type Metadata = PartialObjectMeta<DynamicObject>;

/// New resources (CRDs, aggregated ones) are looked for this often, as upstream does.
const DISCOVERY: Duration = Duration::from_secs(30);

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

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("generic-garbage-collector").await?;
    let graph = Arc::new(Mutex::new(Graph::default()));
    let queue = Queue::new();
    let resources = Arc::new(Resources::default());
    let collector = Arc::new(Collector::new(client, graph.clone(), resources.clone(), queue.clone()));
    let watching = watch_all(ctx.clone(), graph, resources, queue.clone());
    let working = queue.run("garbagecollector", 10, ctx.shutdown(), move |uid| collector.clone().sync(uid));
    tokio::join!(watching, working);
    Ok(())
}

async fn watch_all(ctx: Context, graph: Arc<Mutex<Graph>>, resources: Arc<Resources>, queue: Arc<Queue<String>>) {
    let mut watched: HashMap<ApiResource, (Arc<Store<Metadata>>, CancellationToken)> = HashMap::new();
    let (shutdown, client) = (ctx.shutdown(), ctx.root());
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
        *resources.0.write() = discovered.resources.clone();
        let wanted: Vec<ApiResource> = discovered.resources.into_iter().filter(collectable).collect();
        // A group that does not answer now keeps its watches: its objects are not gone.
        if discovered.failures.is_empty() {
            watched.retain(|resource, (store, stop)| {
                let keep = wanted.contains(resource);
                if !keep {
                    stop.cancel();
                    store.list().iter().for_each(|o| due(&queue, graph.lock().remove(uid(o))));
                }
                keep
            });
        }
        for resource in wanted {
            if watched.contains_key(&resource) {
                continue;
            }
            let stop = shutdown.child_token();
            let api: Api<Metadata> = Api::all_with(client.clone(), &resource.kube());
            let store = spawn(api, Config::default(), &stop);
            let (kind, graph, queue) = (resource.clone(), graph.clone(), queue.clone());
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
            watched.insert(resource, (store, stop));
        }
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
