//! What the node's pods were granted, so that no two pods and no two resizes are granted the same room.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::admit::claim::Claim;
use super::admit::fit::{self, Reason, Room};
use super::admit::placement::Misfit;
use super::admit::preempt;
use crate::resources::Asked;

/// Why a resize is not granted: the reason and message of the condition `PodResizePending`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `Infeasible` (never on this node) or `Deferred` (not now).
    pub reason: &'static str,
    /// What is short.
    pub message: String,
}

#[derive(Debug, Default)]
struct Books {
    granted: HashMap<String, Claim>,
    /// Pods that their source no longer knows: they end, and are in nobody's way (`getAllocatedPods`).
    removed: HashSet<String>,
    waiting: HashMap<String, Arc<Notify>>,
}

impl Books {
    /// What is in the way of a pod.
    fn others<'a>(&'a self, uid: &'a str) -> impl Iterator<Item = (&'a str, &'a Claim)> + Clone {
        let counts = move |other: &&String| other.as_str() != uid && !self.removed.contains(*other);
        self.granted.iter().filter(move |(other, _)| counts(other)).map(|(other, claim)| (other.as_str(), claim))
    }
}

/// The node's books.
#[derive(Debug)]
pub struct Ledger {
    /// What pods may have in all.
    allocatable: Asked,
    books: Mutex<Books>,
    left: Notify,
    moved: Arc<Notify>,
}

impl Ledger {
    /// Nothing granted yet.
    pub fn new(allocatable: Asked) -> Self {
        Self { allocatable, books: Mutex::default(), left: Notify::new(), moved: Arc::new(Notify::new()) }
    }

    /// A pod is here with what it has: it ran before this process did, nothing is asked.
    pub fn enter(&self, uid: &str, claim: Claim) {
        self.books.lock().granted.insert(uid.to_owned(), claim);
        self.moved.notify_one();
    }

    /// Lets a pod in that fits beside all others; else tells all that is in the way.
    pub fn admit(&self, uid: &str, claim: &Claim, room: &Room, misfits: &[Misfit]) -> Result<(), Vec<Reason>> {
        let mut books = self.books.lock();
        let others = books.others(uid).map(|(_, claim)| claim);
        let reasons = fit::reasons(claim, others, room, misfits);
        if !reasons.is_empty() {
            return Err(reasons);
        }
        books.granted.insert(uid.to_owned(), claim.clone());
        self.moved.notify_one();
        Ok(())
    }

    /// Uids of pods that are to make room for a critical one.
    pub fn victims(&self, uid: &str, claim: &Claim, reasons: &[Reason]) -> Result<Vec<String>, String> {
        let books = self.books.lock();
        preempt::victims(claim, books.others(uid), reasons)
    }

    /// What all pods were granted.
    pub fn granted(&self) -> Vec<Claim> {
        self.books.lock().granted.values().cloned().collect()
    }

    /// Wakes when a pod was admitted, changed or has left.
    pub fn moved(&self) -> Arc<Notify> {
        self.moved.clone()
    }

    /// A pod is gone from its source: what it had may be had by others, although it has still to end.
    pub fn removed(&self, uid: &str) {
        let mut books = self.books.lock();
        if books.granted.contains_key(uid) {
            books.removed.insert(uid.to_owned());
        }
    }

    /// A pod gives back what it had; those that wait look again.
    pub fn leave(&self, uid: &str) {
        let mut books = self.books.lock();
        books.waiting.remove(uid);
        books.removed.remove(uid);
        if books.granted.remove(uid).is_some() {
            books.waiting.values().for_each(|w| w.notify_one());
            self.left.notify_waiters();
            self.moved.notify_one();
        }
    }

    /// Waits until a pod has ended; the caller bounds the time.
    pub async fn gone(&self, uid: &str) {
        loop {
            let left = self.left.notified();
            if !self.books.lock().granted.contains_key(uid) {
                return;
            }
            left.await;
        }
    }

    /// Grants a pod something else than it has, or says why not; `poke` is notified when room comes free.
    pub fn change(&self, uid: &str, to: Asked, poke: &Arc<Notify>) -> Result<(), Refusal> {
        let mut books = self.books.lock();
        let has = books.granted.get(uid).map(|c| c.asked).unwrap_or_default();
        match judge(has, to, others(&books.granted, uid), self.allocatable) {
            Ok(()) => {
                if let Some(claim) = books.granted.get_mut(uid) {
                    claim.asked = to;
                }
                books.waiting.remove(uid);
                self.moved.notify_one();
                if to.cpu < has.cpu || to.memory < has.memory {
                    books.waiting.values().for_each(|w| w.notify_one());
                }
                Ok(())
            }
            Err(refusal) => {
                if refusal.reason == "Deferred" {
                    books.waiting.insert(uid.to_owned(), poke.clone());
                }
                Err(refusal)
            }
        }
    }
}

fn others(granted: &HashMap<String, Claim>, uid: &str) -> Asked {
    let rest = granted.iter().filter(|(other, _)| *other != uid).map(|(_, claim)| claim.asked);
    rest.fold(Asked::default(), |sum, a| Asked { cpu: sum.cpu + a.cpu, memory: sum.memory + a.memory })
}

/// `allocation_manager.canResizePod`.
fn judge(has: Asked, to: Asked, used: Asked, all: Asked) -> Result<(), Refusal> {
    for (name, has, to, used, all) in
        [("cpu", has.cpu, to.cpu, used.cpu, all.cpu), ("memory", has.memory, to.memory, used.memory, all.memory)]
    {
        if to > all {
            let message = format!("Node didn't have enough capacity: {name}, requested: {to}, capacity: {all}");
            return Err(Refusal { reason: "Infeasible", message });
        }
        if to > has && used + to > all {
            let message =
                format!("Node didn't have enough resource: {name}, requested: {to}, used: {used}, capacity: {all}");
            return Err(Refusal { reason: "Deferred", message });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    #[test]
    fn what_is_granted() {
        let asked = |cpu, memory| Asked { cpu, memory };
        let all = asked(2000, 1000);
        for (has, to, used, verdict) in [
            (asked(100, 10), asked(500, 10), asked(1000, 0), None),
            (asked(100, 10), asked(2500, 10), asked(0, 0), Some("Infeasible")),
            (asked(100, 10), asked(1500, 10), asked(1000, 0), Some("Deferred")),
            (asked(100, 10), asked(100, 999), asked(0, 500), Some("Deferred")),
            (asked(1500, 10), asked(1200, 10), asked(1000, 0), None),
        ] {
            assert_eq!(judge(has, to, used, all).err().map(|r| r.reason), verdict, "{has:?} {to:?} {used:?}");
        }
    }

    #[tokio::test]
    async fn who_waits_is_told_when_room_comes_free() {
        let ledger = Ledger::new(Asked { cpu: 1000, memory: 1000 });
        let poke = Arc::new(Notify::new());
        let claim = |cpu| Claim { asked: Asked { cpu, memory: 0 }, ..Claim::of(&Pod::default()) };
        ledger.enter("a", claim(600));
        ledger.enter("b", claim(300));
        assert!(ledger.change("b", Asked { cpu: 500, memory: 0 }, &poke).is_err());
        ledger.leave("a");
        poke.notified().await;
        assert!(ledger.change("b", Asked { cpu: 500, memory: 0 }, &poke).is_ok());
    }
}
