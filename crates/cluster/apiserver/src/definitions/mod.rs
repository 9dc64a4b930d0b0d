//! Custom resources: what definitions say is served, while they are there
//! (`k8s.io/apiextensions-apiserver/pkg/apiserver` and its controllers).
//!
//! ```text
//! watch cache of definitions ── model   a definition as it is used, parsed once
//!                                 ├─ names    which names it gets; conditions, written by compare-and-swap
//!                                 ├─ build    descriptors, and how the store reads its objects
//!                                 │            ├─ kind     strategy: validation by schema
//!                                 │            │   └─ rules   in CEL
//!                                 │            └─ convert  between versions, by a webhook where one is named
//!                                 └─ cleanup  its objects go before it does
//! ```
//! Every server follows the definitions for itself and comes to the same result. Who asks a server for a resource that
//! it does not know yet waits until it has seen all definitions there are.

mod build;
mod cleanup;
mod convert;
mod kind;
mod model;
mod names;
mod rules;
pub(crate) mod version;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use kinit_apimachinery::ApiError;
use kinit_component_base::supervise;
use kinit_storage::{Cache, Entry, ResourceSpec, Updated};
use parking_lot::Mutex;
use tokio::sync::watch;

use self::build::Serving;
pub(crate) use self::build::value_at;
use self::model::Definition;
pub(crate) use self::model::{APPROVAL, FINALIZER};
pub(crate) use self::names::approval_problem;
pub(crate) use self::rules::check_rules;
use crate::registry::cached;
use crate::resources::Descriptor;
use crate::server::Server;

/// Where definitions are stored.
pub const PREFIX: &str = "apiextensions.k8s.io/customresourcedefinitions/";
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// The longest pause after panics while the objects of a definition are deleted.
const AFTER_PANIC: Duration = Duration::from_secs(60);
/// How long a request for an unknown resource waits for definitions to be seen.
const PATIENCE: Duration = Duration::from_secs(1);
/// Resources whose objects are read at the same time when a server starts.
const AT_ONCE: usize = 16;

/// What requests know of the definitions.
#[derive(Default)]
pub struct Definitions {
    /// How often somebody asked that all be seen.
    asked: watch::Sender<u64>,
    /// Up to which of these questions all were seen.
    seen: watch::Sender<u64>,
    /// Whether they were seen once.
    ready: AtomicBool,
}

impl Definitions {
    /// Whether the definitions that were there at the start are served.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Waits until all definitions that were written before this call are served, or for a moment.
    pub async fn settle(&self, server: &Server) {
        let settled = async {
            if server.store.catch_up().await.is_err() {
                return;
            }
            let mut number = 0;
            self.asked.send_modify(|asked| {
                *asked += 1;
                number = *asked;
            });
            // The sender is part of the server.
            let _ = self.seen.subscribe().wait_for(|seen| *seen >= number).await;
        };
        let _ = tokio::time::timeout(PATIENCE, settled).await;
    }
}

