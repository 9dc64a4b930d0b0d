//! The planner's table in the kernel: applied as Services change, and put back when somebody else changes it.
//!
//! Others change their own tables all day. What says that ours is untouched is the kernel's notices, not a look at its
//! thousands of elements; these are read back only when notices were lost or named somebody else.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use kinit_nftables::{Change, Error, Family, Monitor, Nftables, Observed, Vouched, diff};

use crate::planner::Planner;
use crate::ruleset::{Options, TABLE};

/// See the module.
pub struct Keeper {
    kernel: Nftables,
    /// Tells when somebody else changes the table; ours come through this netlink port. None while a whole table is
    /// sent: its notices would be thousands.
    monitor: Option<Monitor>,
    port: u32,
    /// What is to be.
    pub planner: Planner,
    /// The generation at which the table was known to be ours and whole.
    generation: Option<u32>,
    /// How often the table was read back.
    pub read_backs: usize,
}

impl Keeper {
    /// Opens the kernel's side; nothing is changed yet.
    pub fn open(options: Options) -> Result<Self> {
        let kernel = Nftables::open().context("open nftables")?;
        let port = kernel.port().context("open nftables")?;
        let monitor = Some(Monitor::open(Family::Ip, TABLE).context("watch nftables")?);
        Ok(Self { kernel, monitor, port, planner: Planner::new(options), generation: None, read_backs: 0 })
    }

    /// Makes the kernel's table what it is to be, in one transaction; what nothing leads to yet goes ahead. Returns how
    /// many changes were sent. After an error the next call sends the whole table.
    pub fn apply(&mut self) -> Result<usize> {
        if !self.planner.is_whole() {
            let changes = self.planner.changes();
            if changes.is_empty() {
                return Ok(0);
            }
            let count = changes.len();
            let (ahead, rest) = ahead(changes);
            let commit = |changes: &[Change]| self.kernel.commit(Family::Ip, TABLE, changes);
            match commit(&ahead).and_then(|()| commit(&rest)) {
                Ok(()) => {
                    self.settle();
                    return Ok(count);
                }
                Err(error) => {
                    self.planner.tell_whole();
                    if !error.is_surprise() {
                        return Err(error).context("change nftables");
                    }
                    tracing::warn!(%error, "somebody changed the rules: making them anew");
                }
            }
        }
        self.apply_whole()
    }

    fn apply_whole(&mut self) -> Result<usize> {
        self.monitor = None;
        self.generation = None;
        let before = self.kernel.generation().context("ask for nftables' generation")?;
        let changes = diff(None, self.planner.table());
        let sent = self.kernel.commit(Family::Ip, TABLE, &changes).context("make the rules anew");
        self.monitor = Some(Monitor::open(Family::Ip, TABLE).context("watch nftables")?);
        sent?;
        self.planner.reported();
        // The kernel's generations skip 0.
        let ours = before.checked_add(1).unwrap_or(1);
        if self.kernel.generation().is_ok_and(|now| now == ours) {
            self.generation = Some(ours);
        }
        Ok(changes.len())
    }

    /// For measurements beside it: its notices are not asked for.
    #[cfg(test)]
    pub fn deafen(&mut self) {
        self.monitor = None;
    }

    /// After a transaction of ours: remembers its generation, if nobody else was at the table. What was in doubt before
    /// stays so until it is looked at.
    fn settle(&mut self) {
        let Ok(now) = self.kernel.generation() else { return };
        let untouched = self.vouch(now) == Vouched::Untouched;
        self.generation = self.generation.filter(|_| untouched).map(|_| now);
    }

    fn vouch(&mut self, generation: u32) -> Vouched {
        let Some(monitor) = &mut self.monitor else { return Vouched::Unknown };
        monitor.vouch(Some(self.port), generation).unwrap_or_else(|error| {
            tracing::warn!(%error, "read the notices of nftables");
            self.monitor = None;
            Vouched::Unknown
        })
    }

    /// Waits until somebody else changed the table, or may have. Cancelling loses nothing.
    pub async fn touched(&mut self) {
        if self.generation.is_none() && !self.planner.is_whole() {
            return;
        }
        if self.monitor.is_none() {
            match Monitor::open(Family::Ip, TABLE) {
                Ok(monitor) => self.monitor = Some(monitor),
                Err(error) => kinit_component_base::supervise::fail(format!("watch nftables: {error}")),
            }
        }
        let Some(monitor) = &mut self.monitor else { return std::future::pending().await };
        if let Err(error) = monitor.changed(Some(self.port)).await {
            tracing::warn!(%error, "watch nftables");
            self.monitor = None;
        }
        self.generation = None;
    }

    /// Whether the kernel has the table as it was told. If not, the next [`Keeper::apply`] makes all anew.
    pub fn is_right(&mut self) -> bool {
        if self.planner.is_whole() {
            return false;
        }
        let now = match self.kernel.generation() {
            Ok(now) => now,
            Err(error) => return self.doubt(&error),
        };
        if self.generation == Some(now) {
            return true;
        }
        if self.generation.is_some() && self.vouch(now) == Vouched::Untouched {
            self.generation = Some(now);
            return true;
        }
        self.generation = None;
        self.read_backs += 1;
        match self.read_back() {
            Ok(true) => {
                self.generation = Some(now);
                true
            }
            Ok(false) => {
                tracing::warn!("somebody changed the rules: making them anew");
                self.planner.tell_whole();
                false
            }
            Err(error) => self.doubt(&error),
        }
    }

    /// What cannot be seen is made anew, with the pauses of what cannot be made.
    fn doubt(&mut self, error: &Error) -> bool {
        tracing::warn!(%error, "see what became of the rules");
        self.planner.tell_whole();
        false
    }

    fn read_back(&mut self) -> Result<bool, Error> {
        let observed = self.kernel.read(Family::Ip, TABLE)?;
        Ok(observed.as_ref() == Some(&Observed::of(self.planner.table())))
    }

    /// Makes the kernel forget UDP flows that go where they should not any more. The rules must be right already: what
    /// is forgotten is then remembered rightly. Returns how many.
    pub fn forget_flows(&mut self) -> Result<usize> {
        let udp = self.planner.take_flows();
        let forgotten = udp.filters().into_iter().try_fold(0, |count, filter| {
            Ok::<_, Error>(count + self.kernel.forget_flows(filter, |flow| udp.is_stale(flow))?)
        });
        forgotten.inspect_err(|_| self.planner.owe_flows(&udp)).context("forget stale UDP flows")
    }
}

/// New chains and sets with what is in them, and all else. A packet sees elements of maps as they are when it looks,
/// but rules as they were when it came: one under way would find a chain of the same transaction without its rules.
pub fn ahead(changes: Vec<Change>) -> (Vec<Change>, Vec<Change>) {
    let (mut chains, mut sets, mut dropped) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for change in &changes {
        match change {
            Change::AddChain(name, _) => chains.insert(name.clone()),
            Change::AddSet(name, _) => sets.insert(name.clone()),
            Change::DropSet(name) => dropped.insert(name.clone()),
            _ => false,
        };
    }
    // What uses a set that is made anew cannot go ahead of it.
    if chains.is_empty() || !sets.is_disjoint(&dropped) {
        return (Vec::new(), changes);
    }
    changes.into_iter().partition(|change| match change {
        Change::AddChain(..) | Change::AddSet(..) => true,
        Change::AddElements(name, _) => sets.contains(name),
        Change::AddRule(name, _) => chains.contains(name),
        _ => false,
    })
}
