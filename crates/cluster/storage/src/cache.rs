//! The cache of one resource: what is, and what happened last.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::entry::{Entry, FieldsOf};

/// Events kept for watchers that come back.
const RING: usize = 4096;

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was written.
    Put,
    /// It is gone.
    Delete,
}

/// One change.
#[derive(Debug)]
pub struct Event {
    /// etcd's revision of the change.
    pub revision: u64,
    /// What happened.
    pub kind: EventKind,
    /// The object after it; for a delete its last state, at the delete's revision.
    pub current: Arc<Entry>,
    /// The object before it.
    pub previous: Option<Arc<Entry>>,
}

#[derive(Debug, Default)]
struct Inner {
    map: BTreeMap<Box<str>, Arc<Entry>>,
    ring: VecDeque<Arc<Event>>,
    /// Sequence number of the ring's first event.
    first: u64,
    /// Every event after this revision is in the ring.
    complete_since: u64,
    last_event: u64,
}

/// A resource's objects and last events.
#[derive(Debug)]
pub struct Cache {
    pub(crate) fields: FieldsOf,
    inner: RwLock<Inner>,
    changed: watch::Sender<()>,
    revision: watch::Receiver<u64>,
}

/// The events asked for are no longer kept; those after this revision are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired(pub u64);

impl Cache {
    pub(crate) fn new(fields: FieldsOf, revision: watch::Receiver<u64>) -> Self {
        Self { fields, inner: RwLock::default(), changed: watch::Sender::new(()), revision }
    }

    /// An object by `namespace/name`.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.inner.read().map.get(key).cloned()
    }

    /// Objects whose key starts with `prefix` and that pass `keep`, in the order of their keys, and the revision that
    /// this picture is of.
    pub fn list(&self, prefix: &str, keep: impl Fn(&Entry) -> bool) -> (Vec<Arc<Entry>>, u64) {
        let seen = *self.revision.borrow();
        let inner = self.inner.read();
        let range = inner.map.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        let items = range.take_while(|(k, _)| k.starts_with(prefix)).filter(|(_, e)| keep(e)).map(|(_, e)| e.clone());
        (items.collect(), seen.max(inner.last_event))
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.inner.read().map.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The revision the feed has reached.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// A cursor on the events after `since`.
    pub fn events_since(self: &Arc<Self>, since: u64) -> Result<Cursor, Expired> {
        let changed = self.changed.subscribe();
        let inner = self.inner.read();
        if since < inner.complete_since {
            return Err(Expired(inner.complete_since));
        }
        let skip = inner.ring.partition_point(|e| e.revision <= since);
        let next = inner.first + skip as u64;
        drop(inner);
        Ok(Cursor { cache: self.clone(), next, since, changed, revision: self.revision.clone() })
    }

    /// A receiver that is marked whenever the cache changes.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(crate) fn put(&self, entry: Entry) {
        let entry = Arc::new(entry);
        let mut inner = self.inner.write();
        let previous = inner.map.insert(entry.key.clone(), entry.clone());
        let revision = entry.revision;
        inner.push(Event { revision, kind: EventKind::Put, current: entry, previous });
        drop(inner);
        self.changed.send_replace(());
    }

    pub(crate) fn delete(&self, key: &str, revision: u64) {
        let mut inner = self.inner.write();
        let Some(previous) = inner.map.remove(key) else { return };
        let current = Arc::new(previous.at_revision(revision));
        inner.push(Event { revision, kind: EventKind::Delete, current, previous: Some(previous) });
        drop(inner);
        self.changed.send_replace(());
    }

    /// The first picture: no events, and none known before it.
    pub(crate) fn fill(&self, entries: Vec<Entry>, revision: u64) {
        let mut inner = self.inner.write();
        inner.map = entries.into_iter().map(|e| (e.key.clone(), Arc::new(e))).collect();
        inner.complete_since = revision;
        inner.last_event = revision;
        drop(inner);
        self.changed.send_replace(());
    }

    /// A later picture after the feed lost its place: the differences become events of `revision`.
    pub(crate) fn refill(&self, entries: Vec<Entry>, revision: u64) {
        let fresh: BTreeMap<Box<str>, Entry> = entries.into_iter().map(|e| (e.key.clone(), e)).collect();
        let gone: Vec<Box<str>> = {
            let inner = self.inner.read();
            inner.map.keys().filter(|k| !fresh.contains_key(*k)).cloned().collect()
        };
        for key in gone {
            self.delete(&key, revision);
        }
        for (key, entry) in fresh {
            if self.get(&key).is_none_or(|old| old.revision != entry.revision) {
                self.put(entry);
            }
        }
        // Versions between the two pictures were never seen: nobody may resume across the gap.
        let mut inner = self.inner.write();
        inner.first += inner.ring.len() as u64;
        inner.ring.clear();
        inner.complete_since = revision;
    }
}

impl Inner {
    fn push(&mut self, event: Event) {
        self.last_event = self.last_event.max(event.revision);
        self.ring.push_back(Arc::new(event));
        if self.ring.len() > RING {
            if let Some(old) = self.ring.pop_front() {
                self.complete_since = self.complete_since.max(old.revision);
            }
            self.first += 1;
        }
    }
}

/// A watcher's place in the events.
#[derive(Debug)]
pub struct Cursor {
    cache: Arc<Cache>,
    next: u64,
    since: u64,
    changed: watch::Receiver<()>,
    revision: watch::Receiver<u64>,
}

impl Cursor {
    /// The events that are there now, without waiting, and the revision up to which there are no others.
    pub fn ready(&mut self) -> Result<(Vec<Arc<Event>>, u64), Expired> {
        self.changed.borrow_and_update();
        let seen = *self.revision.borrow();
        let inner = self.cache.inner.read();
        if self.next < inner.first {
            return Err(Expired(inner.complete_since));
        }
        let skip = usize::try_from(self.next - inner.first).unwrap_or(usize::MAX);
        let events: Vec<Arc<Event>> =
            inner.ring.iter().skip(skip).take(512).filter(|e| e.revision > self.since).cloned().collect();
        let taken = inner.ring.len().saturating_sub(skip).min(512);
        let more = inner.ring.len().saturating_sub(skip) > 512;
        self.next += taken as u64;
        let reached = if more { events.last().map_or(self.since, |e| e.revision) } else { seen.max(self.since) };
        if more {
            self.changed.mark_changed();
        }
        Ok((events, reached))
    }

    /// Waits until there may be more.
    pub async fn wait(&mut self) {
        // The sender lives in the cache, which this cursor keeps alive.
        let _ = self.changed.changed().await;
    }
}
