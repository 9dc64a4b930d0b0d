//! Connections the kernel remembers, and how to make it forget some.

use std::net::Ipv4Addr;

use crate::netlink::{Attributes, Messages, NLM_F_ACK, NLM_F_DUMP, attributes, find};
use crate::socket::{Error, Nftables};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const FILTER: u16 = 25;
const NESTED: u16 = 0x8000;
const AF_INET: u8 = 2;

/// `CTA_FILTER_F_*`: which fields of a tuple a dump is filtered by.
const BY_DESTINATION: u32 = 1 << 1;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

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

/// Which flows the kernel is to tell of, by where they were first sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowFilter {
    /// Transport protocol.
    pub protocol: u8,
    /// Destination address; any when none.
    pub destination: Option<Ipv4Addr>,
    /// Destination port; any when none.
    pub destination_port: Option<u16>,
}

impl FlowFilter {
    /// All flows of a protocol.
    pub fn protocol(protocol: u8) -> Self {
        Self { protocol, destination: None, destination_port: None }
    }

    /// `CTA_TUPLE_ORIG` with the fields that are asked for, and the `CTA_FILTER` that names them.
    fn encode(&self, a: &mut Attributes) {
        let mut flags = BY_PROTOCOL;
        a.nested(TUPLE_ORIGINAL, |tuple| {
            if let Some(address) = self.destination {
                flags |= BY_DESTINATION;
                tuple.nested(1, |ip| ip.bytes(2, &address.octets()));
            }
            tuple.nested(2, |proto| {
                proto.bytes(1, &[self.protocol]);
                if let Some(port) = self.destination_port {
                    flags |= BY_DESTINATION_PORT;
                    proto.bytes(3, &port.to_be_bytes());
                }
            });
        });
        // Flags are in the host's order, unlike all else here.
        a.nested(FILTER, |filter| filter.bytes(1, &flags.to_ne_bytes()));
    }
}

impl Nftables {
    /// Makes the kernel forget those IPv4 flows that pass `filter` and of which `stale` is true. Returns how many.
    ///
    /// The kernel filters what it tells (since 5.8; older ones tell of everything, which costs time only). What it
    /// deletes is what was judged: the entry's id goes with the request.
    pub fn forget_flows(&self, filter: FlowFilter, stale: impl Fn(&Flow) -> bool) -> Result<usize, Error> {
        let mut messages = Messages::default();
        messages.push(SUBSYSTEM << 8 | GET, NLM_F_DUMP, AF_INET, 0, |a| filter.encode(a));
        let mut doomed: Vec<(Vec<u8>, Option<Vec<u8>>)> = Vec::new();
        self.dump(messages.bytes(), &mut |m| {
            let all = m.attributes();
            let (Some(original), Some(reply)) = (find(&all, TUPLE_ORIGINAL), find(&all, TUPLE_REPLY)) else { return };
            let flow = tuple(original).zip(tuple(reply)).map(|(original, reply)| Flow { original, reply });
            if flow.is_some_and(|f| stale(&f)) {
                doomed.push((original.to_vec(), find(&all, ID).map(<[u8]>::to_vec)));
            }
        })?;
        let mut forgotten = 0;
        for (original, id) in &doomed {
            let mut messages = Messages::default();
            messages.push(SUBSYSTEM << 8 | DELETE, NLM_F_ACK, AF_INET, 0, |a| {
                // The attribute is nested; its content is what was read.
                a.bytes(TUPLE_ORIGINAL | NESTED, original);
                if let Some(id) = id {
                    a.bytes(ID, id);
                }
            });
            match self.request(messages.bytes()) {
                Ok(()) => forgotten += 1,
                // It ended by itself meanwhile.
                Err(error) if error.is_surprise() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(forgotten)
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
