//! The cache of one resource: what is, and what happened last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::entry::{Entry, Reading};
use crate::error::Error;
use crate::history::History;

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was written.
    Put,
    /// It is gone.
    Delete,
    /// It was written, and what is stored cannot be decoded. It still exists.
    Unreadable,
}

/// One change.
#[derive(Debug)]
pub struct Event {
    /// etcd's revision of the change.
    pub revision: u64,
    /// What happened.
    pub kind: EventKind,
    /// The object after it; for a delete its last state, at the delete's revision; when it is unreadable its last
    /// readable state, or only its name if there was none.
    pub current: Arc<Entry>,
    /// The object before it.
    pub previous: Option<Arc<Entry>>,
}

#[derive(Debug, Default)]
struct Inner {
    map: BTreeMap<Box<str>, Arc<Entry>>,
    /// Keys whose stored value cannot be decoded, and why. `map` may hold their last readable state.
    unreadable: BTreeMap<Box<str>, String>,
    history: History,
    last_event: u64,
    /// Changes that came before the first picture; `None` once that is there.
    early: Option<Vec<Early>>,
}

/// A change that waits for the first picture.
#[derive(Debug)]
enum Early {
    Put(Entry),
    Delete(String, u64),
    Spoil(String, u64, String),
}

impl Early {
    fn revision(&self) -> u64 {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Delete(_, revision) | Self::Spoil(_, revision, _) => *revision,
        }
    }
}

/// A resource's objects and last events.
#[derive(Debug)]
pub struct Cache {
    /// Of the resource: `pods/`.
    prefix: Box<str>,
    pub(crate) reading: Reading,
    inner: RwLock<Inner>,
    changed: watch::Sender<()>,
    revision: watch::Receiver<u64>,
}

/// The events asked for are no longer kept; those after this revision are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired(pub u64);

impl Cache {
    /// An empty cache that waits for its first picture.
    pub(crate) fn new(prefix: &str, reading: Reading, revision: watch::Receiver<u64>) -> Self {
        let inner = Inner { early: Some(Vec::new()), ..Inner::default() };
        Self { prefix: prefix.into(), reading, inner: RwLock::new(inner), changed: watch::Sender::new(()), revision }
    }

    /// An object by `namespace/name`; an error that names it when what is stored of it cannot be read: an object that
    /// cannot be decoded is not an object that is gone.
    pub fn get(&self, key: &str) -> Result<Option<Arc<Entry>>, Error> {
        let inner = self.inner.read();
        match inner.unreadable.get(key) {
            Some(reason) => Err(self.corrupt(key, reason.clone())),
            None => Ok(inner.map.get(key).cloned()),
        }
    }

    /// Objects whose key starts with `prefix` and that pass `keep`, in the order of their keys, and the revision that
    /// this picture is of; an error that names an object there which cannot be read, if there is one, whatever `keep`
    /// says: nobody knows whether it would pass.
    pub fn list(&self, prefix: &str, keep: impl Fn(&Entry) -> bool) -> Result<(Vec<Arc<Entry>>, u64), Error> {
        let seen = *self.revision.borrow();
        let inner = self.inner.read();
        let mut broken = below(&inner.unreadable, prefix);
        if let Some((key, reason)) = broken.next() {
            let others = match broken.count() {
                0 => String::new(),
                n => format!(" (and {n} more)"),
            };
            return Err(self.corrupt(key, format!("{reason}{others}")));
        }
        Ok((inner.kept(prefix, keep), seen.max(inner.last_event)))
    }

    /// An object as it was last readable. For those alone who can neither grant, delete nor give away anything because
    /// it is missing or old.
    pub fn last_known(&self, key: &str) -> Option<Arc<Entry>> {
        self.inner.read().map.get(key).cloned()
    }

    /// The same of all objects below `prefix` that pass `keep`, with the picture's revision.
    pub fn all_last_known(&self, prefix: &str, keep: impl Fn(&Entry) -> bool) -> (Vec<Arc<Entry>>, u64) {
        let seen = *self.revision.borrow();
        let inner = self.inner.read();
        (inner.kept(prefix, keep), seen.max(inner.last_event))
    }

