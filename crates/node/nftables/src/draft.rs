//! A table that is changed piece by piece, and knows which pieces: what is sent follows the change, not the table.
//!
//! ```text
//! put, take, set_chain, add_set ... ─▶ table        as it is to be
//!                                  └─▶ before       what each touched piece was when it was last told
//! changes() = difference of (before, the same pieces now), in an order the kernel accepts
//! ```

use std::collections::BTreeMap;

use crate::diff::{Change, changes_between};
use crate::model::{Chain, Data, Set, Table};

/// See the module.
#[derive(Debug, Clone)]
pub struct Draft {
    table: Table,
    /// Chains that were touched, as they were; `None` for those that were not there.
    chains: BTreeMap<String, Option<Chain>>,
    /// Sets that were made or deleted: the shape they had (elements aside), `None` for those that were not there.
    sets: BTreeMap<String, Option<Set>>,
    /// Elements that were touched in sets that were there, as they were.
    elements: BTreeMap<String, BTreeMap<Vec<u8>, Option<Data>>>,
    /// Ranges, likewise: the end that each had.
    ranges: BTreeMap<String, BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
}

impl Draft {
    /// Of a table that the kernel has already, or will be given whole.
    pub fn new(table: Table) -> Self {
        Self {
            table,
            chains: BTreeMap::new(),
            sets: BTreeMap::new(),
            elements: BTreeMap::new(),
            ranges: BTreeMap::new(),
        }
    }

    /// The table as it is to be.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Makes a set. One of that name must not be there: it would be replaced, with a shape that may differ.
    pub fn add_set(&mut self, name: &str, set: Set) {
        self.remove_set(name);
        self.sets.entry(name.to_owned()).or_insert(None);
        self.table.sets.insert(name.to_owned(), set);
    }

    /// Deletes a set; no rule may use it any more.
    pub fn remove_set(&mut self, name: &str) {
        let Some(set) = self.table.sets.remove(name) else { return };
        let shape = Set { elements: BTreeMap::new(), ranges: BTreeMap::new(), ..set };
        self.sets.entry(name.to_owned()).or_insert(Some(shape));
    }

    /// Puts an element into a set, or gives it other data. Nothing, when there is no such set.
    pub fn put(&mut self, set: &str, key: Vec<u8>, data: Data) {
        let Some(target) = self.table.sets.get_mut(set) else { return };
        let old = target.elements.insert(key.clone(), data.clone());
        if old.as_ref() != Some(&data) {
            self.elements.entry(set.to_owned()).or_default().entry(key).or_insert(old);
        }
    }

    /// Takes an element out of a set.
    pub fn take(&mut self, set: &str, key: &[u8]) {
        let Some(target) = self.table.sets.get_mut(set) else { return };
        if let Some(old) = target.elements.remove(key) {
            self.elements.entry(set.to_owned()).or_default().entry(key.to_vec()).or_insert(Some(old));
        }
    }

    /// Makes these the ranges of a set of intervals.
    pub fn set_ranges(&mut self, set: &str, ranges: BTreeMap<Vec<u8>, Vec<u8>>) {
        let Some(target) = self.table.sets.get_mut(set) else { return };
        let old = std::mem::replace(&mut target.ranges, ranges);
        let touched = self.ranges.entry(set.to_owned()).or_default();
        for first in target.ranges.keys().filter(|first| !old.contains_key(*first)) {
            touched.entry(first.clone()).or_insert(None);
        }
        for (first, end) in old {
            if target.ranges.get(&first) != Some(&end) {
                touched.entry(first).or_insert(Some(end));
            }
        }
    }

    /// Makes a chain, or gives it these rules.
    pub fn set_chain(&mut self, name: &str, chain: Chain) {
        if self.table.chains.get(name) == Some(&chain) {
            return;
        }
        let old = self.table.chains.insert(name.to_owned(), chain);
        self.chains.entry(name.to_owned()).or_insert(old);
    }

    /// Deletes a chain; nothing may lead to it any more.
    pub fn remove_chain(&mut self, name: &str) {
        if let Some(old) = self.table.chains.remove(name) {
            self.chains.entry(name.to_owned()).or_insert(Some(old));
        }
    }

    /// What was changed since the last call.
    pub fn changes(&mut self) -> Vec<Change> {
        let mut old = Table::new(self.table.family, &self.table.name);
        let mut new = old.clone();
        for (name, before) in std::mem::take(&mut self.chains) {
            if let Some(now) = self.table.chains.get(&name) {
                new.chains.insert(name.clone(), now.clone());
            }
            old.chains.extend(before.map(|chain| (name, chain)));
        }
        let made = std::mem::take(&mut self.sets);
        for (name, before) in &made {
            if let Some(now) = self.table.sets.get(name) {
                new.sets.insert(name.clone(), now.clone());
            }
            old.sets.extend(before.clone().map(|set| (name.clone(), set)));
        }
        let (elements, ranges) = (std::mem::take(&mut self.elements), std::mem::take(&mut self.ranges));
        for name in elements.keys().chain(ranges.keys()).filter(|name| !made.contains_key(*name)) {
            let Some(now) = self.table.sets.get(name) else { continue };
            let (before, after) = touched(now, elements.get(name), ranges.get(name));
            old.sets.insert(name.clone(), before);
            new.sets.insert(name.clone(), after);
        }
        changes_between(&old, &new)
    }
}

