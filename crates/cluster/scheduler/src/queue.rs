//! Pods that wait for a node (`pkg/scheduler/backend/queue`).
//!
//! ```text
//!  active (by priority, then age) ◀── back-off (1 s · 2^n, at most 10 s) ◀──┐
//!     │ pop                                                                 │ an event that may help
//!     └─ nothing fits ─▶ unschedulable, with who said no ───────────────────┘ (or 5 minutes)
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::plugins::Plugin;

const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(10);
const LONGEST_REST: Duration = Duration::from_secs(300);

/// What happened in the cluster that may make a pod fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterEvent {
    /// A node came or changed.
    Node,
    /// A pod was bound somewhere, or its labels changed.
    PodAssigned,
    /// A pod on a node ended.
    PodGone,
    /// A namespace's labels changed.
    Namespace,
    /// A claim, a volume or a class came, changed or went.
    Volumes,
}

/// Whether an event may change what this plugin said.
fn may_help(event: ClusterEvent, plugin: Plugin) -> bool {
    match event {
        ClusterEvent::Node => true,
        ClusterEvent::PodAssigned => matches!(plugin, Plugin::InterPodAffinity | Plugin::PodTopologySpread),
        ClusterEvent::PodGone => matches!(
            plugin,
            Plugin::InterPodAffinity
                | Plugin::PodTopologySpread
                | Plugin::NodeResourcesFit
                | Plugin::NodePorts
                | Plugin::VolumeRestrictions
        ),
        ClusterEvent::Namespace => plugin == Plugin::InterPodAffinity,
        ClusterEvent::Volumes => {
            matches!(plugin, Plugin::VolumeBinding | Plugin::VolumeRestrictions | Plugin::VolumeZone)
        }
    }
}

/// Order in the active queue.
type Rank = (Reverse<i32>, u64);

#[derive(Debug)]
struct Waiting {
    rejected_by: BTreeSet<Plugin>,
    since: Instant,
}

#[derive(Default)]
struct State {
    active: BTreeMap<Rank, String>,
    ranks: HashMap<String, Rank>,
    backing_off: BTreeSet<(Instant, String)>,
    unschedulable: HashMap<String, Waiting>,
    attempts: HashMap<String, u32>,
    priorities: HashMap<String, i32>,
    counter: u64,
    /// Counts events, so that one that came while a pod was being tried is not missed.
    events: u64,
    last_events: Vec<(u64, ClusterEvent)>,
}

/// See the module. Keys are the pods' store keys.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    wake: Notify,
}

/// A pod to try, and the number of events seen by then.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Turn {
    /// The pod's key.
    pub key: String,
    /// For [`Queue::put_back`].
    pub events: u64,
}

impl Queue {
    /// A pod that is new or whose specification changed: it is tried at once.
    pub fn add(&self, key: &str, priority: i32) {
        let mut state = self.state.lock();
        state.drop_from_all(key);
        state.priorities.insert(key.to_owned(), priority);
        state.activate(key);
        state.publish();
        drop(state);
        self.wake.notify_one();
    }

    /// The pod needs no node any more.
    pub fn remove(&self, key: &str) {
        let mut state = self.state.lock();
        state.drop_from_all(key);
        state.attempts.remove(key);
        state.priorities.remove(key);
        state.publish();
    }

    /// Waits for the next pod.
    pub async fn pop(&self) -> Turn {
        loop {
            let woken = self.wake.notified();
            let due = {
                let mut state = self.state.lock();
                state.flush(Instant::now());
                if let Some((_, key)) = state.active.pop_first() {
                    state.ranks.remove(&key);
                    *state.attempts.entry(key.clone()).or_insert(0) += 1;
                    state.publish();
                    return Turn { key, events: state.events };
                }
                state.next_due()
            };
            match due {
                Some(due) => {
                    tokio::select! { () = woken => {}, () = tokio::time::sleep_until(due) => {} }
                }
                None => woken.await,
            }
        }
    }

    /// No node fits, because of these plugins; none when something went wrong, which time may heal.
    pub fn put_back(&self, turn: &Turn, rejected_by: BTreeSet<Plugin>) {
        let mut state = self.state.lock();
        if !state.priorities.contains_key(&turn.key) || state.ranks.contains_key(&turn.key) {
            return;
        }
        let missed = state
            .last_events
            .iter()
            .any(|(number, event)| *number > turn.events && rejected_by.iter().any(|p| may_help(*event, *p)));
        if missed || rejected_by.is_empty() {
            let due = Instant::now() + state.back_off(&turn.key);
            state.backing_off.insert((due, turn.key.clone()));
        } else {
            state.unschedulable.insert(turn.key.clone(), Waiting { rejected_by, since: Instant::now() });
        }
        state.publish();
        drop(state);
        self.wake.notify_one();
    }