    /// The keys of all objects that cannot be read.
    pub fn unreadable(&self) -> Vec<Box<str>> {
        self.inner.read().unreadable.keys().cloned().collect()
    }

    fn corrupt(&self, key: &str, reason: String) -> Error {
        Error::Corrupt { resource: self.prefix.to_string(), key: key.to_owned(), reason }
    }

    /// How many objects were readable.
    pub fn len(&self) -> usize {
        self.inner.read().map.len()
    }

    /// Whether there is none, readable or not.
    pub fn is_empty(&self) -> bool {
        let inner = self.inner.read();
        inner.map.is_empty() && inner.unreadable.is_empty()
    }

    /// The revision the feed has reached.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// A cursor on the events after `since`.
    pub fn events_since(self: &Arc<Self>, since: u64) -> Result<Cursor, Expired> {
        let changed = self.changed.subscribe();
        let inner = self.inner.read();
        if since < inner.history.complete_since() {
            return Err(Expired(inner.history.complete_since()));
        }
        let next = inner.history.after(since);
        drop(inner);
        Ok(Cursor { cache: self.clone(), next, since, changed, revision: self.revision.clone() })
    }

    /// A receiver that is marked whenever the cache changes.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(crate) fn put(&self, entry: Entry) {
        let mut inner = self.inner.write();
        if let Some(early) = &mut inner.early {
            return early.push(Early::Put(entry));
        }
        let entry = Arc::new(entry);
        inner.unreadable.remove(&entry.key);
        let previous = inner.map.insert(entry.key.clone(), entry.clone());
        let revision = entry.revision;
        inner.push(Event { revision, kind: EventKind::Put, current: entry, previous });
        drop(inner);
        self.changed.send_replace(());
    }

    pub(crate) fn delete(&self, key: &str, revision: u64) {
        let mut inner = self.inner.write();
        if let Some(early) = &mut inner.early {
            return early.push(Early::Delete(key.to_owned(), revision));
        }
        let was_unreadable = inner.unreadable.remove(key).is_some();
        let Some(previous) = inner.map.remove(key) else {
            drop(inner);
            // Nobody ever saw the object, but whoever could not do without it can go on.
            if was_unreadable {
                self.changed.send_replace(());
            }
            return;
        };
        let current = Arc::new(previous.at_revision(revision));
        inner.push(Event { revision, kind: EventKind::Delete, current, previous: Some(previous) });
        drop(inner);
        self.changed.send_replace(());
    }

    /// What is stored under the key cannot be decoded: what was known of the object stays, and watchers hear of it.
    pub(crate) fn spoil(&self, key: &str, revision: u64, reason: String) {
        let mut inner = self.inner.write();
        if let Some(early) = &mut inner.early {
            return early.push(Early::Spoil(key.to_owned(), revision, reason));
        }
        inner.unreadable.insert(key.into(), reason);
        let previous = inner.map.get(key).cloned();
        let current = previous.clone().unwrap_or_else(|| Arc::new(Entry::name_only(key, revision)));
        inner.push(Event { revision, kind: EventKind::Unreadable, current, previous });
        drop(inner);
        self.changed.send_replace(());
    }

    /// The first picture: no events, and none known before it; what came meanwhile and is later follows. A cache that
    /// has had one stays as it is.
    pub(crate) fn fill(&self, picture: Picture, revision: u64) {
        let mut inner = self.inner.write();
        let Some(early) = inner.early.take() else { return };
        inner.map = picture.entries.into_iter().map(|e| (e.key.clone(), Arc::new(e))).collect();
        inner.unreadable = picture.unreadable;
        inner.history.restart(revision);
        inner.last_event = revision;
        drop(inner);
        for change in early.into_iter().filter(|change| change.revision() > revision) {
            match change {
                Early::Put(entry) => self.put(entry),
                Early::Delete(key, revision) => self.delete(&key, revision),
                Early::Spoil(key, revision, reason) => self.spoil(&key, revision, reason),
            }
        }
        self.changed.send_replace(());
    }

    /// Whether there was a first picture.
    pub(crate) fn is_filled(&self) -> bool {
        self.inner.read().early.is_none()
    }

    /// A later picture after the feed lost its place: the differences become events of `revision`.
    pub(crate) fn refill(&self, picture: Picture, revision: u64) {
        let fresh: BTreeMap<Box<str>, Entry> = picture.entries.into_iter().map(|e| (e.key.clone(), e)).collect();
        let gone: Vec<Box<str>> = {
            let inner = self.inner.read();
            let known = inner.map.keys().chain(inner.unreadable.keys());
            known.filter(|k| !fresh.contains_key(*k) && !picture.unreadable.contains_key(*k)).cloned().collect()
        };
        for key in gone {
            self.delete(&key, revision);
        }
        for (key, reason) in picture.unreadable {
            self.spoil(&key, revision, reason);
        }
        for (key, entry) in fresh {
            // One that was unreadable is repaired.
            if !matches!(self.get(&key), Ok(Some(old)) if old.revision == entry.revision) {
                self.put(entry);
            }
        }
        // Versions between the two pictures were never seen: nobody may resume across the gap.
        self.inner.write().history.restart(revision);
    }

    /// Bytes that the history alone holds.
    pub(crate) fn history_bytes(&self) -> usize {
        self.inner.read().history.bytes()
    }

    /// Forgets the oldest events until their history holds no more than `most` bytes.
    pub(crate) fn shrink(&self, most: usize) {
        self.inner.write().history.shrink(most);
    }

    /// Forgets events that are old enough, of a resource that changes no more.
    pub(crate) fn trim(&self) {
        self.inner.write().history.trim(Instant::now());
    }
}

