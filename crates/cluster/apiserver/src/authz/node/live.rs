//! The graph, kept in step with the caches.

use kinit_apimachinery::meta::Meta;
use kinit_storage::{Cursor, Entry, Event, EventKind, Expired, Store};
use parking_lot::Mutex;
use serde_json::Value;

use super::graph::Graph;

/// The caches that the graph is made from, each with what a change of one of its objects does to it.
const SOURCES: [Source; 4] = [
    Source { prefix: "pods/", put: put_pod, delete: |g, e| g.delete_pod(e.namespace(), e.name()), keeps: same_pod },
    Source {
        prefix: "persistentvolumes/",
        put: |g, e, v| g.put_volume(e.name(), v),
        delete: |g, e| g.delete_volume(e.name()),
        keeps: |_, _| false,
    },
    Source {
        prefix: "volumeattachments/",
        put: |g, e, v| g.set_attachment(e.name(), v.str_at(&["spec", "nodeName"])),
        delete: |g, e| g.set_attachment(e.name(), ""),
        keeps: |_, _| false,
    },
    Source {
        prefix: "resourceslices/",
        put: |g, e, v| g.set_slice(e.name(), v.str_at(&["spec", "nodeName"])),
        delete: |g, e| g.set_slice(e.name(), ""),
        keeps: |_, _| false,
    },
];

struct Source {
    prefix: &'static str,
    put: fn(&mut Graph, &Entry, &Value),
    delete: fn(&mut Graph, &Entry),
    /// Whether a new version of an object leaves the graph as it is; seen without parsing it.
    keeps: fn(&Entry, &Entry) -> bool,
}

fn put_pod(graph: &mut Graph, entry: &Entry, pod: &Value) {
    graph.put_pod(entry.namespace(), entry.name(), pod);
}

/// A pod's references are fixed when it has a node, but for ephemeral containers and claims made from templates. Nearly
/// every change of a pod is one of its status, which costs no parsing then.
fn same_pod(before: &Entry, now: &Entry) -> bool {
    let node = "spec.nodeName";
    let Ok(text) = std::str::from_utf8(&now.bytes) else { return false };
    before.field(node) == now.field(node)
        && !["\"ephemeralContainers\":[", "\"resourceClaimStatuses\":[", "\"extendedResourceClaimStatus\":{"]
            .iter()
            .any(|field| text.contains(field))
}

#[derive(Default)]
struct State {
    graph: Graph,
    /// One per source, when all have been read once.
    cursors: Vec<Cursor>,
}

/// The graph of now.
#[derive(Default)]
pub struct Live(Mutex<State>);

impl Live {
    /// Takes what has changed and answers a question.
    pub fn ask<T>(&self, store: &Store, question: impl FnOnce(&Graph) -> T) -> T {
        let mut state = self.0.lock();
        state.catch_up(store);
        question(&state.graph)
    }

    /// Takes what has changed, so that the next question does not have to, until the server ends.
    pub async fn follow(&self, store: &Store) {
        store.wait_ready().await;
        let Some(mut changes) = store.cache("pods/").map(|c| c.changes()) else { return };
        loop {
            self.0.lock().catch_up(store);
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl State {
    fn catch_up(&mut self, store: &Store) {
        if self.cursors.len() == SOURCES.len() && self.take().is_ok() {
            return;
        }
        self.read_all(store);
    }

    fn take(&mut self) -> Result<(), Expired> {
        for (source, cursor) in SOURCES.iter().zip(&mut self.cursors) {
            loop {
                let (events, _) = cursor.ready()?;
                if events.is_empty() {
                    break;
                }
                events.iter().for_each(|event| source.apply(&mut self.graph, event));
            }
        }
        Ok(())
    }

    /// From the beginning: at the start, and when more happened than the caches remember.
    fn read_all(&mut self, store: &Store) {
        *self = Self::default();
        for source in &SOURCES {
            let Some(cache) = store.cache(source.prefix) else { continue };
            let (entries, revision) = cache.all_last_known("", |_| true);
            for entry in entries {
                (source.put)(&mut self.graph, &entry, &entry.value());
            }
            // What has already left the cache's memory by now makes the next question read again.
            if let Ok(cursor) = cache.events_since(revision) {
                self.cursors.push(cursor);
            }
        }
    }
}

impl Source {
    fn apply(&self, graph: &mut Graph, event: &Event) {
        let now = &event.current;
        match (event.kind, &event.previous) {
            (EventKind::Delete, _) => (self.delete)(graph, now),
            (EventKind::Put, Some(before)) if (self.keeps)(before, now) => {}
            (EventKind::Put, _) => (self.put)(graph, now, &now.value()),
            // What it refers to now nobody can tell; what it referred to stays.
            (EventKind::Unreadable, _) => {}
        }
    }
}
