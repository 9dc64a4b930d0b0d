//! Expressions: what a rule looks at and does.
//!
//! Registers are 4 bytes wide and numbered from 0; wider values take several in a row.

use crate::netlink::Attributes;

/// What happens to a packet next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Lets it pass this hook's remaining chains of lower priority too.
    Accept,
    /// Drops it.
    Drop,
    /// Goes back to the chain that jumped here.
    Return,
    /// Goes on in that chain, and comes back.
    Jump(String),
    /// Goes on in that chain, and does not come back.
    Goto(String),
}

/// A register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reg(pub u8);

impl Reg {
    fn number(self) -> u32 {
        // NFT_REG32_00
        8 + u32::from(self.0)
    }
}

/// Where in a packet a payload begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The network header.
    Network = 1,
    /// The transport header.
    Transport = 2,
}

/// Facts about a packet (`NFT_META_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    /// The mark, host order.
    Mark = 3,
    /// Name of the interface it came by, 16 bytes.
    InputName = 6,
    /// Name of the interface it leaves by, 16 bytes.
    OutputName = 7,
    /// The network protocol (`NFPROTO_*`), 1 byte.
    NetworkProtocol = 15,
    /// The transport protocol, 1 byte.
    Protocol = 16,
}

/// How to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// Equal.
    Equal = 0,
    /// Not equal.
    NotEqual = 1,
    /// Not greater, byte by byte.
    AtMost = 3,
    /// Not less, byte by byte.
    AtLeast = 5,
}

/// Bits of a connection's state, host order.
pub const CT_NEW: u32 = 8;
/// See [`CT_NEW`].
pub const CT_ESTABLISHED: u32 = 2;
/// See [`CT_NEW`].
pub const CT_RELATED: u32 = 4;
/// See [`CT_NEW`].
pub const CT_INVALID: u32 = 1;
/// Bit of a connection's status: its destination was translated.
pub const CT_STATUS_DNAT: u32 = 1 << 5;

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// ICMP port unreachable, of either family.
    PortUnreachable,
    /// TCP reset.
    TcpReset,
}

/// What a rule adds to a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learn {
    /// Adds an element.
    Add = 0,
    /// Adds it, or starts its time anew.
    Update = 1,
}

/// An expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads a fact.
    Meta {
        /// Which fact.
        key: Meta,
        /// Register that gets it.
        to: Reg,
    },
    /// Sets a fact.
    SetMeta {
        /// Which fact.
        key: Meta,
        /// Register with the new value.
        from: Reg,
    },
    /// Loads bytes of the packet.
    Payload {
        /// What `offset` counts from.
        header: Header,
        /// First byte.
        offset: u32,
        /// Bytes to load, at most 16.
        len: u32,
        /// First register that gets them.
        to: Reg,
    },
    /// Goes on only if the comparison holds.
    Cmp {
        /// First register of the left side.
        reg: Reg,
        /// Equal or not.
        how: Compare,
        /// Right side, in the order of bytes that the register holds.
        value: Vec<u8>,
    },
    /// `to = (from & mask) ^ xor`.
    Bitwise {
        /// First register of the operand.
        from: Reg,
        /// First register of the result.
        to: Reg,
        /// Bits that stay; its length is the width of the operation.
        mask: Vec<u8>,
        /// Bits that are then flipped; as long as `mask`.
        xor: Vec<u8>,
    },
    /// Loads a constant.
    Load {
        /// First register that gets it.
        to: Reg,
        /// The bytes.
        value: Vec<u8>,
    },
    /// Ends the rule with a verdict.
    Verdict(Verdict),
    /// Goes on only if the key is in the set.
    Lookup {
        /// Name of the set, in the same table.
        set: String,
        /// First register of the key.
        key: Reg,
        /// Goes on if the key is not there.
        not: bool,
    },
    /// Loads the data of the key; goes on only if it is there.
    MapLookup {
        /// Name of the map, in the same table.
        map: String,
        /// First register of the key.
        key: Reg,
        /// First register that gets the data.
        to: Reg,
    },
    /// Takes the verdict of the key, if it is there.
    VerdictLookup {
        /// Name of the verdict map, in the same table.
        map: String,
        /// First register of the key.
        key: Reg,
    },
    /// Adds to a set or map.
    Learn {
        /// Name of the set or map, in the same table.
        set: String,
        /// What becomes of an element that is there.
        how: Learn,
        /// First register of the key.
        key: Reg,
        /// First register of the data; none for a set.
        data: Option<Reg>,
        /// Life of the element in milliseconds; that of the set when none.
        millis: Option<u64>,
    },
    /// Translates the destination; the port is in network order.
    Dnat {
        /// First register of the new address.
        address: Reg,
        /// Register of the new port; none keeps it.
        port: Option<Reg>,
        /// The address is an IPv6 address.
        v6: bool,
    },
    /// Translates the source.
    Snat {
        /// First register of the new address.
        address: Reg,
        /// The address is an IPv6 address.
        v6: bool,
    },
    /// Translates the source to the interface's address.
    Masquerade {
        /// Picks ports at random.
        random: bool,
    },
    /// Refuses the packet.
    Reject(Reject),
    /// Loads a random number, host order.
    Random {
        /// Register that gets it.
        to: Reg,
        /// One more than the largest number.
        modulus: u32,
    },
    /// The connection's state bits, host order.
    CtState {
        /// Register that gets them.
        to: Reg,
    },
    /// The connection's status bits, host order.
    CtStatus {
        /// Register that gets them.
        to: Reg,
    },
    /// The kind (`RTN_*`) of the destination address, host order; 2 is local.
    DestinationType {
        /// Register that gets it.
        to: Reg,
    },
    /// The kind of the source address.
    SourceType {
        /// Register that gets it.
        to: Reg,
    },
    /// The interface that answers to the source address would leave by, if it is the one that the packet came by; 0
    /// otherwise. Host order. Before routing only.
    ReversePath {
        /// Register that gets its index.
        to: Reg,
    },
    /// Counts packets and bytes.
    Counter,
}

