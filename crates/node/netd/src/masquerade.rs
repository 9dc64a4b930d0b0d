//! Pods reach the world under their host's address: one nftables table with one rule.
//!
//! ```text
//! table ip kinit-netd {
//!   chain postrouting { type nat hook postrouting priority srcnat;
//!     ip saddr POD-CIDR ip daddr != CLUSTER-CIDR masquerade random } }
//! ```

use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use kinit_nftables::expr::{destination, differs, equals, mask, source};
use kinit_nftables::{Base, ChainType, Expr, Family, Hook, Monitor, Nftables, Observed, Table};

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

/// Whether the kernel has the table as it was applied.
pub async fn is_there(table: Table) -> Result<bool> {
    let read = tokio::task::spawn_blocking(move || {
        let found = Nftables::open()?.read(Family::Ip, TABLE)?;
        Ok::<_, kinit_nftables::Error>(found == Some(Observed::of(&table)))
    });
    read.await.context("read the masquerading rules")?.context("read the masquerading rules")
}

/// Notices of changes to the table.
pub struct Watch(Option<Monitor>);

/// Changes come in bursts, and one look serves for all of them.
const GATHER: Duration = Duration::from_millis(100);

impl Watch {
    /// Begins to watch. Without notices the rules are looked at now and then only.
    pub fn open() -> Self {
        Self(Monitor::open(Family::Ip, TABLE).inspect_err(|error| tracing::error!(%error, "watch nftables")).ok())
    }

    /// Waits until somebody changed the table, this program included.
    pub async fn changed(&mut self) {
        let Some(monitor) = &mut self.0 else { return std::future::pending().await };
        if let Err(error) = monitor.changed(None).await {
            tracing::error!(%error, "watch nftables");
            *self = Self::open();
        }
        tokio::time::sleep(GATHER).await;
    }
}

/// Removes the table.
pub async fn remove() -> Result<()> {
    let done = tokio::task::spawn_blocking(|| Nftables::open()?.delete(Family::Ip, TABLE));
    done.await.context("remove the masquerading rules")?.context("remove the masquerading rules")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a network namespace of the test's own, as the agent does it.
    #[test]
    fn a_flush_is_noticed_and_repaired() {
        let thread = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("needs the right to make a network namespace");
            // Blocking work stays in this thread's namespace: its children inherit it.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let wanted = table(&"10.244.1.0/24".parse().unwrap(), &"10.244.0.0/16".parse().unwrap());
                apply(None, wanted.clone()).await.unwrap();
                assert!(is_there(wanted.clone()).await.unwrap());
                let mut watch = Watch::open();
                let flushed = std::process::Command::new("nft").args(["flush", "ruleset"]).status().unwrap();
                assert!(flushed.success());
                let noticed = tokio::time::timeout(Duration::from_secs(5), watch.changed()).await;
                assert!(noticed.is_ok(), "the flush is not noticed");
                assert!(!is_there(wanted.clone()).await.unwrap());
                apply(None, wanted.clone()).await.unwrap();
                assert!(is_there(wanted).await.unwrap());
            });
        });
        thread.join().unwrap();
    }

    #[test]
    fn one_rule_after_routing() {
        let table = table(&"10.244.1.0/24".parse().unwrap(), &"10.244.0.0/16".parse().unwrap());
        let chain = &table.chains["postrouting"];
        assert_eq!((chain.rules.len(), chain.base.map(|b| b.hook)), (1, Some(Hook::Postrouting)));
        assert!(chain.rules[0].exprs.contains(&differs(0, &[10, 244, 0, 0])));
    }
}
