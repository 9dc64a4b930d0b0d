//! The task that looks after one pod from its arrival to its end.

mod act;
mod done;
mod end;
mod enter;
mod grant;
mod hold;
mod report;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::admit::claim::Claim;
use super::clean;
use super::ledger::Refusal;
use super::manager::Manager;
use super::memory::Memory;
use super::observe::{Observed, observe};
use super::resize::{self, Allocation};
use super::step::{Intent, step};
use crate::kubelet::Kubelet;
use crate::names::PodKey;
use crate::probe::Probes;
use crate::volumes::{Volumes, payload::Tokens};
use done::Done;
use end::MEASURE;
use hold::Held;

/// What is wanted of a pod.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its newest spec and metadata.
    pub pod: Arc<Pod>,
    /// It is gone from its source: end it, there is nobody to report to.
    pub removed: bool,
    /// Uid to write its status under; `None` for a static pod without a mirror.
    pub api_uid: Option<String>,
    /// From a file.
    pub is_static: bool,
    /// The node ends this pod.
    pub evicted: Option<Eviction>,
}

/// Why the node ends a pod, and how fast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// Reason of the pod's status and of the event.
    pub reason: &'static str,
    /// Message of both.
    pub message: String,
    /// Message of the condition `DisruptionTarget`.
    pub disruption: String,
    /// Seconds until the pod's processes are killed; the pod's own time where there is none.
    pub grace: Option<i64>,
}

/// Without news a pod is looked at again after this.
const RESYNC: Duration = Duration::from_secs(60);

/// One pod's worker.
pub struct Worker {
    kubelet: Arc<Kubelet>,
    key: PodKey,
    manager: Manager,
    wanted: watch::Receiver<Wanted>,
    poke: Arc<Notify>,
    memory: Memory,
    allocation: Allocation,
    /// The newest pod with what it was granted.
    pod: Arc<Pod>,
    refusal: Option<Refusal>,
    was_resizing: bool,
    probes: Probes,
    volumes: Volumes,
    tokens: Tokens,
    held: Held,
    refresh: Arc<Notify>,
    /// Something volumes are made from changed while they were being made.
    stale: bool,
    verdict: Option<(String, String)>,
    /// The node ends the pod.
    disruption: Option<Eviction>,
    last: Option<PodStatus>,
    backing_off: BTreeSet<String>,
    /// When the pod was first seen; nothing once it has run.
    unstarted: Option<tokio::time::Instant>,
    measured: Option<tokio::time::Instant>,
    /// Cancelled once the pod is to end, for good.
    ending: CancellationToken,
    torn_down: bool,
    tearing: bool,
    done: (mpsc::UnboundedSender<Done>, mpsc::UnboundedReceiver<Done>),
}

/// What the loop does after a round.
enum Round {
    Wait(Option<Timestamp>),
    Again,
    End,
}

impl Worker {
    /// A worker for a pod that has just been seen. One that runs already has its room from now on.
    pub fn new(manager: Manager, key: PodKey, wanted: watch::Receiver<Wanted>, poke: Arc<Notify>) -> Self {
        let kubelet = manager.kubelet.clone();
        let longest = kubelet.config.crash_loop_back_off.max_container_restart_period;
        let pod = wanted.borrow().pod.clone();
        let probes = Probes::new(poke.clone(), pod.status.as_ref());
        let allocation = grant::known(&kubelet, &key, &pod);
        let granted = Arc::new(resize::with(&pod, &allocation));
        if phase(&pod) == Some("Running") {
            kubelet.ledger.enter(&key.uid, Claim::of(&granted));
        }
        Self {
            manager,
            allocation,
            refusal: None,
            was_resizing: false,
            memory: Memory::new(longest),
            probes,
            volumes: Volumes::new(),
            tokens: Tokens::default(),
            held: Held::default(),
            refresh: Arc::new(Notify::new()),
            verdict: None,
            disruption: None,
            pod: granted,
            last: pod.status.clone().filter(|s| s.start_time.is_some()),
            backing_off: BTreeSet::new(),
            unstarted: (phase(&pod) != Some("Running")).then(tokio::time::Instant::now),
            measured: None,
            ending: CancellationToken::new(),
            stale: false,
            torn_down: false,
            tearing: false,
            done: mpsc::unbounded_channel(),
            kubelet,
            key,
            wanted,
            poke,
        }
    }