/// Keeps the histories of all caches together within `most` bytes: what is old goes first, then of the largest ones.
pub(crate) fn bound(caches: &[Arc<Cache>], most: usize) {
    let total = || caches.iter().map(|cache| cache.history_bytes()).sum::<usize>();
    if total() <= most {
        return;
    }
    caches.iter().for_each(|cache| cache.trim());
    while total() > most {
        let Some(largest) = caches.iter().max_by_key(|cache| cache.history_bytes()) else { return };
        let bytes = largest.history_bytes();
        tracing::warn!(resource = %largest.prefix, bytes, "events of all resources are too many; the oldest of this one go");
        largest.shrink(bytes / 2);
    }
}

/// All objects of one resource at one revision.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    pub entries: Vec<Entry>,
    /// Keys that cannot be decoded, and why.
    pub unreadable: BTreeMap<Box<str>, String>,
}

/// The part of a map whose keys start with `prefix`.
fn below<'m, T>(map: &'m BTreeMap<Box<str>, T>, prefix: &'m str) -> impl Iterator<Item = (&'m str, &'m T)> {
    let range = map.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
    range.take_while(move |(key, _)| key.starts_with(prefix)).map(|(key, value)| (&**key, value))
}

impl Inner {
    fn kept(&self, prefix: &str, keep: impl Fn(&Entry) -> bool) -> Vec<Arc<Entry>> {
        below(&self.map, prefix).filter(|(_, entry)| keep(entry)).map(|(_, entry)| entry.clone()).collect()
    }