/// Follows the definitions for as long as the server runs.
pub async fn follow(server: &Arc<Server>) {
    server.store.wait_ready().await;
    let Some(cache) = server.store.cache(PREFIX) else { return };
    let (mut changes, mut asked) = (cache.changes(), server.definitions.asked.subscribe());
    let mut follower =
        Follower { server: server.clone(), known: BTreeMap::new(), settled: false, cleaning: Arc::default() };
    loop {
        changes.borrow_and_update();
        let number = *asked.borrow_and_update();
        let complete = follower.sync(&cache).await;
        server.definitions.seen.send_if_modified(|seen| std::mem::replace(seen, number.max(*seen)) < number);
        if complete {
            server.definitions.ready.store(true, Ordering::Relaxed);
        }
        let retry = async {
            match complete {
                true => std::future::pending().await,
                false => tokio::time::sleep(RETRY).await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            changed = asked.changed() => if changed.is_err() { return },
            () = retry => {}
        }
    }
}

struct Known {
    definition: Arc<Definition>,
    serving: Option<Arc<Serving>>,
}

struct Follower {
    server: Arc<Server>,
    known: BTreeMap<Box<str>, Known>,
    /// Whether all that is known was done.
    settled: bool,
    /// Definitions whose objects are being deleted.
    cleaning: Arc<Mutex<HashMap<String, String>>>,
}

impl Follower {
    /// Takes over what the cache has; whether all of it could be done.
    async fn sync(&mut self, cache: &Cache) -> bool {
        // One that cannot be read is served as it was; nobody else gets its names.
        let (entries, _) = cache.all_last_known("", |_| true);
        let (gone, changed) = self.read(&entries);
        if self.settled && !changed {
            return true;
        }
        let mut complete = self.write_status(cache, &entries).await;
        let before: Vec<Arc<Serving>> = self.known.values().filter_map(|k| k.serving.clone()).collect();
        complete &= self.serve(cache).await;
        let after: Vec<Arc<Serving>> = self.known.values().filter_map(|k| k.serving.clone()).collect();
        let same =
            gone.is_empty() && before.len() == after.len() && before.iter().zip(&after).all(|(a, b)| Arc::ptr_eq(a, b));
        if !same {
            let resources = build::ordered(after.iter().flat_map(|s| s.resources.iter().cloned()).collect());
            self.server.registry.set_custom(resources);
        }
        // Whoever is served by what there was before comes back to what there is now.
        let retired = before.into_iter().chain(gone).filter(|s| !after.iter().any(|a| Arc::ptr_eq(a, s)));
        for serving in retired {
            serving.end();
            if !after.iter().any(|a| a.prefix == serving.prefix) {
                self.server.store.remove(&serving.prefix);
            }
        }
        self.clean();
        self.settled = complete;
        complete
    }

    /// Parses what is new; gives what was served of definitions that are gone, and whether anything is new or gone.
    fn read(&mut self, entries: &[Arc<Entry>]) -> (Vec<Arc<Serving>>, bool) {
        let mut before = std::mem::take(&mut self.known);
        let mut changed = false;
        for entry in entries {
            let known = match before.remove(&entry.key) {
                Some(known) if known.definition.revision == entry.revision => known,
                earlier => {
                    changed = true;
                    let definition = Arc::new(Definition::light(&entry.value(), entry.revision));
                    Known { definition, serving: earlier.and_then(|known| known.serving) }
                }
            };
            self.known.insert(entry.key.clone(), known);
        }
        changed |= !before.is_empty();
        (before.into_values().filter_map(|known| known.serving).collect(), changed)
    }

    /// Writes the conditions and names that follow from all definitions together.
    async fn write_status(&self, cache: &Cache, entries: &[Arc<Entry>]) -> bool {
        let unreadable = cache.unreadable();
        let all: Vec<&Definition> = self.known.values().map(|k| &*k.definition).collect();
        let mut complete = true;
        for (name, status) in names::statuses(&all) {
            let Some(entry) = entries.iter().find(|e| *e.key == *name) else { continue };
            if let Some(key) = unreadable.iter().find(|key| group_of(key) == group_of(name)) {
                tracing::error!(unreadable = %key, name, "a definition gets no names: one of its group cannot be read");
                continue;
            }
            let mut object = entry.value();
            if let Some(map) = object.as_object_mut() {
                map.insert("status".into(), status);
            }
            match self.server.store.update(PREFIX, name, entry.revision, &object, None).await {
                // Another server may have been faster: what it wrote comes by the cache.
                Ok(Updated::Done(_) | Updated::Changed(_)) => {}
                Err(error) => {
                    tracing::warn!(%error, name, "write the status of a definition; trying again");
                    complete = false;
                }
            }
        }
        complete
    }

    /// Serves what is to be served, as it is defined now.
    async fn serve(&mut self, cache: &Cache) -> bool {
        let mut fresh = Vec::new();
        let served = self.server.registry.all();
        for known in self.known.values_mut() {
            if !known.definition.is_established() || is_built_in(&served, &known.definition) {
                known.serving = None;
                continue;
            }
            match &known.serving {
                Some(serving) if serving.fingerprint == known.definition.fingerprint => {
                    serving.set_terminating(known.definition.is_terminating());
                }
                // One that is gone by now comes as an event.
                earlier => {
                    let entry = cache.last_known(&known.definition.name);
                    fresh.extend(entry.map(|entry| (entry, earlier.clone())));
                }
            }
        }
        let server = &self.server;
        let built = futures::stream::iter(fresh.into_iter().map(|(entry, earlier)| async move {
            let definition = Definition::of(&entry.value(), entry.revision);
            let serving = Serving::of(&definition, server);
            let result = fill(server, &serving, earlier.as_deref()).await;
            (definition.name, serving, result)
        }));
        let built: Vec<_> = built.buffer_unordered(AT_ONCE).collect().await;
        let mut complete = true;
        for (name, serving, result) in built {
            match (result, self.known.get_mut(name.as_str())) {
                (Ok(()), Some(known)) => known.serving = Some(Arc::new(serving)),
                (Err(error), _) => {
                    tracing::warn!(%error, name, "read the objects of a custom resource; trying again");
                    complete = false;
                }
                (Ok(()), None) => {}
            }
        }
        complete
    }

    /// Starts to delete the objects of definitions that are to go.
    fn clean(&self) {
        let served = self.server.registry.all();
        for known in self.known.values().filter(|k| k.definition.is_terminating()) {
            let definition = &known.definition;
            let has_objects = definition.is_established() && !is_built_in(&served, definition);
            if has_objects && known.serving.is_none() {
                // Where they are is not known yet: the next round.
                continue;
            }
            let mut cleaning = self.cleaning.lock();
            if !definition.needs_cleanup || cleaning.get(&definition.name) == Some(&definition.uid) {
                continue;
            }
            cleaning.insert(definition.name.clone(), definition.uid.clone());
            let (server, definition, all) = (self.server.clone(), definition.clone(), self.cleaning.clone());
            let prefix = known.serving.as_ref().map(|s| s.prefix.clone());
            tokio::spawn(async move {
                // A panic must not leave a definition between being there and not.
                let cleaned = supervise::persist(AFTER_PANIC, || cleanup::run(&server, &definition, prefix.as_deref()));
                tokio::select! {
                    () = server.shutdown.cancelled() => {}
                    () = cleaned => {}
                }
                all.lock().remove(&definition.name);
            });
        }
    }
}

/// The group of a definition by its name, `PLURAL.GROUP`.
pub(crate) fn group_of(name: &str) -> &str {
    name.split_once('.').map_or("", |(_, group)| group)
}

/// The definitions that cannot be read, by name: what they define is not gone.
pub fn unreadable(server: &Server) -> Vec<Box<str>> {
    server.store.cache(PREFIX).map(|cache| cache.unreadable()).unwrap_or_default()
}

/// The error of a group of which a definition cannot be read, if so.
pub fn check_group(server: &Server, group: &str) -> Result<(), ApiError> {
    let broken = unreadable(server).into_iter().find(|key| group_of(key) == group);
    broken.map_or(Ok(()), |key| cached::one(server, PREFIX, &key).map(|_| ()))
}

/// Whether a definition is of a resource that the server has by itself: it is never served, and its objects are not
/// those of the definition (`OverlappingBuiltInResources`).
fn is_built_in(served: &[Arc<Descriptor>], definition: &Definition) -> bool {
    let same = |d: &Descriptor| d.group == definition.group && d.plural == definition.accepted.plural;
    served.iter().any(|d| d.custom.is_none() && same(d))
}

/// Makes the store hold a resource, anew when its objects are to be read in another way.
async fn fill(server: &Server, serving: &Serving, earlier: Option<&Serving>) -> Result<(), kinit_storage::Error> {
    let kept = earlier.is_some_and(|e| e.prefix == serving.prefix && e.reads_as == serving.reads_as);
    if kept && server.store.cache(&serving.prefix).is_some() {
        return Ok(());
    }
    let spec = ResourceSpec {
        prefix: serving.prefix.clone(),
        reading: serving.reading.clone(),
        crypt: server.encryption.of(&serving.group, &serving.plural),
    };
    server.store.add(spec).await
}