/// A set's touched elements and ranges alone, as they were and as they are.
fn touched(
    now: &Set,
    elements: Option<&BTreeMap<Vec<u8>, Option<Data>>>,
    ranges: Option<&BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
) -> (Set, Set) {
    let bare = || Set {
        key: now.key.clone(),
        data: now.data.clone(),
        elements: BTreeMap::new(),
        ranges: BTreeMap::new(),
        ..*now
    };
    let (mut before, mut after) = (bare(), bare());
    for (key, old) in elements.into_iter().flatten() {
        before.elements.extend(old.clone().map(|data| (key.clone(), data)));
        after.elements.extend(now.elements.get(key).map(|data| (key.clone(), data.clone())));
    }
    for (first, old) in ranges.into_iter().flatten() {
        before.ranges.extend(old.clone().map(|end| (first.clone(), end)));
        after.ranges.extend(now.ranges.get(first).map(|end| (first.clone(), end.clone())));
    }
    (before, after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::diff;
    use crate::expr::{Expr, Reg, Verdict};
    use crate::model::{Family, Type};

    fn start() -> Draft {
        let mut table = Table::new(Family::Inet, "t");
        let mut map = Set::verdict_map(&[Type::Ipv4]);
        for last in 0..100 {
            map.elements.insert(vec![10, 0, 0, last], Data::Verdict(Verdict::Jump("a".into())));
        }
        table.sets.insert("map".into(), map);
        table.sets.insert("own".into(), Set { intervals: true, ..Set::new(&[Type::Ipv4]) });
        table.chain("a").rule([Expr::Counter]);
        Draft::new(table)
    }

    fn jump(chain: &str) -> Data {
        Data::Verdict(Verdict::Jump(chain.to_owned()))
    }

    /// What a draft tells is what a comparison of whole tables finds, in all these cases.
    #[test]
    fn tells_what_the_whole_comparison_finds() {
        let changed = |work: &dyn Fn(&mut Draft)| {
            let mut draft = start();
            let before = draft.table().clone();
            work(&mut draft);
            let told = draft.changes();
            assert_eq!(told, diff(Some(&before), draft.table()));
            assert!(draft.changes().is_empty(), "told once");
            told.len()
        };
        assert_eq!(changed(&|_| {}), 0);
        assert_eq!(changed(&|d| d.put("map", vec![10, 0, 1, 1], jump("a"))), 1);
        assert_eq!(changed(&|d| d.put("map", vec![10, 0, 0, 1], jump("a"))), 0);
        assert_eq!(changed(&|d| d.take("map", &[10, 0, 0, 1])), 1);
        assert_eq!(changed(&|d| d.take("map", &[10, 0, 9, 9])), 0);
        // There and back again is nothing.
        let back = |d: &mut Draft| {
            d.take("map", &[10, 0, 0, 1]);
            d.put("map", vec![10, 0, 0, 1], jump("a"));
        };
        assert_eq!(changed(&back), 0);
        assert_eq!(changed(&|d| d.put("nowhere", vec![1], Data::None)), 0);
        let moved = |d: &mut Draft| {
            let lookup = Expr::Lookup { set: "peers".into(), key: Reg(0), not: false };
            d.add_set("peers", Set::new(&[Type::Ipv4]));
            d.put("peers", vec![10, 0, 0, 7], Data::None);
            d.set_chain("b", Chain::default().rule([lookup]).clone());
            for last in 0..100 {
                d.put("map", vec![10, 0, 0, last], jump("b"));
            }
            d.remove_chain("a");
        };
        // A chain, a set and its element, elements out and in, a rule; a chain emptied and deleted.
        assert_eq!(changed(&moved), 8);
        let ranges = |d: &mut Draft| d.set_ranges("own", [(vec![10, 1, 0, 0], vec![10, 2, 0, 0])].into());
        assert_eq!(changed(&ranges), 1);
    }

    #[test]
    fn ranges_and_sets_change_and_go() {
        let mut draft = start();
        draft.set_ranges("own", [(vec![10, 1, 0, 0], vec![10, 2, 0, 0])].into());
        draft.changes();
        let before = draft.table().clone();
        draft.set_ranges("own", [(vec![10, 1, 0, 0], vec![10, 3, 0, 0])].into());
        assert_eq!(draft.changes(), diff(Some(&before), draft.table()));
        draft.add_set("gone", Set::new(&[Type::Port]));
        draft.put("gone", vec![0, 1], Data::None);
        draft.remove_set("gone");
        assert!(draft.changes().is_empty(), "made and deleted before anybody heard of it");
        let before = draft.table().clone();
        draft.remove_set("own");
        draft.remove_set("own");
        assert_eq!(draft.changes(), diff(Some(&before), draft.table()));
    }
}
