//! A shared, indexed copy of one resource's objects, kept current by a watch.
//!
//! ```text
//! API server ══watch══▶ Store ──▶ get / list / by_index      (Arc'ed objects, no request)
//!                         └─────▶ handlers: Added, Updated{old,new}, Deleted
//! ```
//!
//! As client-go's shared informers: handlers are called in order by one task; a handler added late is told of what is
//! there; objects in a store are shared and never changed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt;
use kinit_component_base::supervise;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Rewatch;

/// What happened to one object.
#[derive(Debug, Clone)]
pub enum Change<K> {
    /// Seen for the first time.
    Added(Arc<K>),
    /// Changed. Both are the same object by name; by uid they may differ when a deletion went unseen.
    Updated {
        /// What the store held before.
        old: Arc<K>,
        /// What it holds now.
        new: Arc<K>,
    },
    /// Gone; the last state that was seen.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The newest state known.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Updated { new: object, .. } | Self::Deleted(object) => object,
        }
    }

    /// The state before an update.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Self::Updated { old, .. } => Some(old),
            Self::Added(_) | Self::Deleted(_) => None,
        }
    }
}

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;
type IndexFn<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;

struct Index<K> {
    values_of: IndexFn<K>,
    keys: HashMap<String, BTreeSet<String>>,
}

struct Objects<K> {
    by_key: HashMap<String, Arc<K>>,
    indexes: HashMap<&'static str, Index<K>>,
}

/// The copy. Keys are `NAMESPACE/NAME`, or `NAME` for what has no namespace.
pub struct Store<K> {
    objects: RwLock<Objects<K>>,
    /// Held while a change is applied and told, so that a new handler misses nothing and hears nothing twice.
    handlers: Mutex<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

/// The index by namespace that every store has.
pub const BY_NAMESPACE: &str = "namespace";
/// The index by the controlling owner's uid that every store has.
pub const BY_CONTROLLER: &str = "controller";

/// The key of an object in its store.
pub fn key_of<K: Resource>(object: &K) -> String {
    match object.meta().namespace.as_deref() {
        Some(namespace) => join_key(namespace, &object.name_any()),
        None => object.name_any(),
    }
}

/// `NAMESPACE/NAME`.
pub fn join_key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// A key's namespace (empty when it has none) and name.
pub fn split_key(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

/// The uid of the owner that controls this object (`metav1.GetControllerOf`).
pub fn controller_uid<K: Resource>(object: &K) -> Option<&str> {
    object.meta().owner_references.iter().flatten().find(|o| o.controller == Some(true)).map(|o| o.uid.as_str())
}

impl<K> Store<K>
where
    K: Resource + Clone + Send + Sync + 'static,
{
    /// An empty store, to be fed by [`feed`](Self::feed) or a test.
    pub fn new() -> Arc<Self> {
        let store = Self {
            objects: RwLock::new(Objects { by_key: HashMap::new(), indexes: HashMap::new() }),
            handlers: Mutex::new(Vec::new()),
            synced: watch::Sender::new(false),
        };
        store.index(BY_NAMESPACE, |o| o.meta().namespace.clone().into_iter().collect());
        store.index(BY_CONTROLLER, |o| controller_uid(o).map(str::to_owned).into_iter().collect());
        Arc::new(store)
    }

    /// Adds an index; one of that name that exists stays.
    pub fn index(&self, name: &'static str, values_of: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) {
        let mut objects = self.objects.write();
        if objects.indexes.contains_key(name) {
            return;
        }
        let mut keys: HashMap<String, BTreeSet<String>> = HashMap::new();
        for (key, object) in &objects.by_key {
            for value in values_of(object) {
                keys.entry(value).or_default().insert(key.clone());
            }
        }
        objects.indexes.insert(name, Index { values_of: Box::new(values_of), keys });
    }

    /// Adds a handler, which is called at once with `Added` for each object that is there. It must not block, nor add
    /// handlers to this store.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut handlers = self.handlers.lock();
        for object in self.list() {
            handler(&Change::Added(object));
        }
        handlers.push(Box::new(handler));
    }

    /// The object of this key.
    pub fn get(&self, key: &str) -> Option<Arc<K>> {
        self.objects.read().by_key.get(key).cloned()
    }

    /// All objects, in no order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.objects.read().by_key.values().cloned().collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.read().by_key.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects that an index files under `value`, ordered by key.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let objects = self.objects.read();
        let Some(keys) = objects.indexes.get(name).and_then(|index| index.keys.get(value)) else { return Vec::new() };
        keys.iter().filter_map(|key| objects.by_key.get(key).cloned()).collect()
    }

