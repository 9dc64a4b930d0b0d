//! What is said and heard of an address on the segment: a state machine without IO and clock.
//!
//! ```text
//! claim ─▶ Probing ──nobody answers──▶ Speaking ─▶ answers requests; tells all at its beginning
//!             │ somebody answers           │ cut off for long ─▶ Probing ─▶ Speaking as an orphan
//!             ▼                            ▼ as an orphan, somebody else speaks or probes
//!          Refused, tried again         Yielded, until in touch again
//! ```
//!
//! Probing and announcing follow RFC 5227, with shorter pauses: a fail-over waits for them. A claim counts for as long
//! as this node is in touch with the API (`fresh_until`); from then on it is silent, which is before anybody else may
//! take the address over. When nobody has done so for a while, because the API is gone for all, silence would cut off
//! clients for nothing: the node asks around and goes on speaking, until it hears anybody else.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

use super::arp::{Mac, Packet};
use super::interfaces::Interface;

const PROBES: u8 = 3;
const PROBE_PAUSE: Duration = Duration::from_millis(100);
/// After the start, when all hear that an address has moved.
const ANNOUNCEMENTS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(500), Duration::from_millis(1500), Duration::from_millis(3500)];
/// How soon an address that somebody else has is tried again.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);
/// How often an address is defended (RFC 5227's DEFEND_INTERVAL).
const DEFENCE_PAUSE: Duration = Duration::from_secs(10);
/// Silence after the touch was lost: who can take over has done so by then.
pub const ORPHAN_AFTER: Duration = Duration::from_secs(5);

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send this by the interface of the address.
    Send(Ipv4Addr, Packet, Mac),
    /// Something is to be known.
    Tell(Ipv4Addr, News),
}

/// What became of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// This node answers for it.
    Speaking,
    /// Somebody else does.
    Conflict(Mac),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Probing { sent: u8, next: Instant, orphan: bool },
    Speaking { since: Instant, reported: usize, orphan: bool },
    Refused { retry: Instant },
    Yielded,
}

struct Voice {
    interface: Interface,
    state: State,
    defended: Option<Instant>,
}

/// All addresses of this node.
#[derive(Default)]
pub struct Speaker(BTreeMap<Ipv4Addr, Voice>);

impl Speaker {
    /// Begins with an address, or goes on with it by another interface.
    pub fn claim(&mut self, now: Instant, address: Ipv4Addr, interface: Interface) {
        if self.0.get(&address).is_some_and(|voice| voice.interface == interface) {
            return;
        }
        let state = State::Probing { sent: 0, next: now, orphan: false };
        self.0.insert(address, Voice { interface, state, defended: None });
    }

    /// Says no more for it.
    pub fn drop(&mut self, address: Ipv4Addr) {
        self.0.remove(&address);
    }

    /// The interface of an address.
    pub fn interface(&self, address: Ipv4Addr) -> Option<&Interface> {
        self.0.get(&address).map(|voice| &voice.interface)
    }

    /// How many addresses are answered for.
    pub fn speaking(&self, now: Instant, fresh_until: Instant) -> usize {
        self.0.values().filter(|voice| voice.speaks(now < fresh_until)).count()
    }

    /// Somebody said something.
    pub fn hear(&mut self, now: Instant, fresh_until: Instant, index: usize, packet: &Packet) -> Vec<Output> {
        let mut out = Vec::new();
        for address in [packet.sender.1, packet.target.1] {
            let voice = self.0.get_mut(&address).filter(|voice| voice.interface.index() == index);
            if let Some(voice) = voice.filter(|voice| voice.interface.mac != packet.sender.0) {
                voice.hear(now, now < fresh_until, address, packet, &mut out);
            }
            if packet.sender.1 == packet.target.1 {
                break;
            }
        }
        out
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant, fresh_until: Instant) -> Vec<Output> {
        let mut out = Vec::new();
        for (address, voice) in &mut self.0 {
            voice.tick(now, fresh_until, *address, &mut out);
        }
        out
    }

