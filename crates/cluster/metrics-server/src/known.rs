//! Nodes and running pods, as a watch tells of them: names, labels, and where a kubelet listens. Of what the API server
//! sends nothing else is kept.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kinit_client::Rewatch;
use kinit_component_base::{Shutdown, supervise};
use kube::api::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client};
use parking_lot::RwLock;

/// What is known of a node or a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// "" for nodes.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Of a node: its addresses, by type.
    pub addresses: Box<[(Box<str>, Box<str>)]>,
    /// Of a node: the port its kubelet says it has.
    pub port: Option<u16>,
}

impl Known {
    fn of(meta: &ObjectMeta) -> Self {
        let labels = meta.labels.iter().flatten();
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            labels: labels.map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect(),
            addresses: Box::default(),
            port: None,
        }
    }

    fn node(node: &Node) -> Self {
        let status = node.status.as_ref();
        let addresses = status.and_then(|s| s.addresses.as_ref()).into_iter().flatten();
        let port = status.and_then(|s| s.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref()).map(|e| e.port);
        Self {
            addresses: addresses.map(|a| (a.type_.as_str().into(), a.address.as_str().into())).collect(),
            port: port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0),
            ..Self::of(&node.metadata)
        }
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
    }

    /// `NAMESPACE/NAME`, or `NAME`.
    pub fn key(&self) -> String {
        if self.namespace.is_empty() { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }
}

/// All of one kind, in the order of their keys.
#[derive(Debug, Default)]
pub struct Index {
    entries: RwLock<BTreeMap<String, Arc<Known>>>,
    synced: std::sync::atomic::AtomicBool,
}

impl Index {
    /// One, by its key.
    pub fn get(&self, key: &str) -> Option<Arc<Known>> {
        self.entries.read().get(key).cloned()
    }

    /// Those of a namespace, or all when it is "".
    pub fn list(&self, namespace: &str) -> Vec<Arc<Known>> {
        let entries = self.entries.read();
        if namespace.is_empty() {
            return entries.values().cloned().collect();
        }
        let start = format!("{namespace}/");
        entries.range(start.clone()..).take_while(|(key, _)| key.starts_with(&start)).map(|(_, e)| e.clone()).collect()
    }

    /// Whether the first list has come.
    pub fn is_synced(&self) -> bool {
        self.synced.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn take(&self, event: Event<Known>, seen: &mut HashSet<String>) {
        match event {
            Event::Apply(known) => {
                self.entries.write().insert(known.key(), Arc::new(known));
            }
            Event::Delete(known) => {
                self.entries.write().remove(&known.key());
            }
            Event::Init => seen.clear(),
            Event::InitApply(known) => {
                let key = known.key();
                seen.insert(key.clone());
                self.entries.write().insert(key, Arc::new(known));
            }
            Event::InitDone => {
                self.entries.write().retain(|key, _| seen.contains(key));
                *seen = HashSet::new();
                self.synced.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }

    async fn feed<K: Debug>(
        self: Arc<Self>,
        what: &'static str,
        stream: impl Stream<Item = Result<Event<K>, watcher::Error>>,
        known: fn(&K) -> Known,
        shutdown: Shutdown,
    ) {
        let mut stream = pin!(stream);
        let mut seen = HashSet::new();
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = stream.next() => event,
            };
            match event {
                None => return,
                Some(Ok(event)) => self.take(map(event, known), &mut seen),
                Some(Err(error)) => tracing::warn!(what, %error, "watch failed, trying again"),
            }
        }
    }
}

fn map<K>(event: Event<K>, known: fn(&K) -> Known) -> Event<Known> {
    match event {
        Event::Apply(object) => Event::Apply(known(&object)),
        Event::Delete(object) => Event::Delete(known(&object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(known(&object)),
        Event::InitDone => Event::InitDone,
    }
}

/// Follows the nodes with these labels.
pub fn nodes(client: Client, selector: &str, shutdown: &Shutdown) -> Arc<Index> {
    let index = Arc::new(Index::default());
    let config = watcher::Config::default().labels(selector).page_size(50);
    let stream = watch(Api::<Node>::all(client), config).backoff(Rewatch::default());
    supervise::vital("watch of nodes", shutdown, index.clone().feed("nodes", stream, Known::node, shutdown.clone()));
    index
}

/// Follows running pods.
pub fn pods(client: Client, shutdown: &Shutdown) -> Arc<Index> {
    let index = Arc::new(Index::default());
    let config = watcher::Config::default().fields("status.phase=Running").page_size(200);
    let stream = watch(Api::<PartialObjectMeta<Pod>>::all(client), config).backoff(Rewatch::default());
    let known = |pod: &PartialObjectMeta<Pod>| Known::of(&pod.metadata);
    supervise::vital("watch of pods", shutdown, index.clone().feed("pods", stream, known, shutdown.clone()));
    index
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Something with these labels.
    pub fn known(namespace: &str, name: &str, labels: &[(&str, &str)]) -> Known {
        let labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Known { namespace, name, labels, addresses: Box::default(), port: None }
    }

    /// An index that holds these.
    pub fn index(entries: Vec<Known>) -> Arc<Index> {
        let index = Index::default();
        let mut seen = HashSet::new();
        entries.into_iter().for_each(|k| index.take(Event::InitApply(k), &mut seen));
        index.take(Event::InitDone, &mut seen);
        Arc::new(index)
    }

    #[test]
    fn a_list_replaces_what_was_known() {
        let index = index(vec![known("a", "p", &[]), known("a", "q", &[]), known("ab", "r", &[])]);
        let names = |ns: &str| index.list(ns).iter().map(|k| k.name.clone()).collect::<Vec<_>>().join(" ");
        assert_eq!(
            (names("a"), names("ab"), names(""), names("x")),
            ("p q".into(), "r".into(), "p q r".into(), String::new())
        );
        let mut seen = HashSet::new();
        index.take(Event::Init, &mut seen);
        index.take(Event::InitApply(known("a", "q", &[("k", "v")])), &mut seen);
        assert_eq!(names(""), "p q r", "until the new list is whole");
        index.take(Event::InitDone, &mut seen);
        index.take(Event::Apply(known("a", "s", &[])), &mut seen);
        index.take(Event::Delete(known("a", "x", &[])), &mut seen);
        assert_eq!(names(""), "q s");
        assert_eq!(index.get("a/q").unwrap().label("k"), Some("v"));
    }

    #[test]
    fn where_a_kubelet_is() {
        let node: Node = serde_json::from_value(serde_json::json!({"metadata": {"name": "n"}, "status": {
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}}))
        .unwrap();
        let known = Known::node(&node);
        assert_eq!((known.port, &*known.addresses[0].1), (Some(10250), "10.0.0.1"));
    }
}
