//! The table around the policies' chains.
//!
//! ```text
//! table inet kinit-netd {
//!   chain arriving { type filter hook prerouting priority mangle; policy accept;
//!     ct state new iifname "veth*" fib saddr . iif oif missing jump forged }
//!   chain forward { type filter hook forward priority filter; policy accept;
//!     ct state established,related accept
//!     meta nfproto ipv4 goto judge-4
//!     meta nfproto ipv6 goto judge-6 }
//!   chain judge-4 {
//!     ip saddr . ip daddr @itself-4 accept             a pod cannot be kept from itself
//!     ip saddr vmap @egress-4                          isolated pods of this node: jump to what they are allowed
//!     ip daddr vmap @ingress-4
//!     ip saddr @own-4 ip saddr != @known-4 jump unknown-egress
//!     ip daddr @own-4 ip daddr != @known-4 jump unknown-ingress }
//!   chain unknown-ingress { drop }                     or empty, see `engine`; so is `forged`
//!   ...
//! ```
//!
//! The hook comes after destinations were translated (prerouting) and before sources are (postrouting): a Service is
//! judged by its backend, and a client by its own address. What a pod sends under an address that is not its own would
//! be judged as somebody else's: it goes no further, while pods of this node are isolated.

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use kinit_nftables::expr::{CT_ESTABLISHED, CT_RELATED, Meta, Reg, destination, differs, equals, is_new, mask, source};
use kinit_nftables::{Base, Chain, ChainType, Expr, Family, Hook, Nftables, Set, Table, Verdict};

use super::Direction;
use super::address::Version;

/// That of the masquerading rules, in another family.
pub const TABLE: &str = "kinit-netd";
/// Of which packets.
pub const FAMILY: Family = Family::Inet;
/// Networks of this node's pods.
pub const OWN: &str = "own";
/// Addresses of this node's pods, as far as they are known.
pub const KNOWN: &str = "known";
/// (address, address) of isolated pods.
pub const ITSELF: &str = "itself";
/// `filter`.
const PRIORITY: i32 = 0;
/// `mangle`: after connections are looked up, before destinations are translated.
const MANGLE: i32 = -150;

/// The chain for addresses of this node's pods that are not known yet.
pub fn unknown(direction: Direction) -> String {
    format!("unknown-{}", direction.name())
}

/// What that chain holds, and the one for forged addresses.
pub fn chain_if_closed(closed: bool) -> Chain {
    let mut chain = Chain::default();
    if closed {
        chain.rule([Expr::Verdict(Verdict::Drop)]);
    }
    chain
}

/// The chain for what comes from a pod under an address that is not the pod's.
pub const FORGED: &str = "forged";

/// The verdict map of isolated pods.
pub fn verdicts(direction: Direction, version: Version) -> String {
    version.named(direction.name())
}

/// The table without any policy.
pub fn table() -> Table {
    let mut table = empty();
    arriving(&mut table);
    for direction in Direction::ALL {
        table.chains.insert(unknown(direction), chain_if_closed(false));
    }
    for version in Version::ALL {
        let key = version.key();
        table.sets.insert(version.named(OWN), Set { intervals: true, ..Set::new(&[key]) });
        table.sets.insert(version.named(KNOWN), Set::new(&[key]));
        table.sets.insert(version.named(ITSELF), Set::new(&[key, key]));
        for direction in Direction::ALL {
            table.sets.insert(verdicts(direction, version), Set::verdict_map(&[key]));
        }
        let judge = version.named("judge");
        judge_rules(table.chain(&judge), version);
        let is_it = [Expr::Meta { key: Meta::NetworkProtocol, to: Reg(0) }, equals(0, &[version.protocol()])];
        table.chain("forward").rule(is_it.into_iter().chain([Expr::Verdict(Verdict::Goto(judge))]));
    }
    table
}

/// The hook, which lets pass what belongs to a connection that was let pass before.
fn empty() -> Table {
    let mut table = Table::new(FAMILY, TABLE);
    let forward = table.chain("forward");
    forward.base =
        Some(Base { kind: ChainType::Filter, hook: Hook::Forward, priority: PRIORITY, drop_by_default: false });
    forward.rule([
        Expr::CtState { to: Reg(0) },
        mask(0, &(CT_ESTABLISHED | CT_RELATED).to_ne_bytes()),
        differs(0, &[0; 4]),
        Expr::Verdict(Verdict::Accept),
    ]);
    table
}

/// `ptp` names pods' links so. One of that name that is no pod's is let alone as long as answers take the same way.
const LINKS: &[u8] = b"veth";

fn arriving(table: &mut Table) {
    table.chain(FORGED);
    let chain = table.chain("arriving");
    chain.base =
        Some(Base { kind: ChainType::Filter, hook: Hook::Prerouting, priority: MANGLE, drop_by_default: false });
    let from_pod = [Expr::Meta { key: Meta::InputName, to: Reg(0) }, equals(0, LINKS)];
    let forged = [Expr::ReversePath { to: Reg(0) }, equals(0, &[0; 4]), Expr::Verdict(Verdict::Jump(FORGED.into()))];
    chain.rule(is_new().into_iter().chain(from_pod).chain(forged));
}

fn judge_rules(chain: &mut Chain, version: Version) {
    let lookup = |set: &str, not| Expr::Lookup { set: version.named(set), key: Reg(0), not };
    chain.rule([
        version.source(0),
        version.destination(version.registers()),
        lookup(ITSELF, false),
        Expr::Verdict(Verdict::Accept),
    ]);
    let side = |direction| match direction {
        Direction::Ingress => version.destination(0),
        Direction::Egress => version.source(0),
    };
    for direction in [Direction::Egress, Direction::Ingress] {
        chain.rule([side(direction), Expr::VerdictLookup { map: verdicts(direction, version), key: Reg(0) }]);
    }
    for direction in [Direction::Egress, Direction::Ingress] {
        chain.rule([
            side(direction),
            lookup(OWN, false),
            lookup(KNOWN, true),
            Expr::Verdict(Verdict::Jump(unknown(direction))),
        ]);
    }
}

/// What is in force from this program's start until policies are known, where there is no table of an earlier run, as
/// after a boot: no pod of the cluster begins a connection that this host forwards. Hosts reach their own pods.
pub fn gate(cluster: &Ipv4Net) -> Table {
    let mut table = empty();
    let (network, netmask) = (cluster.network().octets(), cluster.netmask().octets());
    for side in [source(0), destination(0)] {
        table.chain("forward").rule([
            Expr::Meta { key: Meta::NetworkProtocol, to: Reg(0) },
            equals(0, &[Version::V4.protocol()]),
            side,
            mask(0, &netmask),
            equals(0, &network),
            Expr::Verdict(Verdict::Drop),
        ]);
    }
    table
}

/// Removes the table.
pub async fn remove() -> Result<()> {
    let done = tokio::task::spawn_blocking(|| Nftables::open()?.delete(FAMILY, TABLE));
    done.await.context("remove the rules of network policies")?.context("remove the rules of network policies")
}