    fn push(&mut self, event: Event) {
        self.last_event = self.last_event.max(event.revision);
        self.history.push(event, Instant::now());
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
        let Some((events, more)) = inner.history.batch(self.next) else {
            return Err(Expired(inner.history.complete_since()));
        };
        self.next += events.len() as u64;
        let events: Vec<Arc<Event>> = events.into_iter().filter(|e| e.revision > self.since).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, revision: u64) -> Entry {
        let name = key.rsplit('/').next().unwrap();
        let stored = format!(r#"{{"metadata":{{"name":"{name}"}}}}"#);
        Entry::from_stored(key, stored.as_bytes(), revision, &Reading::default()).unwrap()
    }

    #[test]
    fn what_comes_before_the_first_picture_follows_it() {
        let revision = watch::Sender::new(9);
        let cache = Arc::new(Cache::new("things/", Reading::default(), revision.subscribe()));
        cache.put(entry("old", 5));
        cache.delete("gone", 8);
        cache.put(entry("new", 9));
        assert!(cache.is_empty() && !cache.is_filled(), "nothing is shown yet");
        // The picture is of revision 7: what it holds of "old" is newer, and "gone" is still in it.
        let entries = vec![entry("gone", 3), entry("old", 6)];
        cache.fill(Picture { entries, unreadable: BTreeMap::new() }, 7);
        let (listed, at) = cache.list("", |_| true).unwrap();
        let listed: Vec<_> = listed.iter().map(|e| (e.name().to_owned(), e.revision)).collect();
        assert_eq!((listed, at), (vec![("new".to_owned(), 9), ("old".to_owned(), 6)], 9));
        let (events, _) = cache.events_since(7).unwrap().ready().unwrap();
        let seen: Vec<_> = events.iter().map(|e| (e.revision, e.kind)).collect();
        assert_eq!(seen, [(8, EventKind::Delete), (9, EventKind::Put)]);
        assert_eq!(cache.events_since(6).unwrap_err(), Expired(7));
        // A second picture for the first time is none.
        cache.fill(Picture::default(), 8);
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn histories_are_bounded_together() {
        let revision = watch::Sender::new(0);
        let caches: Vec<Arc<Cache>> =
            ["a/", "b/", "c/"].map(|p| Arc::new(Cache::new(p, Reading::default(), revision.subscribe()))).into();
        for (cache, writes) in caches.iter().zip([1000, 100, 10]) {
            cache.fill(Picture::default(), 0);
            (1..=writes).for_each(|n| cache.put(entry("x", n)));
        }
        let bytes = |at: usize| caches[at].history_bytes();
        let (large, middle, small) = (bytes(0), bytes(1), bytes(2));
        bound(&caches, large + middle + small);
        assert_eq!(bytes(0), large, "nothing has to go");
        bound(&caches, large);
        assert!(bytes(0) <= large / 2 && (bytes(1), bytes(2)) == (middle, small), "the largest gives way");
        assert!(caches[0].events_since(1).is_err() && caches[1].events_since(1).is_ok());
        bound(&caches, small);
        assert!(caches.iter().map(|c| c.history_bytes()).sum::<usize>() <= small);
    }

    #[test]
    fn what_cannot_be_read_is_not_gone() {
        let revision = watch::Sender::new(5);
        let cache = Cache::new("things/", Reading::default(), revision.subscribe());
        let unreadable = BTreeMap::from([("ns/bad".into(), "no key".to_owned())]);
        cache.fill(Picture { entries: vec![entry("ns/good", 3), entry("other/good", 4)], unreadable }, 5);
        for error in [cache.get("ns/bad").unwrap_err(), cache.list("", |_| true).unwrap_err()] {
            assert_eq!(error.to_string(), r#"the stored object "things/ns/bad" cannot be read: no key"#);
        }
        assert!(cache.list("ns/", |_| false).is_err(), "nobody knows whether it would pass");
        assert_eq!(cache.list("other/", |_| true).unwrap().0.len(), 1);
        assert!(cache.get("ns/good").unwrap().is_some() && cache.get("ns/none").unwrap().is_none());
        // What was readable once can be asked for by name.
        cache.spoil("ns/good", 6, "spoilt".into());
        assert!(cache.get("ns/good").is_err() && cache.last_known("ns/good").is_some());
        assert_eq!(cache.all_last_known("", |_| true).0.len(), 2);
        let error = cache.list("", |_| true).unwrap_err().to_string();
        assert!(error.contains("(and 1 more)"), "{error}");
        cache.put(entry("ns/good", 7));
        cache.delete("ns/bad", 8);
        assert_eq!(cache.list("", |_| true).unwrap().0.len(), 2);
        // One of which nothing was ever readable is something all the same.
        cache.delete("ns/good", 9);
        cache.delete("other/good", 10);
        cache.spoil("ns/bad", 11, "spoilt".into());
        assert_eq!((cache.is_empty(), cache.len()), (false, 0));
        // Its end is a change for whoever waits for it, although there is nothing to show.
        let mut changes = cache.changes();
        changes.borrow_and_update();
        cache.delete("ns/bad", 12);
        assert!(cache.is_empty() && changes.has_changed().unwrap());
    }
}
