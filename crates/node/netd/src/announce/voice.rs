//! The task that runs a [`Speaker`]: packets in, packets out.

use std::net::Ipv4Addr;

use anyhow::Result;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::heart::Pulse;
use super::interfaces::Interface;
use super::socket::ArpSocket;
use super::speaker::{News, Output, Speaker};
use crate::metrics::Metrics;

/// What the task is told.
#[derive(Debug)]
pub enum Command {
    /// Answer for an address by an interface.
    Claim(Ipv4Addr, Interface),
    /// No more.
    Drop(Ipv4Addr),
}

/// Opens the socket and runs until `commands` ends.
pub async fn run(
    mut commands: mpsc::UnboundedReceiver<Command>,
    mut pulse: watch::Receiver<Pulse>,
    news: mpsc::UnboundedSender<(Ipv4Addr, News)>,
    metrics: Metrics,
) -> Result<()> {
    let socket = ArpSocket::open()?;
    let mut speaker = Speaker::default();
    loop {
        let (now, fresh_until) = (Instant::now(), pulse.borrow_and_update().fresh_until);
        let out = speaker.tick(now, fresh_until);
        act(&socket, &speaker, &news, out);
        metrics.announced(speaker.speaking(now, fresh_until));
        let due = speaker.next(now, fresh_until);
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Claim(address, interface)) => speaker.claim(Instant::now(), address, interface),
                Some(Command::Drop(address)) => speaker.drop(address),
                None => return Ok(()),
            },
            heard = socket.hear() => {
                let (index, packet) = heard?;
                // As it is now, not as it was before the wait: this is what keeps two nodes from answering.
                let fresh_until = pulse.borrow().fresh_until;
                let out = speaker.hear(Instant::now(), fresh_until, index, &packet);
                act(&socket, &speaker, &news, out);
            }
            changed = pulse.changed() => if changed.is_err() { return Ok(()) },
            () = sleep_until(due) => {}
        }
    }
}

fn act(socket: &ArpSocket, speaker: &Speaker, news: &mpsc::UnboundedSender<(Ipv4Addr, News)>, out: Vec<Output>) {
    for output in out {
        match output {
            Output::Send(address, packet, to) => {
                let Some(interface) = speaker.interface(address) else { continue };
                if let Err(error) = socket.send(&interface.link, &packet.frame(to)) {
                    tracing::warn!(%address, error = format!("{error:#}"), "speak for a load balancer's address");
                }
            }
            // Who listens is gone only when the process ends.
            Output::Tell(address, what) => drop(news.send((address, what))),
        }
    }
}

/// Waits until then, or for ever.
pub async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