    /// Runs to the pod's end.
    pub async fn run(mut self) {
        let pod = self.wanted.borrow().pod.clone();
        // What ran before this kubelet started goes on, whatever would be refused today; what has ended is not asked
        // for.
        if !matches!(phase(&pod), Some("Running" | "Succeeded" | "Failed"))
            && let Err((reason, message)) = self.admit(&pod).await
        {
            self.kubelet.events.pod(&pod, None, true, &reason, &message);
            self.kubelet.metrics.refused(&reason);
            self.verdict = Some((reason, format!("Pod was rejected: {message}")));
        }
        self.hold(&pod);
        let mut operation = "create";
        loop {
            let begun = tokio::time::Instant::now();
            let round = self.round().await;
            let what = if self.ending.is_cancelled() { "kill" } else { operation };
            self.kubelet.metrics.worked(what, begun.elapsed());
            operation = "sync";
            let wake = match round {
                Round::End => return,
                Round::Again => continue,
                Round::Wait(wake) => wake,
            };
            let resync = tokio::time::Instant::now() + if self.measured.is_some() { MEASURE } else { RESYNC };
            // Tokens that are being renewed are not due a second time.
            let due = self.tokens.due().filter(|_| !self.memory.mounting);
            let until = [wake, due].into_iter().flatten().min().map_or(resync, |t| instant(t).min(resync));
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return },
                () = self.poke.notified() => {}
                () = self.refresh.notified() => self.mount_again(),
                Some(done) = self.done.1.recv() => self.take(done),
                () = tokio::time::sleep_until(until) => {
                    if due.is_some_and(|d| d <= Timestamp::now()) {
                        self.mount_again();
                    }
                }
            }
            while let Ok(done) = self.done.1.try_recv() {
                self.take(done);
            }
        }
    }

    async fn round(&mut self) -> Round {
        let wanted = self.wanted.borrow_and_update().clone();
        if let Some(eviction) = wanted.evicted.clone().filter(|_| self.verdict.is_none()) {
            self.kubelet.events.pod(&wanted.pod, None, true, eviction.reason, &eviction.message);
            self.verdict = Some((eviction.reason.to_owned(), eviction.message.clone()));
            self.disruption = Some(eviction);
        }
        let intent = self.intent(&wanted);
        let pod = self.granted(&wanted.pod, &intent);
        let before = std::mem::replace(&mut self.pod, pod.clone());
        if self.held_downward() && hold::told_differently(&before, &pod) {
            self.mount_again();
        }
        let seen = match observe(&self.kubelet.runtime, &self.key.uid).await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::warn!(pod = %self.key, %error, "ask the runtime about the pod");
                return Round::Wait(Timestamp::now().checked_add(SignedDuration::from_secs(5)).ok());
            }
        };
        let now = Timestamp::now();
        self.remember(&pod, &seen);
        self.check_deadline(&pod, now);
        self.check_sizes(&pod);
        let intent = self.intent(&wanted);
        if matches!(intent, Intent::Terminate { .. }) {
            self.ending.cancel();
        }
        let out = step(&pod, &seen, &self.memory, &intent, now);
        let over = out.finished;
        if over {
            self.kubelet.ledger.leave(&self.key.uid);
        }
        if over && !self.torn_down {
            if !self.tearing {
                self.tear_down(&pod);
            }
            self.publish(&wanted, &seen, &out, false, now);
            return Round::Wait(None);
        }
        self.publish(&wanted, &seen, &out, over, now);
        if over && (wanted.removed || pod.metadata.deletion_timestamp.is_some()) {
            return self.finish(&wanted, &seen).await;
        }
        self.tell_of_back_off(&pod, &out);
        let wake = [out.wake, self.deadline(&pod)].into_iter().flatten().min();
        for action in out.actions {
            self.act(&pod, &seen, action);
        }
        let keep = usize::try_from(self.kubelet.config.max_per_pod_container.unwrap_or(1)).unwrap_or(1);
        clean::dead_containers(&self.kubelet, &self.key, &seen, keep).await;
        Round::Wait(wake)
    }

    /// Brings what is remembered in line with what is.
    fn remember(&mut self, pod: &Arc<Pod>, seen: &Observed) {
        self.probes.follow(&self.kubelet, pod, seen);
        let (started, condemned) = self.probes.read(|r| (r.started.clone(), r.condemned.clone()));
        self.memory.started = started;
        self.memory.condemned = condemned;
    }
}

#[cfg(test)]
mod tests;

/// The phase that the API knows.
fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref().and_then(|s| s.phase.as_deref())
}

fn instant(at: Timestamp) -> tokio::time::Instant {
    let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
    tokio::time::Instant::now() + left
}