const LIST_ELEM: u16 = 1;

impl Expr {
    pub(crate) fn encode(&self, list: &mut Attributes) {
        list.nested(LIST_ELEM, |e| {
            e.text(1, self.name());
            e.nested(2, |data| self.body(data));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Meta { .. } | Self::SetMeta { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::Cmp { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::Load { .. } | Self::Verdict(_) => "immediate",
            Self::Lookup { .. } | Self::MapLookup { .. } | Self::VerdictLookup { .. } => "lookup",
            Self::Learn { .. } => "dynset",
            Self::Dnat { .. } | Self::Snat { .. } => "nat",
            Self::Masquerade { .. } => "masq",
            Self::Reject(_) => "reject",
            Self::Random { .. } => "numgen",
            Self::CtState { .. } | Self::CtStatus { .. } => "ct",
            Self::DestinationType { .. } | Self::SourceType { .. } | Self::ReversePath { .. } => "fib",
            Self::Counter => "counter",
        }
    }

    fn body(&self, a: &mut Attributes) {
        match self {
            Self::Meta { key, to } => {
                a.u32(1, to.number());
                a.u32(2, *key as u32);
            }
            Self::SetMeta { key, from } => {
                a.u32(2, *key as u32);
                a.u32(3, from.number());
            }
            Self::Payload { header, offset, len, to } => {
                a.u32(1, to.number());
                a.u32(2, *header as u32);
                a.u32(3, *offset);
                a.u32(4, *len);
            }
            Self::Cmp { reg, how, value } => {
                a.u32(1, reg.number());
                a.u32(2, *how as u32);
                a.nested(3, |d| d.bytes(1, value));
            }
            Self::Bitwise { from, to, mask, xor } => {
                a.u32(1, from.number());
                a.u32(2, to.number());
                a.u32(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                a.nested(4, |d| d.bytes(1, mask));
                a.nested(5, |d| d.bytes(1, xor));
            }
            Self::Load { to, value } => {
                a.u32(1, to.number());
                a.nested(2, |d| d.bytes(1, value));
            }
            Self::Verdict(verdict) => {
                a.u32(1, 0);
                a.nested(2, |d| verdict.encode(d));
            }
            other => other.set_body(a),
        }
    }

    /// What looks into sets and maps, or adds to them.
    fn set_body(&self, a: &mut Attributes) {
        match self {
            Self::Lookup { set, key, not } => {
                a.text(1, set);
                a.u32(2, key.number());
                if *not {
                    a.u32(5, 1);
                }
            }
            Self::MapLookup { map, key, to } => {
                a.text(1, map);
                a.u32(2, key.number());
                a.u32(3, to.number());
            }
            Self::VerdictLookup { map, key } => {
                a.text(1, map);
                a.u32(2, key.number());
                a.u32(3, 0);
            }
            Self::Learn { set, how, key, data, millis } => {
                a.text(1, set);
                a.u32(3, *how as u32);
                a.u32(4, key.number());
                if let Some(data) = data {
                    a.u32(5, data.number());
                }
                if let Some(millis) = millis {
                    a.u64(6, *millis);
                }
            }
            other => other.acting_body(a),
        }
    }

    fn acting_body(&self, a: &mut Attributes) {
        let family = |v6: bool| if v6 { 10 } else { 2 };
        match self {
            Self::Dnat { address, port, v6 } => {
                a.u32(1, 1);
                a.u32(2, family(*v6));
                a.u32(3, address.number());
                if let Some(port) = port {
                    a.u32(5, port.number());
                }
            }
            Self::Snat { address, v6 } => {
                a.u32(1, 0);
                a.u32(2, family(*v6));
                a.u32(3, address.number());
            }
            // NF_NAT_RANGE_PROTO_RANDOM_FULLY
            Self::Masquerade { random } if *random => a.u32(1, 1 << 4),
            Self::Reject(Reject::PortUnreachable) => {
                a.u32(1, 2);
                a.bytes(2, &[1]);
            }
            Self::Reject(Reject::TcpReset) => a.u32(1, 1),
            Self::Random { to, modulus } => {
                a.u32(1, to.number());
                a.u32(2, *modulus);
                a.u32(3, 1);
            }
            Self::CtState { to } => {
                a.u32(1, to.number());
                a.u32(2, 0);
            }
            Self::CtStatus { to } => {
                a.u32(1, to.number());
                a.u32(2, 2);
            }
            Self::DestinationType { to } | Self::SourceType { to } => {
                a.u32(1, to.number());
                a.u32(2, 3);
                a.u32(3, if matches!(self, Self::SourceType { .. }) { 1 } else { 2 });
            }
            // NFT_FIB_RESULT_OIF; NFTA_FIB_F_SADDR and NFTA_FIB_F_IIF.
            Self::ReversePath { to } => {
                a.u32(1, to.number());
                a.u32(2, 1);
                a.u32(3, 1 | 8);
            }
            _ => {}
        }
    }
}

impl Verdict {
    pub(crate) fn encode(&self, data: &mut Attributes) {
        let (code, chain) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5_i32, None),
        };
        data.nested(2, |v| {
            v.bytes(1, &code.to_be_bytes());
            if let Some(chain) = chain {
                v.text(2, chain);
            }
        });
    }
}

/// `ip daddr`, IPv4.
pub fn destination(to: u8) -> Expr {
    Expr::Payload { header: Header::Network, offset: 16, len: 4, to: Reg(to) }
}

/// `ip saddr`, IPv4.
pub fn source(to: u8) -> Expr {
    Expr::Payload { header: Header::Network, offset: 12, len: 4, to: Reg(to) }
}

/// `ip6 daddr`, 4 registers.
pub fn destination_v6(to: u8) -> Expr {
    Expr::Payload { header: Header::Network, offset: 24, len: 16, to: Reg(to) }
}

/// `ip6 saddr`, 4 registers.
pub fn source_v6(to: u8) -> Expr {
    Expr::Payload { header: Header::Network, offset: 8, len: 16, to: Reg(to) }
}

/// `meta l4proto`.
pub fn protocol(to: u8) -> Expr {
    Expr::Meta { key: Meta::Protocol, to: Reg(to) }
}

/// `th dport`.
pub fn destination_port(to: u8) -> Expr {
    Expr::Payload { header: Header::Transport, offset: 2, len: 2, to: Reg(to) }
}

/// Goes on if a register equals these bytes.
pub fn equals(reg: u8, value: &[u8]) -> Expr {
    Expr::Cmp { reg: Reg(reg), how: Compare::Equal, value: value.to_vec() }
}

/// Goes on if a register does not equal these bytes.
pub fn differs(reg: u8, value: &[u8]) -> Expr {
    Expr::Cmp { reg: Reg(reg), how: Compare::NotEqual, value: value.to_vec() }
}

/// Goes on if a register is `first`, `last` or between them, byte by byte: numbers in network order.
pub fn between(reg: u8, first: &[u8], last: &[u8]) -> [Expr; 2] {
    [
        Expr::Cmp { reg: Reg(reg), how: Compare::AtLeast, value: first.to_vec() },
        Expr::Cmp { reg: Reg(reg), how: Compare::AtMost, value: last.to_vec() },
    ]
}

/// `register & mask`, in place.
pub fn mask(reg: u8, mask: &[u8]) -> Expr {
    Expr::Bitwise { from: Reg(reg), to: Reg(reg), mask: mask.to_vec(), xor: vec![0; mask.len()] }
}

/// Goes on if the packet begins a connection.
pub fn is_new() -> [Expr; 3] {
    [Expr::CtState { to: Reg(0) }, mask(0, &CT_NEW.to_ne_bytes()), differs(0, &[0; 4])]
}
