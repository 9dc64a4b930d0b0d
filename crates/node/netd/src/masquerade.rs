//! Pods reach the world under their host's address: one nftables table with one rule.
//!
//! ```text
//! table ip kinit-netd {
//!   chain postrouting { type nat hook postrouting priority srcnat;
//!     ip saddr POD-CIDR ip daddr != CLUSTER-CIDR masquerade random } }
//! ```

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use kinit_nftables::expr::{destination, differs, equals, mask, source};
use kinit_nftables::{Base, ChainType, Expr, Family, Hook, Nftables, Table};

const TABLE: &str = "kinit-netd";
/// `srcnat`.
const PRIORITY: i32 = 100;
/// Multicast leaves with the address it was sent from.
const MULTICAST: ([u8; 4], [u8; 4]) = ([224, 0, 0, 0], [240, 0, 0, 0]);

/// The table for pods of `own` in a cluster of `cluster`.
pub fn table(own: &Ipv4Net, cluster: &Ipv4Net) -> Table {
    let mut table = Table::new(Family::Ip, TABLE);
    let chain = table.chain("postrouting");
    chain.base =
        Some(Base { kind: ChainType::Nat, hook: Hook::Postrouting, priority: PRIORITY, drop_by_default: false });
    let octets = |n: &Ipv4Net| (n.network().octets(), n.netmask().octets());
    let ((own, own_mask), (all, all_mask)) = (octets(own), octets(cluster));
    chain.rule([
        source(0),
        mask(0, &own_mask),
        equals(0, &own),
        destination(0),
        mask(0, &all_mask),
        differs(0, &all),
        destination(0),
        mask(0, &MULTICAST.1),
        differs(0, &MULTICAST.0),
        Expr::Masquerade { random: true },
    ]);
    table
}

/// Makes the kernel's table `new`, knowing that it was `old` last time.
pub async fn apply(old: Option<Table>, new: Table) -> Result<()> {
    let done = tokio::task::spawn_blocking(move || Nftables::open()?.apply(old.as_ref(), &new));
    done.await.context("apply the masquerading rules")?.map(drop).context("apply the masquerading rules")
}

/// Removes the table.
pub async fn remove() -> Result<()> {
    let done = tokio::task::spawn_blocking(|| Nftables::open()?.delete(Family::Ip, TABLE));
    done.await.context("remove the masquerading rules")?.context("remove the masquerading rules")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rule_after_routing() {
        let table = table(&"10.244.1.0/24".parse().unwrap(), &"10.244.0.0/16".parse().unwrap());
        let chain = &table.chains["postrouting"];
        assert_eq!((chain.rules.len(), chain.base.map(|b| b.hook)), (1, Some(Hook::Postrouting)));
        assert!(chain.rules[0].exprs.contains(&differs(0, &[10, 244, 0, 0])));
    }
}
