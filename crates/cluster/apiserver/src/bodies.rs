//! How many bytes of request bodies are held at the same time.
//!
//! A body is read before its request has a turn, so that slow senders hold none; what they have sent so far is memory
//! all the same. Bytes are counted as they arrive, and each body that is on its way counts for a little even when
//! nothing of it comes. One user holds at most a quarter, so that no single client can keep all others waiting.

use std::collections::HashMap;
use std::sync::Arc;

use kinit_apimachinery::ApiError;
use parking_lot::Mutex;

use crate::http::body::LIMIT;

/// What a request costs while its body is on its way, beside the bytes: its stream and what is known of it.
const OVERHEAD: usize = 16 << 10;
/// Bytes for each request that may be handled at the same time.
const EACH: usize = 256 << 10;
/// There is always room for this many of the largest bodies, so that a quarter has room for two.
const LEAST: usize = 9;

/// The budget of all bodies.
#[derive(Debug)]
pub struct Bodies {
    state: Arc<Mutex<State>>,
    total: usize,
    share: usize,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    users: HashMap<String, usize>,
}

/// What one request holds of it; given back when dropped.
#[derive(Debug)]
pub struct Hold {
    state: Arc<Mutex<State>>,
    user: String,
    /// All and one user's at most; none for whom no limit holds.
    most: Option<(usize, usize)>,
    bytes: usize,
}

impl Bodies {
    /// A budget in proportion to the requests that are handled at the same time.
    pub fn new(requests: usize) -> Self {
        Self::of(requests.saturating_mul(EACH).max(LEAST * LIMIT))
    }

    fn of(total: usize) -> Self {
        Self { state: Arc::default(), total, share: total / 4 }
    }

    /// Nothing yet, for a user; `limited` is false for administrators, who are counted and not refused.
    pub fn hold(&self, user: &str, limited: bool) -> Hold {
        let most = limited.then_some((self.total, self.share));
        Hold { state: self.state.clone(), user: user.to_owned(), most, bytes: 0 }
    }
}

impl Hold {
    /// Takes what a body costs before any of it has come.
    pub fn begin(&mut self) -> Result<(), ApiError> {
        self.grow(OVERHEAD)
    }

    /// Takes some bytes more; 429 when there are none left, or the user has too many.
    pub fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let mut state = self.state.lock();
        let own = state.users.get(&self.user).copied().unwrap_or_default();
        if self.most.is_some_and(|(total, share)| state.used + bytes > total || own + bytes > share) {
            return Err(ApiError::too_many_requests("Too many requests, please try again later.", 1));
        }
        state.used += bytes;
        state.users.insert(self.user.clone(), own + bytes);
        self.bytes += bytes;
        Ok(())
    }

    /// Gives all of it back.
    pub fn release(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut state = self.state.lock();
        state.used -= self.bytes;
        if let Some(own) = state.users.get_mut(&self.user) {
            *own -= self.bytes;
            if *own == 0 {
                state.users.remove(&self.user);
            }
        }
        self.bytes = 0;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_holds_a_quarter_and_all_no_more_than_there_is() {
        let bodies = Bodies::of(400);
        let hold = |user: &str, bytes| {
            let mut hold = bodies.hold(user, true);
            hold.grow(bytes).map(|()| hold)
        };
        let mut first = hold("a", 60).unwrap();
        assert_eq!(hold("a", 41).unwrap_err().code, 429);
        first.grow(40).unwrap();
        assert_eq!(first.grow(1).unwrap_err().code, 429, "a body that grows is no exception");
        let others: Vec<Hold> = ["b", "c", "d"].iter().map(|user| hold(user, 100).unwrap()).collect();
        assert_eq!(hold("e", 1).unwrap_err().code, 429, "all is taken");
        let mut admin = bodies.hold("admin", false);
        admin.grow(1000).unwrap();
        drop(first);
        assert_eq!(hold("e", 1).unwrap_err().code, 429, "what an administrator holds counts");
        drop(admin);
        hold("e", 1).unwrap();
        drop(others);
        let state = bodies.state.lock();
        assert!(state.used == 0 && state.users.is_empty(), "{state:?}");
    }

    #[test]
    fn there_is_room_for_large_bodies() {
        let bodies = Bodies::new(1);
        let mut holds: Vec<Hold> = (0..2).map(|_| bodies.hold("a", true)).collect();
        for hold in &mut holds {
            hold.begin().unwrap();
            hold.grow(LIMIT).unwrap();
        }
        assert_eq!(bodies.hold("a", true).grow(LIMIT).unwrap_err().code, 429);
    }
}
