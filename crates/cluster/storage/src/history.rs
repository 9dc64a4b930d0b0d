//! The last events of one resource, bounded by age and by bytes.
//!
//! A watcher that comes back finds at least what happened in the last 75 seconds (`eventFreshDuration` of upstream's
//! watch cache), unless that is more than [`MOST`]. What is older stays only while it is little.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::Event;

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
        self.event.current.bytes.len() + OVERHEAD
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
            self.bytes -= oldest.size();
            self.complete_since = self.complete_since.max(oldest.event.revision);
            self.ring.pop_front();
            self.first += 1;
        }
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
    use crate::cache::EventKind;
    use crate::entry::Entry;

    fn event(revision: u64, size: usize) -> Event {
        let stored = format!(r#"{{"metadata":{{"name":"a"}},"data":"{}"}}"#, "x".repeat(size));
        let current =
            Arc::new(Entry::from_stored("a", stored.as_bytes(), revision, &crate::entry::Reading::default()).unwrap());
        Event { revision, kind: EventKind::Put, current, previous: None }
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