    /// The objects of one namespace.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.by_index(BY_NAMESPACE, namespace)
    }

    /// The objects that the owner of this uid controls.
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.by_index(BY_CONTROLLER, uid)
    }

    /// Whether the first list has arrived.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits for the first list.
    pub async fn synced(&self) {
        // The sender lives as long as the store: an error cannot be.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Puts an object in and tells the handlers. An equal resource version is no change.
    pub fn apply(&self, mut object: K) {
        object.meta_mut().managed_fields = None;
        let handlers = self.handlers.lock();
        let key = key_of(&object);
        let new = Arc::new(object);
        let old = self.put(&key, Some(new.clone()));
        let change = match old {
            Some(old) if same_version(&*old, &*new) => return,
            Some(old) => Change::Updated { old, new },
            None => Change::Added(new),
        };
        handlers.iter().for_each(|handler| handler(&change));
    }

    /// Takes an object out and tells the handlers.
    pub fn remove(&self, key: &str) {
        let handlers = self.handlers.lock();
        if let Some(old) = self.put(key, None) {
            let change = Change::Deleted(old);
            handlers.iter().for_each(|handler| handler(&change));
        }
    }

    /// Says that the first list is complete.
    pub fn mark_synced(&self) {
        self.synced.send_replace(true);
    }

    fn put(&self, key: &str, new: Option<Arc<K>>) -> Option<Arc<K>> {
        let mut objects = self.objects.write();
        let Objects { by_key, indexes } = &mut *objects;
        let old = match &new {
            Some(new) => by_key.insert(key.to_owned(), new.clone()),
            None => by_key.remove(key),
        };
        for index in indexes.values_mut() {
            for value in old.iter().flat_map(|old| (index.values_of)(old)) {
                if let Some(keys) = index.keys.get_mut(&value) {
                    keys.remove(key);
                    if keys.is_empty() {
                        index.keys.remove(&value);
                    }
                }
            }
            for value in new.iter().flat_map(|new| (index.values_of)(new)) {
                index.keys.entry(value).or_default().insert(key.to_owned());
            }
        }
        old
    }

    /// Keeps the store current with a watch until `shutdown`. After a failure it tries again, with the pauses of
    /// [`Rewatch`].
    pub async fn feed(self: Arc<Self>, api: Api<K>, config: watcher::Config, shutdown: CancellationToken)
    where
        K: DeserializeOwned + Debug,
    {
        let resource = api.resource_url().to_owned();
        let mut stream = std::pin::pin!(watcher::watcher(api, config).backoff(Rewatch::default()));
        let mut seen: HashSet<String> = HashSet::new();
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = stream.next() => event,
            };
            match event {
                None => return,
                Some(Ok(event)) => self.take(event, &mut seen),
                Some(Err(error)) => tracing::warn!(resource, error = %chain(&error), "watch failed, trying again"),
            }
        }
    }

    fn take(&self, event: Event<K>, seen: &mut HashSet<String>) {
        match event {
            Event::Apply(object) => self.apply(object),
            Event::Delete(object) => {
                // The last state matters to handlers: deletions carry it.
                self.remove(&key_of(&object));
            }
            Event::Init => seen.clear(),
            Event::InitApply(object) => {
                seen.insert(key_of(&object));
                self.apply(object);
            }
            Event::InitDone => {
                let gone: Vec<String> =
                    self.objects.read().by_key.keys().filter(|key| !seen.contains(*key)).cloned().collect();
                gone.iter().for_each(|key| self.remove(key));
                seen.clear();
                self.mark_synced();
            }
        }
    }
}

fn same_version<K: Resource>(a: &K, b: &K) -> bool {
    a.meta().resource_version.is_some()
        && a.meta().resource_version == b.meta().resource_version
        && a.meta().uid == b.meta().uid
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Starts a watch of all objects `api` reaches and returns the store it feeds. A handler's panic ends the process: a
/// store that is no longer fed is worse than none.
pub fn spawn<K>(api: Api<K>, config: watcher::Config, shutdown: &CancellationToken) -> Arc<Store<K>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let store = Store::new();
    let task = format!("watch of {}", api.resource_url());
    supervise::vital(task, shutdown, store.clone().feed(api, config, shutdown.clone()));
    store
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn map(name: &str, version: &str, owner: Option<&str>) -> ConfigMap {
        let mut map: ConfigMap = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "ns", "name": name, "resourceVersion": version, "uid": name}
        }))
        .unwrap();
        map.metadata.owner_references =
            owner.map(|uid| {
                vec![serde_json::from_value(
                serde_json::json!({"apiVersion": "v1", "kind": "X", "name": "x", "uid": uid, "controller": true}),
            )
            .unwrap()]
            });
        map
    }

    #[test]
    fn indexes_and_handlers_follow_the_objects() {
        let store = Store::<ConfigMap>::new();
        store.apply(map("early", "1", None));
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = log.clone();
        store.on_change(move |change| {
            let what = match change {
                Change::Added(_) => "+",
                Change::Updated { .. } => "~",
                Change::Deleted(_) => "-",
            };
            sink.lock().push(format!("{what}{}", change.object().name_any()));
        });
        let mut seen = HashSet::new();
        store.take(Event::Init, &mut seen);
        store.take(Event::InitApply(map("a", "2", Some("o1"))), &mut seen);
        assert!(!store.is_synced());
        store.take(Event::InitDone, &mut seen);
        assert!(store.is_synced());
        store.apply(map("a", "2", Some("o1")));
        store.apply(map("a", "3", Some("o2")));
        assert_eq!(*log.lock(), ["+early", "+a", "-early", "~a"]);
        assert!(store.controlled_by("o1").is_empty());
        assert_eq!(store.controlled_by("o2").len(), 1);
        store.remove("ns/a");
        assert!(store.in_namespace("ns").is_empty());
    }
}
