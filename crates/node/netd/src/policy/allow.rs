//! What a pod is allowed, as rules of its chain. No IO.
//!
//! ```text
//! chain of a group:  saddr @pods-7 tcp dport 80 return      a rule per peer and protocol, whatever the number of ports
//!                    saddr @block-3 return
//!                    drop
//! ```
//!
//! `return` goes back to where packets are judged in the other direction too; `accept` would skip that.

use std::collections::{BTreeMap, BTreeSet};

use kinit_nftables::expr::{Reg, between, destination_port, equals, protocol};
use kinit_nftables::{Chain, Expr, Rule, Verdict};

use super::Direction;
use super::address::Version;
use super::parse::{Allowance, Numbers, Peer, PodPeer, Policy, Port, Scope};
use super::ranges::{Range, union};
use super::sets::SetKey;
use kinit_apimachinery::selector::LabelSelector;

/// Numbers that the pod which is connected to gives to (protocol, name).
pub type Named = BTreeMap<(u8, String), Vec<u16>>;

/// One rule: who, on which ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    /// The other side, or everybody.
    pub who: Option<SetKey>,
    /// The ports.
    pub what: What,
    /// The policy that says so.
    pub policy: String,
}

/// Ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Everything, ICMP too.
    Everything,
    /// All ports of a protocol.
    Protocol(u8),
    /// Ports from the first to the last.
    Ports(u8, u16, u16),
    /// Ports of a set.
    Listed(u8, SetKey),
    /// The port is part of the key in `who`.
    OfEndpoint,
}

/// (protocol, name) of all ports that the policies have by name.
pub fn names(direction: Direction, policies: &[&Policy]) -> BTreeSet<(u8, String)> {
    let all = policies.iter().flat_map(|p| p.allowances(direction).unwrap_or_default());
    all.flat_map(|allowance| allowance.ports.iter().flatten())
        .filter_map(|port| match &port.numbers {
            Numbers::Named(name) => Some((port.protocol, name.clone())),
            Numbers::All | Numbers::Range(..) => None,
        })
        .collect()
}

/// What these policies allow together. `named` are the selected pod's own ports, for ingress.
pub fn allows(direction: Direction, version: Version, policies: &[&Policy], named: &Named) -> Vec<Allow> {
    let mut out = Vec::new();
    for policy in policies {
        for allowance in policy.allowances(direction).unwrap_or_default() {
            let context = Context { direction, version, policy: policy.id.to_string(), named };
            context.allowance(allowance, &mut out);
        }
    }
    out
}

struct Context<'a> {
    direction: Direction,
    version: Version,
    policy: String,
    named: &'a Named,
}

