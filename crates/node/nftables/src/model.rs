//! Tables, chains, rules and sets.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::expr::{Expr, Verdict};

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Family {
    /// `NFPROTO_*`.
    pub fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }
}

/// A table: everything a program owns lives in one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
}

impl Table {
    /// An empty table.
    pub fn new(family: Family, name: &str) -> Self {
        Self { family, name: name.to_owned(), chains: BTreeMap::new(), sets: BTreeMap::new() }
    }

    /// The chain of this name, made when it is not there.
    pub fn chain(&mut self, name: &str) -> &mut Chain {
        self.chains.entry(name.to_owned()).or_default()
    }
}

/// What a base chain does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainType {
    /// Lets pass or not.
    Filter,
    /// Translates addresses of new connections.
    Nat,
    /// Makes the kernel route again when a packet changed.
    Route,
}

/// Where a base chain sits (`NF_INET_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Before routing.
    Prerouting = 0,
    /// For this host.
    Input = 1,
    /// Through this host.
    Forward = 2,
    /// From this host.
    Output = 3,
    /// After routing.
    Postrouting = 4,
}

/// How a chain is hooked into the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// What it does.
    pub kind: ChainType,
    /// Where.
    pub hook: Hook,
    /// In which order; small first.
    pub priority: i32,
    /// Whether what reaches its end is dropped rather than accepted.
    pub drop_by_default: bool,
}

/// Rules in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Absent for chains that are jumped to.
    pub base: Option<Base>,
    /// The rules.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// Appends a rule.
    pub fn rule(&mut self, exprs: impl IntoIterator<Item = Expr>) -> &mut Self {
        self.rules.push(Rule { exprs: exprs.into_iter().collect(), comment: None });
        self
    }
}

/// Expressions that are evaluated until one says no.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// The expressions.
    pub exprs: Vec<Expr>,
    /// For people who list the rules.
    pub comment: Option<String>,
}

/// What a field of a key or of data is, so that `nft` can show it (its own numbers, `src/datatype.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// An IPv4 address, 4 bytes.
    Ipv4,
    /// An IPv6 address, 16 bytes.
    Ipv6,
    /// An IP protocol, 1 byte.
    Protocol,
    /// A port, 2 bytes.
    Port,
    /// A number in the host's order, 4 bytes.
    Mark,
    /// An interface's name, 16 bytes.
    Interface,
}

impl Type {
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Mark => 19,
            Self::Interface => 41,
        }
    }

    /// Bytes, without padding.
    pub fn len(self) -> usize {
        match self {
            Self::Ipv4 | Self::Mark => 4,
            Self::Ipv6 | Self::Interface => 16,
            Self::Protocol => 1,
            Self::Port => 2,
        }
    }

    /// Never: every type has bytes.
    pub fn is_empty(self) -> bool {
        false
    }
}

/// What an element of a map holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// Nothing: a set.
    None,
    /// Bytes, each field padded to 4 bytes.
    Value(Vec<u8>),
    /// Where to go.
    Verdict(Verdict),
}

/// A set, map or verdict map. Keys of more than one field are padded to 4 bytes a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Fields of the key.
    pub key: Vec<Type>,
    /// Fields of the data; empty for sets and verdict maps.
    pub data: Vec<Type>,
    /// Whether its data are verdicts.
    pub verdicts: bool,
    /// Holds ranges: an element's key begins a range that ends before the next element flagged as an end.
    pub intervals: bool,
    /// Rules add elements; these live for this long. Such elements are the kernel's, never part of a difference.
    pub learned: Option<Duration>,
    /// Elements by key. In a set of intervals, keys are (begin, end exclusive).
    pub elements: BTreeMap<Vec<u8>, Data>,
    /// Ranges of a set of intervals: first address to the one after the last (empty for "to the end").
    pub ranges: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Set {
    /// A set.
    pub fn new(key: &[Type]) -> Self {
        Self {
            key: key.to_vec(),
            data: Vec::new(),
            verdicts: false,
            intervals: false,
            learned: None,
            elements: BTreeMap::new(),
            ranges: BTreeMap::new(),
        }
    }

    /// A map.
    pub fn map(key: &[Type], data: &[Type]) -> Self {
        Self { data: data.to_vec(), ..Self::new(key) }
    }

    /// A verdict map.
    pub fn verdict_map(key: &[Type]) -> Self {
        Self { verdicts: true, ..Self::new(key) }
    }

    /// Whether the kernel would have to make it anew to turn it into `other`.
    pub fn same_shape(&self, other: &Self) -> bool {
        self.key == other.key
            && self.data == other.data
            && self.verdicts == other.verdicts
            && self.intervals == other.intervals
            && self.learned == other.learned
    }

    /// Bytes of a key (of data) of these fields.
    pub(crate) fn width(fields: &[Type]) -> usize {
        match fields {
            [one] => one.len(),
            many => many.iter().map(|f| f.len().next_multiple_of(4)).sum(),
        }
    }

    /// `nft`'s number for these fields: six bits each.
    pub(crate) fn number(fields: &[Type]) -> u32 {
        fields.iter().fold(0, |number, field| number << 6 | field.number())
    }
}

/// Joins fields into a key or data: each padded to 4 bytes, unless there is but one.
pub fn join(fields: &[&[u8]]) -> Vec<u8> {
    if let [one] = fields {
        return one.to_vec();
    }
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend_from_slice(field);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}
