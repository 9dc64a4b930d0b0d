//! What the kernel has.

use std::collections::{BTreeMap, BTreeSet};

use crate::encode::kind;
use crate::model::{Family, Table};
use crate::netlink::{Messages, NLM_F_DUMP, attributes, be32, find, text};
use crate::socket::{Error, Nftables};

const GETTABLE: u16 = 1;
pub(crate) const GETCHAIN: u16 = 4;
pub(crate) const GETRULE: u16 = 7;
pub(crate) const GETSET: u16 = 10;
const GETSETELEM: u16 = 13;
const GETGEN: u16 = 16;

/// A table as the kernel has it: enough to tell whether it is ours, whole and unchanged in shape.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Chains and how many rules each has.
    pub chains: BTreeMap<String, usize>,
    /// Sets and the keys of their elements, without those that rules added.
    pub sets: BTreeMap<String, BTreeSet<Vec<u8>>>,
}

impl Observed {
    /// What is to be observed when the kernel has this table.
    pub fn of(table: &Table) -> Self {
        let chains = table.chains.iter().map(|(name, chain)| (name.clone(), chain.rules.len())).collect();
        let keys = |set: &crate::model::Set| match set.learned {
            Some(_) => BTreeSet::new(),
            None => set.elements.keys().chain(set.ranges.keys()).cloned().collect(),
        };
        Self { chains, sets: table.sets.iter().map(|(name, set)| (name.clone(), keys(set))).collect() }
    }
}

impl Nftables {
    /// The generation of the ruleset: it changes with every transaction of anybody.
    pub fn generation(&self) -> Result<u32, Error> {
        let mut messages = Messages::default();
        messages.push(kind(GETGEN), crate::netlink::NLM_F_ACK, 0, 0, |_| {});
        let mut generation = 0;
        self.dump(messages.bytes(), &mut |m| {
            if let Some(value) = find(&m.attributes(), 1) {
                generation = be32(value);
            }
        })?;
        Ok(generation)
    }

    /// Whether the table is there.
    pub fn has_table(&self, family: Family, name: &str) -> Result<bool, Error> {
        let mut messages = Messages::default();
        messages.push(kind(GETTABLE), NLM_F_DUMP, family.number(), 0, |_| {});
        let mut there = false;
        self.dump(messages.bytes(), &mut |m| there |= find(&m.attributes(), 1).is_some_and(|n| text(n) == name))?;
        Ok(there)
    }

    /// Reads a table; `None` when it is not there.
    pub fn read(&self, family: Family, table: &str) -> Result<Option<Observed>, Error> {
        if !self.has_table(family, table)? {
            return Ok(None);
        }
        let mut observed = Observed::default();
        let ask = |message: u16| {
            let mut messages = Messages::default();
            messages.push(kind(message), NLM_F_DUMP, family.number(), 0, |a| a.text(1, table));
            messages
        };
        let ours = |all: &[(u16, &[u8])]| find(all, 1).is_some_and(|n| text(n) == table);
        self.dump(ask(GETCHAIN).bytes(), &mut |m| {
            let all = m.attributes();
            if let Some(name) = find(&all, 3).filter(|_| ours(&all)) {
                observed.chains.insert(text(name), 0);
            }
        })?;
        self.dump(ask(GETRULE).bytes(), &mut |m| {
            let all = m.attributes();
            if let Some(name) = find(&all, 2).filter(|_| ours(&all)) {
                *observed.chains.entry(text(name)).or_default() += 1;
            }
        })?;
        let mut learned = BTreeSet::new();
        self.dump(ask(GETSET).bytes(), &mut |m| {
            let all = m.attributes();
            if let Some(name) = find(&all, 2).filter(|_| ours(&all)) {
                if find(&all, 3).is_some_and(|flags| be32(flags) & 0x20 != 0) {
                    learned.insert(text(name));
                }
                observed.sets.insert(text(name), BTreeSet::new());
            }
        })?;
        for (name, keys) in &mut observed.sets {
            if !learned.contains(name) {
                *keys = self.elements(family, table, name)?.into_keys().collect();
            }
        }
        Ok(Some(observed))
    }

    /// The elements of a set: key to value (empty for sets and verdict maps). Ends of ranges are left out.
    pub fn elements(&self, family: Family, table: &str, set: &str) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
        let mut messages = Messages::default();
        messages.push(kind(GETSETELEM), NLM_F_DUMP, family.number(), 0, |a| {
            a.text(1, table);
            a.text(2, set);
        });
        let mut found = BTreeMap::new();
        self.dump(messages.bytes(), &mut |m| {
            let all = m.attributes();
            let Some(list) = find(&all, 3) else { return };
            for (_, element) in attributes(list) {
                let parts = attributes(element);
                let value = |kind| find(&parts, kind).map(attributes).and_then(|d| find(&d, 1).map(<[u8]>::to_vec));
                let is_end = find(&parts, 3).is_some_and(|flags| be32(flags) & 1 != 0);
                if let Some(key) = value(1).filter(|_| !is_end) {
                    found.insert(key, value(2).unwrap_or_default());
                }
            }
        })?;
        Ok(found)
    }
}