impl Context<'_> {
    fn allowance(&self, allowance: &Allowance, out: &mut Vec<Allow>) {
        let whats = allowance.ports.as_ref().map_or(vec![What::Everything], |ports| self.whats(ports));
        for who in self.whos(allowance.peers.as_deref()) {
            let rules =
                whats.iter().map(|what| Allow { who: who.clone(), what: what.clone(), policy: self.policy.clone() });
            out.extend(rules);
        }
        if self.direction == Direction::Egress {
            self.by_name(allowance, out);
        }
    }

    /// A set per selector, and one for all addresses that are given as such.
    fn whos(&self, peers: Option<&[Peer]>) -> Vec<Option<SetKey>> {
        let Some(peers) = peers else { return vec![None] };
        let mut out = Vec::new();
        let mut addresses: Vec<Range> = Vec::new();
        for peer in peers {
            match peer {
                Peer::Pods(peer) => out.push(Some(SetKey::pods(peer, self.version))),
                Peer::Block(version, ranges) if *version == self.version => addresses.extend(ranges),
                Peer::Block(..) => {}
            }
        }
        if !addresses.is_empty() {
            out.push(Some(SetKey::Addresses(self.version, union(addresses))));
        }
        out
    }

    /// Ports by number, one entry per protocol. Those by name are numbers for ingress, where the pod is known.
    fn whats(&self, ports: &[Port]) -> Vec<What> {
        let mut all: BTreeSet<u8> = BTreeSet::new();
        let mut numbers: BTreeMap<u8, Vec<Range>> = BTreeMap::new();
        for port in ports {
            let mut add = |first: u16, last: u16| {
                numbers.entry(port.protocol).or_default().push((first.into(), last.into()));
            };
            match &port.numbers {
                Numbers::All => drop(all.insert(port.protocol)),
                Numbers::Range(first, last) => add(*first, *last),
                Numbers::Named(name) => {
                    let known = self.named.get(&(port.protocol, name.clone()));
                    known.into_iter().flatten().for_each(|number| add(*number, *number));
                }
            }
        }
        let mut out: Vec<What> = all.iter().map(|protocol| What::Protocol(*protocol)).collect();
        for (protocol, ranges) in numbers.into_iter().filter(|(protocol, _)| !all.contains(protocol)) {
            let ranges = union(ranges);
            let port = |number: u128| u16::try_from(number).unwrap_or(u16::MAX);
            out.push(match ranges[..] {
                [(first, last)] => What::Ports(protocol, port(first), port(last)),
                _ => What::Listed(protocol, SetKey::Ports(ranges)),
            });
        }
        out
    }

    /// Egress to a port by name is to whatever number each pod of the peers has under it: sets of (address, port).
    /// Addresses that are given as such have no names.
    fn by_name(&self, allowance: &Allowance, out: &mut Vec<Allow>) {
        let everybody =
            PodPeer { namespaces: Scope::Selected(LabelSelector::default()), pods: LabelSelector::default() };
        let peers: Vec<&PodPeer> = match &allowance.peers {
            None => vec![&everybody],
            Some(peers) => peers.iter().filter_map(|p| if let Peer::Pods(p) = p { Some(p) } else { None }).collect(),
        };
        for port in allowance.ports.iter().flatten() {
            let Numbers::Named(name) = &port.numbers else { continue };
            out.extend(peers.iter().map(|peer| Allow {
                who: Some(SetKey::endpoints(peer, self.version, port.protocol, name)),
                what: What::OfEndpoint,
                policy: self.policy.clone(),
            }));
        }
    }
}

/// The chain that lets pass what is allowed and drops the rest. `name_of` names the sets.
pub fn chain(
    direction: Direction,
    version: Version,
    allows: &[Allow],
    name_of: impl Fn(&SetKey) -> Option<String>,
) -> Chain {
    let mut chain = Chain::default();
    for allow in allows {
        // A set that is not there allows nothing.
        let Some(exprs) = exprs(direction, version, allow, &name_of) else { continue };
        chain.rules.push(Rule { exprs, comment: Some(allow.policy.clone()) });
    }
    chain.rule([Expr::Verdict(Verdict::Drop)]);
    chain
}

fn exprs(
    direction: Direction,
    version: Version,
    allow: &Allow,
    name_of: &impl Fn(&SetKey) -> Option<String>,
) -> Option<Vec<Expr>> {
    let lookup = |key: &SetKey| Some(Expr::Lookup { set: name_of(key)?, key: Reg(0), not: false });
    let mut rule = Vec::new();
    if let Some(who) = &allow.who {
        rule.push(version.other_side(direction, 0));
        if allow.what == What::OfEndpoint {
            let next = version.registers();
            rule.extend([protocol(next), destination_port(next + 1)]);
        }
        rule.push(lookup(who)?);
    }
    let is = |number: u8| [protocol(0), equals(0, &[number])];
    match &allow.what {
        What::Everything | What::OfEndpoint => {}
        What::Protocol(number) => rule.extend(is(*number)),
        What::Ports(number, first, last) => {
            rule.extend(is(*number));
            rule.push(destination_port(0));
            let (first, last) = (first.to_be_bytes(), last.to_be_bytes());
            if first == last { rule.push(equals(0, &first)) } else { rule.extend(between(0, &first, &last)) }
        }
        What::Listed(number, ports) => {
            rule.extend(is(*number));
            rule.extend([destination_port(0), lookup(ports)?]);
        }
    }
    rule.push(Expr::Verdict(Verdict::Return));
    Some(rule)
}
