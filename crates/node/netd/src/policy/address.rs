//! What differs between IPv4 and IPv6.

use std::net::IpAddr;

use kinit_nftables::expr::{destination, destination_v6, source, source_v6};
use kinit_nftables::{Expr, Type};

use super::Direction;

/// A version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Version {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The type of a set's key.
    pub fn key(self) -> Type {
        match self {
            Self::V4 => Type::Ipv4,
            Self::V6 => Type::Ipv6,
        }
    }

    /// Bits of an address.
    pub fn bits(self) -> u32 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// Registers that an address takes.
    pub fn registers(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 4,
        }
    }

    /// `NFPROTO_*`, as a packet has it.
    pub fn protocol(self) -> u8 {
        match self {
            Self::V4 => kinit_nftables::Family::Ip.number(),
            Self::V6 => kinit_nftables::Family::Ip6.number(),
        }
    }

    /// Loads the source address.
    pub fn source(self, to: u8) -> Expr {
        match self {
            Self::V4 => source(to),
            Self::V6 => source_v6(to),
        }
    }

    /// Loads the destination address.
    pub fn destination(self, to: u8) -> Expr {
        match self {
            Self::V4 => destination(to),
            Self::V6 => destination_v6(to),
        }
    }

    /// Loads the address of the other side: the one that is not the pod whose `direction` this is.
    pub fn other_side(self, direction: Direction, to: u8) -> Expr {
        match direction {
            Direction::Ingress => self.source(to),
            Direction::Egress => self.destination(to),
        }
    }

    /// Of a name of a set or chain for this version.
    pub fn named(self, name: &str) -> String {
        match self {
            Self::V4 => format!("{name}-4"),
            Self::V6 => format!("{name}-6"),
        }
    }
}

/// An address's bytes, in network order.
pub fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
