//! Carries out what a round decided.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use tokio::time::Instant;

use super::agent::{Agent, DOUBT, Mine, Round, sooner};
use super::interfaces::Interface;
use super::voice::Command;

/// Writes at the same time: a node that takes over from another may take many addresses.
const AT_ONCE: usize = 16;

impl Agent {
    /// Writes what was decided; how soon to look again: what was done changes what is to be done next, and what failed
    /// is tried again.
    pub(super) async fn act(&mut self, round: Round) -> Option<Duration> {
        for address in round.release.iter().chain(&round.forget) {
            self.stop(*address);
        }
        let mut again = None;
        let leases = self.leases.clone();
        for done in at_once(round.release, move |address| leases.clone().give_up(address)).await {
            again = sooner(again, succeeded(done).map_or(DOUBT, |()| Duration::ZERO));
        }
        let leases = self.leases.clone();
        for done in at_once(round.forget, move |address| leases.clone().forget(address)).await {
            succeeded(done);
        }
        for node in round.dead {
            match succeeded(self.leases.declare_dead(&node).await) {
                Some(true) => {
                    tracing::warn!(node, "no sign of life: its addresses are taken over");
                    self.setup.metrics.declared_dead();
                    again = Some(Duration::ZERO);
                }
                _ => {
                    self.doubts.insert(node, Instant::now() + DOUBT);
                    again = sooner(again, DOUBT);
                }
            }
        }
        if round.take.is_empty() {
            return again;
        }
        sooner(again, if self.take(round.take).await { Duration::ZERO } else { DOUBT })
    }

    /// Takes addresses; true when it got any.
    async fn take(&mut self, wanted: BTreeMap<Ipv4Addr, Interface>) -> bool {
        if let Err(error) = self.heart.beats().await {
            tracing::warn!(error = format!("{error:#}"), "take addresses");
            return false;
        }
        let epoch = self.pulse.borrow().epoch;
        let leases = self.leases.clone();
        let taken = at_once(wanted, move |(address, interface)| {
            let leases = leases.clone();
            async move { (address, interface, leases.take(address).await) }
        })
        .await;
        // Declared dead meanwhile: what was taken before that is not this node's.
        let valid = self.pulse.borrow().epoch == epoch;
        let mut acted = false;
        for (address, interface, done) in taken {
            let Some(version) = succeeded(done).flatten().filter(|_| valid) else { continue };
            acted = true;
            self.free.remove(&address);
            tracing::info!(%address, interface = interface.name, "this node has the address");
            let _ = self.commands.send(Command::Claim(address, interface.clone()));
            self.mine.insert(address, Mine { version, interface });
        }
        acted
    }
}

fn succeeded<T>(done: Result<T>) -> Option<T> {
    done.inspect_err(|error| tracing::warn!(error = format!("{error:#}"), "settle who answers for an address")).ok()
}

/// Does the same with all, a few at a time.
async fn at_once<T, F, Fut>(all: impl IntoIterator<Item = T>, work: F) -> Vec<Fut::Output>
where
    F: FnMut(T) -> Fut,
    Fut: Future,
{
    let all: Vec<T> = all.into_iter().collect();
    futures::stream::iter(all).map(work).buffer_unordered(AT_ONCE).collect().await
}
