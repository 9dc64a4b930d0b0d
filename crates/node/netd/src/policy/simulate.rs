//! For tests: what the kernel would do with a packet, and what becomes of a table by changes.

use std::net::IpAddr;

use kinit_nftables::expr::{CT_ESTABLISHED, CT_NEW, Compare, Header, Meta, Reg};
use kinit_nftables::{Change, Data, Expr, Set, Table, Verdict};

use super::address::{Version, octets};

/// A packet that is forwarded.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub port: u16,
    pub established: bool,
}

impl Packet {
    /// The first packet of a connection.
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8, port: u16) -> Self {
        Self { source, destination, protocol, port, established: false }
    }
}

enum Outcome {
    Accept,
    Drop,
    GoOn,
}

/// Whether the table lets a packet pass.
pub fn passes(table: &Table, packet: &Packet) -> bool {
    !matches!(run(table, "forward", packet), Outcome::Drop)
}

fn run(table: &Table, chain: &str, packet: &Packet) -> Outcome {
    for rule in &table.chains[chain].rules {
        let mut registers = [0u8; 80];
        for expr in &rule.exprs {
            let verdict = match step(table, expr, packet, &mut registers) {
                Step::Next => continue,
                Step::Stop => break,
                Step::Verdict(verdict) => verdict,
            };
            match verdict {
                Verdict::Accept => return Outcome::Accept,
                Verdict::Drop => return Outcome::Drop,
                Verdict::Return => return Outcome::GoOn,
                Verdict::Goto(chain) => return run(table, &chain, packet),
                Verdict::Jump(chain) => match run(table, &chain, packet) {
                    Outcome::GoOn => break,
                    end => return end,
                },
            }
        }
    }
    Outcome::GoOn
}

enum Step {
    Next,
    Stop,
    Verdict(Verdict),
}

fn step(table: &Table, expr: &Expr, packet: &Packet, registers: &mut [u8; 80]) -> Step {
    let version = Version::of(&packet.source);
    let at = |reg: &Reg| usize::from(reg.0) * 4;
    let mut load = |reg: &Reg, bytes: &[u8]| {
        let width = bytes.len().next_multiple_of(4);
        registers[at(reg)..at(reg) + width].fill(0);
        registers[at(reg)..at(reg) + bytes.len()].copy_from_slice(bytes);
        Step::Next
    };
    let when = |yes: bool| if yes { Step::Next } else { Step::Stop };
    match expr {
        Expr::Meta { key: Meta::NetworkProtocol, to } => load(to, &[version.protocol()]),
        Expr::Meta { key: Meta::Protocol, to } => load(to, &[packet.protocol]),
        Expr::CtState { to } => load(to, &if packet.established { CT_ESTABLISHED } else { CT_NEW }.to_ne_bytes()),
        Expr::Payload { header: Header::Transport, offset: 2, len: 2, to } => load(to, &packet.port.to_be_bytes()),
        Expr::Payload { header: Header::Network, offset, to, .. } => match (version, offset) {
            (Version::V4, 12) | (Version::V6, 8) => load(to, &octets(&packet.source)),
            (Version::V4, 16) | (Version::V6, 24) => load(to, &octets(&packet.destination)),
            other => panic!("{other:?}"),
        },
        Expr::Bitwise { from, to, mask, .. } => {
            let masked: Vec<u8> = mask.iter().enumerate().map(|(i, m)| registers[at(from) + i] & m).collect();
            registers[at(to)..at(to) + masked.len()].copy_from_slice(&masked);
            Step::Next
        }
        Expr::Cmp { reg, how, value } => {
            let found = &registers[at(reg)..at(reg) + value.len()];
            when(match how {
                Compare::Equal => found == value.as_slice(),
                Compare::NotEqual => found != value.as_slice(),
                Compare::AtMost => found <= value.as_slice(),
                Compare::AtLeast => found >= value.as_slice(),
            })
        }
        Expr::Lookup { set, key, not } => {
            let set = &table.sets[set];
            when(holds(set, &registers[at(key)..at(key) + width(set)]) != *not)
        }
        Expr::VerdictLookup { map, key } => {
            let map = &table.sets[map];
            match map.elements.get(&registers[at(key)..at(key) + width(map)]) {
                Some(Data::Verdict(verdict)) => Step::Verdict(verdict.clone()),
                _ => Step::Stop,
            }
        }
        Expr::Verdict(verdict) => Step::Verdict(verdict.clone()),
        other => panic!("{other:?}"),
    }
}

fn width(set: &Set) -> usize {
    match &set.key[..] {
        [one] => one.len(),
        many => many.iter().map(|field| field.len().next_multiple_of(4)).sum(),
    }
}

fn holds(set: &Set, key: &[u8]) -> bool {
    let in_range =
        |(first, end): (&Vec<u8>, &Vec<u8>)| key >= first.as_slice() && (end.is_empty() || key < end.as_slice());
    set.elements.contains_key(key) || set.ranges.iter().any(in_range)
}

/// Does to a table what the kernel would; panics where the kernel would refuse.
pub fn change(table: &mut Table, change: &Change) {
    match change {
        Change::AddChain(name, base) => {
            assert!(!table.chains.contains_key(name), "{name} is there");
            table.chain(name).base = *base;
        }
        Change::AddSet(name, set) => {
            assert!(table.sets.insert(name.clone(), set.clone()).is_none(), "{name} is there");
        }
        Change::AddElements(name, more) => {
            let set = table.sets.get_mut(name).unwrap();
            for (key, data) in &more.elements {
                assert!(set.elements.insert(key.clone(), data.clone()).is_none(), "{key:?} is in {name}");
            }
            set.ranges.extend(more.ranges.clone());
        }
        Change::DeleteElements(name, less) => {
            let set = table.sets.get_mut(name).unwrap();
            for key in less.elements.keys() {
                assert!(set.elements.remove(key).is_some(), "{key:?} is not in {name}");
            }
            less.ranges.keys().for_each(|first| assert!(set.ranges.remove(first).is_some()));
        }
        Change::FlushChain(name) => table.chains.get_mut(name).unwrap().rules.clear(),
        Change::AddRule(name, rule) => table.chains.get_mut(name).unwrap().rules.push(rule.clone()),
        Change::DropSet(name) => {
            assert!(!format!("{:?}", table.chains).contains(&format!("{name:?}")), "{name} is used");
            assert!(table.sets.remove(name).is_some());
        }
        Change::DropChain(name) => {
            assert!(!format!("{table:?}").contains(&format!("Jump({name:?})")), "{name} is used");
            assert!(table.chains.remove(name).unwrap().rules.is_empty());
        }
        other => panic!("{other:?}"),
    }
}
