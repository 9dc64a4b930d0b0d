//! Limits on requests that are handled at the same time (`--max-requests-inflight`,
//! `--max-mutating-requests-inflight`).
//!
//! A permit is taken when the whole request has arrived: whoever sends slowly, or nothing, holds none. One user holds
//! at most half of them, so that no single client can keep all others waiting.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kinit_apimachinery::ApiError;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A short wait smooths bursts; beyond it the client is told to come back.
const PATIENCE: Duration = Duration::from_secs(1);

/// Permits for requests of one sort.
#[derive(Debug)]
pub struct Limit {
    all: Arc<Semaphore>,
    /// What one user may hold.
    share: usize,
    users: Arc<Users>,
}

type Users = Mutex<HashMap<String, Arc<Semaphore>>>;

/// Lets one request be handled; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    _all: OwnedSemaphorePermit,
    _share: Share,
}

/// A permit of one user, who is forgotten with their last one.
#[derive(Debug)]
struct Share {
    permit: Option<OwnedSemaphorePermit>,
    user: String,
    users: Arc<Users>,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut users = self.users.lock();
        self.permit = None;
        // Whoever waits for a share holds a reference of their own, taken under this lock.
        if users.get(&self.user).is_some_and(|share| Arc::strong_count(share) == 1) {
            users.remove(&self.user);
        }
    }
}

impl Limit {
    /// `total` requests at the same time.
    pub fn new(total: usize) -> Self {
        let total = total.clamp(1, Semaphore::MAX_PERMITS);
        Self { all: Arc::new(Semaphore::new(total)), share: total.div_ceil(2), users: Arc::default() }
    }

    /// Waits a moment for a permit; 429 when there is none.
    pub async fn acquire(&self, user: &str) -> Result<Permit, ApiError> {
        let acquired = tokio::time::timeout(PATIENCE, async {
            let share = self.share_of(user).await?;
            Some(Permit { _all: self.all.clone().acquire_owned().await.ok()?, _share: share })
        });
        match acquired.await {
            Ok(Some(permit)) => Ok(permit),
            _ => Err(ApiError::too_many_requests("Too many requests, please try again later.", 1)),
        }
    }

    async fn share_of(&self, user: &str) -> Option<Share> {
        let share = {
            let mut users = self.users.lock();
            users.entry(user.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.share))).clone()
        };
        // Forgets the user, too, when this future is dropped while it waits.
        let mut out = Share { permit: None, user: user.to_owned(), users: self.users.clone() };
        out.permit = Some(share.acquire_owned().await.ok()?);
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_user_cannot_take_all() {
        let limit = Limit::new(4);
        let held = [limit.acquire("a").await.unwrap(), limit.acquire("a").await.unwrap()];
        assert_eq!(limit.acquire("a").await.unwrap_err().code, 429);
        let other = [limit.acquire("b").await.unwrap(), limit.acquire("c").await.unwrap()];
        assert_eq!(limit.acquire("d").await.unwrap_err().code, 429, "all are taken");
        drop(other);
        assert!(limit.acquire("d").await.is_ok());
        drop(held);
        assert!(limit.acquire("a").await.is_ok());
        assert!(limit.users.lock().is_empty(), "users without requests are forgotten");
    }
}
