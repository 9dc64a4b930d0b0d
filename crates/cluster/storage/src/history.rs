//! The last events of one resource, bounded by age and by bytes.
//!
//! A watcher that comes back finds at least what happened in the last 75 seconds (`eventFreshDuration` of upstream's
//! watch cache), unless that is more than [`MOST`]. What is older stays only while it is little.
//!
//! What counts is what is here alone. The newest version of an object is the cache's own; the one before it is held by
//! the event that replaced it for longest, and counted there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::{Event, EventKind};

/// Events younger than this are kept, within [`MOST`].
const FRESH: Duration = Duration::from_secs(75);
/// Bytes of events older than [`FRESH`] that are kept.
const LITTLE: usize = 1 << 20;
/// Bytes of events that are kept at most, whatever their age.
const MOST: usize = 64 << 20;
/// What an event costs beside its object's bytes: labels, fields, pointers.
const OVERHEAD: usize = 256;
/// Events handed out at once.
const BATCH: usize = 512;

#[derive(Debug)]
struct Kept {
    event: Arc<Event>,
    at: Instant,
}

impl Kept {
    fn size(&self) -> usize {
        let previous = self.event.previous.as_ref().map_or(0, |entry| entry.bytes.len());
        OVERHEAD
            + match self.event.kind {
                EventKind::Put => previous,
                // What a delete shows is a copy at its own revision.
                EventKind::Delete => previous + self.event.current.bytes.len(),
                // What was last readable stays where it was.
                EventKind::Unreadable => 0,
            }
    }
}

/// Events in the order of their revisions.
#[derive(Debug, Default)]
pub(crate) struct History {
    ring: VecDeque<Kept>,
    bytes: usize,
    /// Sequence number of the ring's first event.
    first: u64,
    /// Every event after this revision is in the ring.
    complete_since: u64,
}

impl History {
    /// Every event after this revision is here.
    pub fn complete_since(&self) -> u64 {
        self.complete_since
    }

    /// Sequence number of the first event after a revision.
    pub fn after(&self, revision: u64) -> u64 {
        self.first + self.ring.partition_point(|kept| kept.event.revision <= revision) as u64
    }

    /// Some events from a sequence number on, and whether there are more; `None` when these are no longer kept.
    pub fn batch(&self, next: u64) -> Option<(Vec<Arc<Event>>, bool)> {
        let skip = usize::try_from(next.checked_sub(self.first)?).unwrap_or(usize::MAX).min(self.ring.len());
        let events: Vec<_> = self.ring.range(skip..).take(BATCH).map(|kept| kept.event.clone()).collect();
        let more = skip + events.len() < self.ring.len();
        Some((events, more))
    }

    /// Adds an event and forgets what is over the bounds.
    pub fn push(&mut self, event: Event, now: Instant) {
        let kept = Kept { event: Arc::new(event), at: now };
        self.bytes += kept.size();
        self.ring.push_back(kept);
        self.trim(now);
    }

    /// Forgets what is over the bounds at `now`.
    pub fn trim(&mut self, now: Instant) {
        while self.bytes > LITTLE
            && let Some(oldest) = self.ring.front()
            && (self.bytes > MOST || now.duration_since(oldest.at) > FRESH)
        {
            self.pop();
        }
    }

    /// Bytes that are held here alone.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets the oldest events, however fresh, until no more than `most` bytes are left.
    pub fn shrink(&mut self, most: usize) {
        while self.bytes > most && self.pop() {}
    }

    fn pop(&mut self) -> bool {
        let Some(oldest) = self.ring.pop_front() else { return false };
        self.bytes -= oldest.size();
        self.complete_since = self.complete_since.max(oldest.event.revision);
        self.first += 1;
        true
    }

    /// Forgets all: nothing up to `revision` is known.
    pub fn restart(&mut self, revision: u64) {
        self.first += self.ring.len() as u64;
        self.ring.clear();
        self.bytes = 0;
        self.complete_since = revision;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Entry;

    fn entry(revision: u64, size: usize) -> Arc<Entry> {
        let stored = format!(r#"{{"metadata":{{"name":"a"}},"data":"{}"}}"#, "x".repeat(size));
        Arc::new(Entry::from_stored("a", stored.as_bytes(), revision, &crate::entry::Reading::default()).unwrap())
    }

    /// An object of that size is written again.
    fn event(revision: u64, size: usize) -> Event {
        let previous = Some(entry(revision - 1, size));
        Event { revision, kind: EventKind::Put, current: entry(revision, size), previous }
    }

    #[test]
    fn what_is_held_here_alone_counts() {
        let (mut history, now, size) = (History::default(), Instant::now(), 10_000);
        let (first, second) = (entry(1, size), entry(2, size));
        let put = |current: &Arc<Entry>, previous: Option<&Arc<Entry>>| Event {
            revision: current.revision,
            kind: EventKind::Put,
            current: current.clone(),
            previous: previous.cloned(),
        };
        history.push(put(&first, None), now);
        assert_eq!(history.bytes(), OVERHEAD, "the cache has it");
        history.push(put(&second, Some(&first)), now);
        let one = first.bytes.len() + OVERHEAD;
        assert_eq!(history.bytes(), one + OVERHEAD, "the first is here alone");
        history.push(
            Event { revision: 3, kind: EventKind::Unreadable, current: second.clone(), previous: Some(second.clone()) },
            now,
        );
        assert_eq!(history.bytes(), one + 2 * OVERHEAD);
        let gone = Arc::new(second.at_revision(4));
        history.push(Event { revision: 4, kind: EventKind::Delete, current: gone, previous: Some(second) }, now);
        assert!(history.bytes() > one + 2 * size, "the second, and the copy that the delete shows");
        // What the second event holds stays counted without the first.
        history.shrink(history.bytes() - 1);
        assert_eq!((history.complete_since(), history.ring.len()), (1, 3));
        assert!(history.bytes() > one + 2 * size);
        history.shrink(0);
        assert_eq!((history.bytes(), history.complete_since()), (0, 4));
    }

    #[test]
    fn fresh_events_are_kept_whatever_their_number() {
        let (mut history, now) = (History::default(), Instant::now());
        (1..=20_000).for_each(|n| history.push(event(n, 10), now));
        assert_eq!((history.complete_since(), history.ring.len()), (0, 20_000));
        // Old ones go, but for a little.
        history.push(event(20_001, 10), now + FRESH * 2);
        assert!(history.bytes <= LITTLE && history.ring.len() > 1000, "{} events", history.ring.len());
        assert_eq!(history.complete_since() + history.ring.len() as u64, 20_001);
    }

    #[test]
    fn bytes_are_bounded_even_of_fresh_events() {
        let (mut history, now) = (History::default(), Instant::now());
        (1..=100).for_each(|n| history.push(event(n, 1 << 20), now));
        assert!(history.bytes <= MOST && history.ring.len() > 60);
        assert!(history.batch(0).is_none(), "the first is gone");
    }

    #[test]
    fn batches_go_on_where_the_last_ended() {
        let (mut history, now) = (History::default(), Instant::now());
        (1..=700).for_each(|n| history.push(event(n, 1), now));
        let next = history.after(100);
        let (events, more) = history.batch(next).unwrap();
        assert_eq!((events[0].revision, events.len(), more), (101, BATCH, true));
        let (events, more) = history.batch(next + BATCH as u64).unwrap();
        assert_eq!((events.len(), more), (88, false));
    }
}
