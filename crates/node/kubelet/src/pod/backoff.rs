//! Pauses between attempts that double (`client-go/util/flowcontrol.Backoff` as the kubelet uses it).

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

const FIRST: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
struct Entry {
    delay: Duration,
    updated: Timestamp,
}

/// Pauses by key.
#[derive(Debug, Clone)]
pub struct BackOff {
    entries: BTreeMap<String, Entry>,
    longest: Duration,
}

impl BackOff {
    /// 10 s first, doubling up to `longest`.
    pub fn new(longest: Duration) -> Self {
        Self { entries: BTreeMap::new(), longest }
    }

    /// Until when `key` has to wait after an end at `since`; `None` when it may go on at `now`.
    pub fn until(&self, key: &str, since: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let entry = self.entries.get(key)?;
        let stale = seconds_between(since, entry.updated).max(0.0) > (self.longest * 2).as_secs_f64();
        if stale {
            return None;
        }
        let until = since.checked_add(entry.delay).unwrap_or(now);
        (now < until).then_some(until)
    }

    /// Notes an attempt at `now`: the next pause is longer, or short again after a quiet time.
    pub fn next(&mut self, key: &str, now: Timestamp) {
        let longest = self.longest;
        let entry = self.entries.get(key).copied();
        let delay = match entry {
            Some(e) if seconds_between(now, e.updated) <= (longest * 2).as_secs_f64() => (e.delay * 2).min(longest),
            _ => FIRST.min(longest),
        };
        self.entries.insert(key.to_owned(), Entry { delay, updated: now });
    }

    /// The present pause.
    pub fn delay(&self, key: &str) -> Duration {
        self.entries.get(key).map_or(Duration::ZERO, |e| e.delay)
    }
}

fn seconds_between(later: Timestamp, earlier: Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    #[test]
    fn doubles_to_a_limit_and_forgets_after_quiet() {
        let mut b = BackOff::new(Duration::from_secs(300));
        assert_eq!(b.until("c", at(0), at(0)), None, "the first restart is immediate");
        b.next("c", at(0));
        assert_eq!(b.until("c", at(1), at(5)), Some(at(11)));
        assert_eq!(b.until("c", at(1), at(11)), None);
        for _ in 0..8 {
            b.next("c", at(20));
        }
        assert_eq!(b.delay("c"), Duration::from_secs(300));
        b.next("c", at(20 + 601));
        assert_eq!(b.delay("c"), Duration::from_secs(10));
    }
}
