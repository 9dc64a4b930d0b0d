//! The sign of life of a node that answers for addresses: Lease `node.NAME`, renewed while it is needed.
//!
//! ```text
//! node    writes ·········· writes ·· (cut off)      silent from 1.5 s after the last write *began*
//! others         sees ············ sees              count it as dead 2 s after they *saw* the last change
//! ```
//!
//! Each counts by its own clock, so that clocks need not agree. Who counts a node as dead empties the Lease before it
//! takes anything over; that write fails when the node has written meanwhile, and the node's next write fails when it
//! was declared dead. So both know which of the two it was, and there is no moment with two.

use std::time::Duration;

use anyhow::{Result, bail};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kinit_component_base::{Shutdown, supervise};
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::Instant;

use super::lease;
use crate::metrics::Metrics;

/// Time between two writes.
const BEAT: Duration = Duration::from_millis(750);
/// How long a node may speak after a write began.
const VALID: Duration = Duration::from_millis(1500);
/// How long a write may take.
const PATIENCE: Duration = Duration::from_millis(1000);
/// Pause after a write that another was faster than.
const AGAIN: Duration = Duration::from_millis(50);
/// How long others respect a Lease that does not change.
pub const RESPECT: Duration = Duration::from_secs(2);

/// How the heart is.
#[derive(Debug, Clone, Copy)]
pub struct Pulse {
    /// Until when this node may answer for its addresses.
    pub fresh_until: Instant,
    /// Grows whenever others declared this node dead: nothing that it had is its own any more.
    pub epoch: u64,
}

/// The heart.
pub struct Heart {
    wanted: watch::Sender<bool>,
    pulse: watch::Receiver<Pulse>,
}

impl Heart {
    /// Starts the task; it beats while it is [`want`](Self::want)ed.
    pub fn start(
        api: Api<Lease>,
        node: String,
        owner: impl Fn() -> Option<OwnerReference> + Send + 'static,
        metrics: Metrics,
        shutdown: &Shutdown,
    ) -> Self {
        let (wanted, wish) = watch::channel(false);
        let (sender, pulse) = watch::channel(Pulse { fresh_until: Instant::now(), epoch: 0 });
        let beating = Beating { api, node, held: None, owner: Box::new(owner), sender, metrics };
        supervise::spawn("sign of life", beating.run(wish, shutdown.clone()));
        Self { wanted, pulse }
    }

    /// Begins to beat, or ends.
    pub fn want(&self, wanted: bool) {
        self.wanted.send_if_modified(|old| std::mem::replace(old, wanted) != wanted);
    }

    /// Its state.
    pub fn pulse(&self) -> watch::Receiver<Pulse> {
        self.pulse.clone()
    }

    /// Begins to beat and waits for the first beat, a second at most.
    pub async fn beats(&self) -> Result<()> {
        self.want(true);
        let mut pulse = self.pulse.clone();
        let first = pulse.wait_for(|pulse| Instant::now() < pulse.fresh_until);
        match tokio::time::timeout(PATIENCE, first).await {
            Ok(Ok(_)) => Ok(()),
            _ => bail!("this node's Lease could not be written"),
        }
    }
}

struct Beating {
    api: Api<Lease>,
    node: String,
    held: Option<Lease>,
    owner: Box<dyn Fn() -> Option<OwnerReference> + Send>,
    sender: watch::Sender<Pulse>,
    metrics: Metrics,
}

impl Beating {
    /// On shutdown the Lease is left as it is: a restart of this program takes less time than others wait, and moving
    /// addresses would break the connections that go through this node.
    async fn run(mut self, mut wish: watch::Receiver<bool>, shutdown: Shutdown) {
        loop {
            let begun = Instant::now();
            let pause = if *wish.borrow_and_update() {
                self.once(begun).await
            } else {
                self.rest().await;
                None
            };
            let next = async move { super::voice::sleep_until(pause.map(|pause| begun + pause)).await };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = next => {}
                changed = wish.changed() => if changed.is_err() { return },
            }
        }
    }

    /// One beat; how long after its beginning the next is due.
    async fn once(&mut self, begun: Instant) -> Option<Duration> {
        match tokio::time::timeout(PATIENCE, self.beat()).await {
            Ok(Ok(true)) => {
                self.sender.send_modify(|pulse| pulse.fresh_until = begun + VALID);
                Some(BEAT)
            }
            Ok(Ok(false)) => {
                tracing::warn!("other nodes count this one as dead and take its addresses over");
                self.held = None;
                self.sender.send_modify(|pulse| *pulse = Pulse { fresh_until: begun, epoch: pulse.epoch + 1 });
                Some(AGAIN)
            }
            Ok(Err(error)) => {
                self.metrics.heart_failed();
                tracing::warn!(%error, "renew this node's Lease");
                Some(if is_status(&error, 409) { AGAIN } else { BEAT })
            }
            Err(_) => {
                self.metrics.heart_failed();
                tracing::warn!("the API does not answer: this node's Lease is not renewed");
                Some(BEAT)
            }
        }
    }

    /// Writes the Lease; false when others have emptied it since this node's last write.
    async fn beat(&mut self) -> Result<bool, kube::Error> {
        let name = lease::of_node(&self.node);
        if let Some(held) = &self.held {
            let renewed = lease::renewed(held, &self.node);
            match self.api.replace(&name, &PostParams::default(), &renewed).await {
                Err(error) if is_status(&error, 409) || is_status(&error, 404) => {
                    // A write whose answer was lost counts too.
                    let seen = self.api.get_opt(&name).await?;
                    let Some(seen) = seen.filter(|l| lease::holder(l) == Some(self.node.as_str())) else {
                        return Ok(false);
                    };
                    let again = lease::renewed(&seen, &self.node);
                    self.held = Some(self.api.replace(&name, &PostParams::default(), &again).await?);
                }
                written => self.held = Some(written?),
            }
            return Ok(true);
        }
        let written = match self.api.get_opt(&name).await? {
            Some(seen) => self.api.replace(&name, &PostParams::default(), &lease::renewed(&seen, &self.node)).await?,
            None => {
                let fresh = lease::new(&name, &self.node, RESPECT, (self.owner)());
                self.api.create(&PostParams::default(), &fresh).await?
            }
        };
        self.held = Some(written);
        Ok(true)
    }

    /// Gives the Lease back when there is nothing to answer for.
    async fn rest(&mut self) {
        let Some(held) = self.held.take() else { return };
        self.sender.send_modify(|pulse| pulse.fresh_until = Instant::now());
        let name = lease::of_node(&self.node);
        let empty = lease::emptied(&held);
        let written = tokio::time::timeout(PATIENCE, self.api.replace(&name, &PostParams::default(), &empty)).await;
        // If it fails, others see the Lease run out.
        tracing::debug!(released = matches!(written, Ok(Ok(_))), "no more addresses");
    }
}

/// Whether an API call failed with this HTTP status.
pub fn is_status(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}
