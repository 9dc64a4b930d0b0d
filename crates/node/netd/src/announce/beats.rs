//! When each node's sign of life was last seen to change, by this node's clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kinit_client::informer::{Change, Store};
use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::decide::Holder;
use super::lease;

#[derive(Clone, Copy)]
struct Beat {
    seen: Instant,
    alive: bool,
}

/// The beats of all nodes that have addresses.
#[derive(Clone, Default)]
pub struct Beats(Arc<Mutex<HashMap<String, Beat>>>);

impl Beats {
    /// Follows the Leases. `news` hears of all but a renewal: those change nothing, and come every moment.
    pub fn follow(leases: &Store<Lease>, news: Arc<Notify>) -> Self {
        let this = Self::default();
        let beats = this.clone();
        leases.on_change(move |change| {
            if beats.take(change) {
                news.notify_one();
            }
        });
        this
    }

    fn take(&self, change: &Change<Lease>) -> bool {
        let name = change.object().name_any();
        let Some(node) = lease::node(&name) else { return true };
        let mut beats = self.0.lock();
        if let Change::Deleted(_) = change {
            return beats.remove(node).is_some();
        }
        let beat = Beat { seen: Instant::now(), alive: lease::holder(change.object()).is_some() };
        beats.insert(node.to_owned(), beat).is_none_or(|old| old.alive != beat.alive)
    }

    /// Who has an address, by its Lease: `since` is for how long nobody does, `taken` whether this node took it.
    pub fn holder(&self, lease: Option<&Lease>, me: &str, taken: bool, now: Instant, since: Duration) -> Holder {
        match lease.and_then(lease::holder) {
            None => Holder::Nobody(since),
            Some(node) if node == me => Holder::Me(taken),
            Some(node) => match self.0.lock().get(node) {
                Some(beat) if beat.alive => Holder::Other(now.saturating_duration_since(beat.seen)),
                _ => Holder::Nobody(since),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_sign_of_life_has_nothing() {
        let store = Store::<Lease>::new();
        let beats = Beats::follow(&store, Arc::new(Notify::new()));
        let mine = lease::new("address.192.0.2.7", "b", Duration::from_secs(2), None);
        let holder = |lease: &Lease| beats.holder(Some(lease), "me", false, Instant::now(), Duration::ZERO);
        assert_eq!(holder(&mine), Holder::Nobody(Duration::ZERO));
        let mut life = lease::new("node.b", "b", Duration::from_secs(2), None);
        store.apply(life.clone());
        assert!(matches!(holder(&mine), Holder::Other(_)));
        life = lease::emptied(&life);
        store.apply(life);
        assert_eq!(holder(&mine), Holder::Nobody(Duration::ZERO));
        store.remove("kinit-load-balancer/node.b");
        assert_eq!(holder(&mine), Holder::Nobody(Duration::ZERO));
        let own = lease::renewed(&mine, "me");
        assert_eq!(holder(&own), Holder::Me(false));
        assert_eq!(beats.holder(None, "me", true, Instant::now(), RESPECT), Holder::Nobody(RESPECT));
    }

    const RESPECT: Duration = super::super::heart::RESPECT;
}