    /// When [`tick`](Self::tick) is due.
    pub fn next(&self, now: Instant, fresh_until: Instant) -> Option<Instant> {
        self.0.values().filter_map(|voice| voice.next(now, fresh_until)).min()
    }
}

impl Voice {
    fn speaks(&self, fresh: bool) -> bool {
        matches!(self.state, State::Speaking { orphan, .. } if fresh || orphan)
    }

    fn hear(&mut self, now: Instant, fresh: bool, address: Ipv4Addr, packet: &Packet, out: &mut Vec<Output>) {
        let (other, own) = (packet.sender.0, self.interface.mac);
        let claims = packet.claims(address);
        match self.state {
            State::Probing { orphan, .. } if claims => {
                self.state = if orphan { State::Yielded } else { State::Refused { retry: now + REFUSED_PAUSE } };
                if !orphan {
                    out.push(Output::Tell(address, News::Conflict(other)));
                }
            }
            State::Speaking { orphan: true, .. } if !fresh && (claims || packet.probes(address)) => {
                self.state = State::Yielded;
            }
            State::Speaking { .. } if claims && fresh => self.defend(now, address, other, out),
            State::Speaking { .. } if packet.request && packet.target.1 == address && self.speaks(fresh) => {
                out.push(Output::Send(address, packet.answer(own), other));
            }
            _ => {}
        }
    }

    /// Says once more to all whose the address is; not with every word of the other, or both would go on for ever.
    fn defend(&mut self, now: Instant, address: Ipv4Addr, other: Mac, out: &mut Vec<Output>) {
        if self.defended.is_none_or(|at| now >= at + DEFENCE_PAUSE) {
            self.defended = Some(now);
            out.push(Output::Send(address, Packet::announcement(self.interface.mac, address, true), Mac::ALL));
            out.push(Output::Tell(address, News::Conflict(other)));
        }
    }

    fn tick(&mut self, now: Instant, fresh_until: Instant, address: Ipv4Addr, out: &mut Vec<Output>) {
        let (fresh, own) = (now < fresh_until, self.interface.mac);
        match self.state {
            State::Speaking { since, reported, orphan: true } if fresh => {
                self.state = State::Speaking { since, reported, orphan: false };
            }
            State::Speaking { orphan: false, .. } if now >= fresh_until + ORPHAN_AFTER => {
                self.state = State::Probing { sent: 0, next: now, orphan: true };
            }
            State::Yielded if fresh => self.state = State::Probing { sent: 0, next: now, orphan: false },
            State::Refused { retry } if now >= retry => {
                self.state = State::Probing { sent: 0, next: now, orphan: false };
            }
            _ => {}
        }
        match self.state {
            State::Probing { sent, next, orphan } if now >= next && (fresh || orphan) => {
                if sent < PROBES {
                    out.push(Output::Send(address, Packet::probe(own, address), Mac::ALL));
                    self.state = State::Probing { sent: sent + 1, next: now + PROBE_PAUSE, orphan };
                } else {
                    self.state = State::Speaking { since: now, reported: 0, orphan };
                    out.push(Output::Tell(address, News::Speaking));
                }
            }
            _ => {}
        }
        if let State::Speaking { since, reported, orphan } = self.state
            && ANNOUNCEMENTS.get(reported).is_some_and(|after| now >= since + *after)
            && (fresh || orphan)
        {
            for request in [true, false] {
                out.push(Output::Send(address, Packet::announcement(own, address, request), Mac::ALL));
            }
            self.state = State::Speaking { since, reported: reported + 1, orphan };
        }
    }

    fn next(&self, now: Instant, fresh_until: Instant) -> Option<Instant> {
        let fresh = now < fresh_until;
        match self.state {
            State::Probing { next, orphan, .. } => (fresh || orphan).then_some(next),
            State::Speaking { since, reported, orphan } => {
                let word = ANNOUNCEMENTS.get(reported).filter(|_| fresh || orphan).map(|after| since + *after);
                let lost = (!orphan).then_some(fresh_until + ORPHAN_AFTER);
                word.into_iter().chain(lost).min()
            }
            State::Refused { retry } => Some(retry),
            State::Yielded => None,
        }
    }
}