    /// Something happened: pods that it may help get another try, after their back-off.
    pub fn happened(&self, event: ClusterEvent) {
        let mut state = self.state.lock();
        state.events += 1;
        let number = state.events;
        state.last_events.push((number, event));
        let excess = state.last_events.len().saturating_sub(1000);
        state.last_events.drain(..excess);
        let helped: Vec<String> = state
            .unschedulable
            .iter()
            .filter(|(_, w)| w.rejected_by.iter().any(|p| may_help(event, *p)))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &helped {
            state.wake_up(key);
        }
        state.publish();
        drop(state);
        if !helped.is_empty() {
            self.wake.notify_one();
        }
    }
}

impl State {
    fn publish(&self) {
        crate::metrics::pending(self.active.len(), self.backing_off.len(), self.unschedulable.len());
    }

    fn drop_from_all(&mut self, key: &str) {
        if let Some(rank) = self.ranks.remove(key) {
            self.active.remove(&rank);
        }
        self.unschedulable.remove(key);
        self.backing_off.retain(|(_, k)| k != key);
    }

    fn activate(&mut self, key: &str) {
        self.counter += 1;
        let rank = (Reverse(self.priorities.get(key).copied().unwrap_or(0)), self.counter);
        self.ranks.insert(key.to_owned(), rank);
        self.active.insert(rank, key.to_owned());
    }

    fn back_off(&self, key: &str) -> Duration {
        let attempts = self.attempts.get(key).copied().unwrap_or(1).max(1);
        FIRST_BACK_OFF.saturating_mul(1 << (attempts - 1).min(10)).min(LONGEST_BACK_OFF)
    }

    fn wake_up(&mut self, key: &str) {
        let Some(waiting) = self.unschedulable.remove(key) else { return };
        let due = waiting.since + self.back_off(key);
        if due <= Instant::now() {
            self.activate(key);
        } else {
            self.backing_off.insert((due, key.to_owned()));
        }
    }

    fn flush(&mut self, now: Instant) {
        while let Some((due, key)) = self.backing_off.first().cloned() {
            if due > now {
                break;
            }
            self.backing_off.pop_first();
            self.activate(&key);
        }
        let tired: Vec<String> = self
            .unschedulable
            .iter()
            .filter(|(_, w)| now.duration_since(w.since) >= LONGEST_REST)
            .map(|(k, _)| k.clone())
            .collect();
        for key in tired {
            self.unschedulable.remove(&key);
            self.activate(&key);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let back_off = self.backing_off.first().map(|(due, _)| *due);
        let rest = self.unschedulable.values().map(|w| w.since + LONGEST_REST).min();
        back_off.into_iter().chain(rest).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When the only pod's back-off ends; lets that time come.
    fn back_off_ends(queue: &Queue) -> Instant {
        let mut state = queue.state.lock();
        let due = state.next_due().unwrap();
        state.flush(due);
        due
    }

    #[tokio::test]
    async fn priority_then_age() {
        let queue = Queue::default();
        queue.add("old", 0);
        queue.add("new", 0);
        queue.add("vip", 9);
        queue.remove("nobody");
        let mut order = Vec::new();
        for _ in 0..3 {
            order.push(queue.pop().await.key);
        }
        assert_eq!(order, ["vip", "old", "new"]);
    }

    #[tokio::test]
    async fn events_that_may_help_end_the_rest() {
        let queue = Queue::default();
        queue.add("p", 0);
        let turn = queue.pop().await;
        queue.put_back(&turn, [Plugin::NodeResourcesFit].into());
        queue.happened(ClusterEvent::PodAssigned);
        assert!(queue.state.lock().backing_off.is_empty(), "that frees no resources");
        let rejected = queue.state.lock().unschedulable["p"].since;
        queue.happened(ClusterEvent::PodGone);
        assert_eq!(back_off_ends(&queue) - rejected, Duration::from_secs(1), "its first back-off");
        let turn = queue.pop().await;
        queue.happened(ClusterEvent::Node);
        let rejected = Instant::now();
        queue.put_back(&turn, [Plugin::NodeResourcesFit].into());
        let rest = back_off_ends(&queue) - rejected;
        assert!(rest >= Duration::from_secs(2), "the event came while it was tried; its second back-off: {rest:?}");
        queue.pop().await;
        queue.remove("p");
        queue.put_back(&turn, [Plugin::NodePorts].into());
        assert!(queue.state.lock().unschedulable.is_empty(), "a removed pod stays away");
    }
}
