//! What a controller asked for and has not seen yet, so that a stale store does not make it ask twice
//! (`pkg/controller.ControllerExpectations`).

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Events can be lost for good only by a bug; then this much later the store is believed again.
const TIMEOUT: Duration = Duration::from_secs(300);

struct Expected {
    creations: i64,
    deletions: HashSet<String>,
    since: Instant,
}

/// By the owner's key.
#[derive(Default)]
pub struct Expectations(Mutex<HashMap<String, Expected>>);

impl Expectations {
    /// Whether everything asked for was seen.
    pub fn satisfied(&self, owner: &str) -> bool {
        match self.0.lock().get(owner) {
            Some(e) => e.creations <= 0 && e.deletions.is_empty() || e.since.elapsed() > TIMEOUT,
            None => true,
        }
    }

    /// So many creations are about to be asked for.
    pub fn expect_creations(&self, owner: &str, count: usize) {
        self.with(owner, |e| e.creations = i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The deletion of this object is about to be asked for.
    pub fn expect_deletion(&self, owner: &str, uid: &str) {
        self.with(owner, |e| {
            e.deletions.insert(uid.to_owned());
        });
    }

    /// A creation was seen, or failed.
    pub fn created(&self, owner: &str) {
        if let Some(e) = self.0.lock().get_mut(owner) {
            e.creations -= 1;
        }
    }

    /// A deletion was seen (or its beginning), or failed.
    pub fn deleted(&self, owner: &str, uid: &str) {
        if let Some(e) = self.0.lock().get_mut(owner) {
            e.deletions.remove(uid);
        }
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &str) {
        self.0.lock().remove(owner);
    }

    fn with(&self, owner: &str, change: impl FnOnce(&mut Expected)) {
        let mut map = self.0.lock();
        let fresh = || Expected { creations: 0, deletions: HashSet::new(), since: Instant::now() };
        let expected = map.entry(owner.to_owned()).or_insert_with(fresh);
        if expected.creations <= 0 && expected.deletions.is_empty() {
            *expected = fresh();
        }
        change(expected);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn satisfied_when_all_was_seen() {
        let e = Expectations::default();
        assert!(e.satisfied("o"));
        e.expect_creations("o", 2);
        e.created("o");
        assert!(!e.satisfied("o"));
        e.created("o");
        assert!(e.satisfied("o"));
        e.expect_deletion("o", "p");
        e.deleted("o", "other");
        assert!(!e.satisfied("o"));
        e.deleted("o", "p");
        assert!(e.satisfied("o"));
    }
}
