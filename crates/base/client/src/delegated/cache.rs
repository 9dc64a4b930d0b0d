//! Answers that are kept for a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Entries beyond this make the others go: a cache must not grow with the number of guesses.
const MOST: usize = 4096;

pub struct Cache<K, V> {
    kept: Duration,
    entries: Mutex<HashMap<K, (V, Instant)>>,
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    pub fn new(kept: Duration) -> Self {
        Self { kept, entries: Mutex::default() }
    }

    pub fn get(&self, key: &K) -> Option<V> {
        self.entries.lock().get(key).filter(|(_, until)| Instant::now() < *until).map(|(value, _)| value.clone())
    }

    pub fn put(&self, key: K, value: V) {
        let (now, mut entries) = (Instant::now(), self.entries.lock());
        if entries.len() >= MOST {
            entries.retain(|_, (_, until)| now < *until);
            if entries.len() >= MOST {
                entries.clear();
            }
        }
        entries.insert(key, (value, now + self.kept));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_age_and_their_number_is_bounded() {
        let cache = Cache::new(Duration::from_secs(60));
        for n in 0..=MOST {
            cache.put(n, n);
        }
        assert_eq!((cache.get(&0), cache.get(&MOST)), (None, Some(MOST)));
        let brief = Cache::new(Duration::ZERO);
        brief.put(1, 1);
        assert_eq!(brief.get(&1), None);
    }
}
