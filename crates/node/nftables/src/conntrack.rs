//! Connections the kernel remembers, and how to make it forget some.

use std::net::Ipv4Addr;

use crate::netlink::{Messages, NLM_F_ACK, NLM_F_DUMP, attributes, find};
use crate::socket::{Error, Nftables};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const AF_INET: u8 = 2;

/// UDP.
pub const UDP: u8 = 17;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Transport protocol.
    pub protocol: u8,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

/// A remembered connection: what was sent, and what answers look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// As it was first sent.
    pub original: Tuple,
    /// As answers come back: its source is who really answers.
    pub reply: Tuple,
}

impl Nftables {
    /// Makes the kernel forget IPv4 flows of which `stale` is true. Returns how many.
    pub fn forget_flows(&self, stale: impl Fn(&Flow) -> bool) -> Result<usize, Error> {
        let mut messages = Messages::default();
        messages.push(SUBSYSTEM << 8 | GET, NLM_F_DUMP, AF_INET, 0, |_| {});
        let mut doomed: Vec<Vec<u8>> = Vec::new();
        self.dump(messages.bytes(), &mut |m| {
            let all = m.attributes();
            let (Some(original), Some(reply)) = (find(&all, TUPLE_ORIGINAL), find(&all, TUPLE_REPLY)) else { return };
            let flow = tuple(original).zip(tuple(reply)).map(|(original, reply)| Flow { original, reply });
            if flow.is_some_and(|f| stale(&f)) {
                doomed.push(original.to_vec());
            }
        })?;
        for original in &doomed {
            let mut messages = Messages::default();
            messages.push(SUBSYSTEM << 8 | DELETE, NLM_F_ACK, AF_INET, 0, |a| {
                // The attribute is nested; its content is what was read.
                a.bytes(TUPLE_ORIGINAL | 0x8000, original);
            });
            match self.request(messages.bytes()) {
                Err(error) if !error.is_surprise() => return Err(error),
                _ => {}
            }
        }
        Ok(doomed.len())
    }
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let parts = attributes(bytes);
    let (ip, proto) = (attributes(find(&parts, 1)?), attributes(find(&parts, 2)?));
    let address = |kind| -> Option<Ipv4Addr> { Some(<[u8; 4]>::try_from(find(&ip, kind)?).ok()?.into()) };
    let port = |kind| find(&proto, kind).and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes);
    Some(Tuple {
        source: address(1)?,
        destination: address(2)?,
        protocol: *find(&proto, 1)?.first()?,
        source_port: port(2),
        destination_port: port(3),
    })
}
