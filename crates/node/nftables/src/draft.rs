//! A table that is changed piece by piece, and knows which pieces: what is sent follows the change, not the table.
//!
//! ```text
//! put, take, set_chain, add_set ... ─▶ table        as it is to be
//!                                  └─▶ before       what each touched piece was when it was last told
//! changes() = difference of (before, the same pieces now), in an order the kernel accepts
//! ```

use std::collections::BTreeMap;

use crate::diff::{Change, changes_between, reshaped, uses};
use crate::model::{Chain, Data, Set, Table};

/// See the module.
#[derive(Debug, Clone)]
pub struct Draft {
    table: Table,
    /// Chains that were touched, as they were; `None` for those that were not there.
    chains: BTreeMap<String, Option<Chain>>,
    /// Sets that were made or deleted, as they were; `None` for those that were not there.
    sets: BTreeMap<String, Option<Set>>,
    /// Elements that were touched in sets that were there, as they were.
    elements: BTreeMap<String, BTreeMap<Vec<u8>, Option<Data>>>,
    /// Ranges, likewise: the end that each had.
    ranges: BTreeMap<String, BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
    /// The next telling is the whole table: what is touched until then is not noted.
    whole: bool,
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
            whole: false,
        }
    }

    /// From now on the table is to be told whole, by [`Draft::table`]: changes are not noted until [`Draft::told`].
    pub fn tell_whole(&mut self) {
        self.whole = true;
        self.forget();
    }

    /// The kernel has the table as it is now: changes are noted from here on.
    pub fn reported(&mut self) {
        self.whole = false;
        self.forget();
    }

    /// Whether changes are not noted.
    pub fn is_to_be_told_whole(&self) -> bool {
        self.whole
    }

    fn forget(&mut self) {
        self.chains.clear();
        self.sets.clear();
        self.elements.clear();
        self.ranges.clear();
    }

    /// The table as it is to be.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Makes a set. One of that name must not be there: it would be replaced, with a shape that may differ.
    pub fn add_set(&mut self, name: &str, set: Set) {
        self.remove_set(name);
        if !self.whole {
            self.sets.entry(name.to_owned()).or_insert(None);
        }
        self.table.sets.insert(name.to_owned(), set);
    }

    /// Deletes a set; no rule may use it any more.
    pub fn remove_set(&mut self, name: &str) {
        let Some(mut set) = self.table.sets.remove(name).filter(|_| !self.whole) else { return };
        let (elements, ranges) = (self.elements.remove(name), self.ranges.remove(name));
        if self.sets.contains_key(name) {
            return;
        }
        // As the kernel has it: one of that name may come again before it is told.
        for (key, old) in elements.into_iter().flatten() {
            match old {
                Some(data) => drop(set.elements.insert(key, data)),
                None => drop(set.elements.remove(&key)),
            }
        }
        for (first, old) in ranges.into_iter().flatten() {
            match old {
                Some(end) => drop(set.ranges.insert(first, end)),
                None => drop(set.ranges.remove(&first)),
            }
        }
        self.sets.insert(name.to_owned(), Some(set));
    }

    /// Puts an element into a set, or gives it other data. Nothing, when there is no such set.
    pub fn put(&mut self, set: &str, key: Vec<u8>, data: Data) {
        let Some(target) = self.table.sets.get_mut(set) else { return };
        if self.whole {
            target.elements.insert(key, data);
            return;
        }
        let old = target.elements.insert(key.clone(), data.clone());
        if old.as_ref() != Some(&data) {
            self.elements.entry(set.to_owned()).or_default().entry(key).or_insert(old);
        }
    }

    /// Takes an element out of a set.
    pub fn take(&mut self, set: &str, key: &[u8]) {
        let Some(target) = self.table.sets.get_mut(set) else { return };
        if let Some(old) = target.elements.remove(key).filter(|_| !self.whole) {
            self.elements.entry(set.to_owned()).or_default().entry(key.to_vec()).or_insert(Some(old));
        }
    }

    /// Makes these the ranges of a set of intervals.
    pub fn set_ranges(&mut self, set: &str, ranges: BTreeMap<Vec<u8>, Vec<u8>>) {
        let Some(target) = self.table.sets.get_mut(set) else { return };
        let old = std::mem::replace(&mut target.ranges, ranges);
        if self.whole {
            return;
        }
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
        if self.whole {
            return;
        }
        self.chains.entry(name.to_owned()).or_insert(old);
    }

    /// Deletes a chain; nothing may lead to it any more.
    pub fn remove_chain(&mut self, name: &str) {
        if let Some(old) = self.table.chains.remove(name).filter(|_| !self.whole) {
            self.chains.entry(name.to_owned()).or_insert(Some(old));
        }
    }

    /// What was changed since the last call, or since the table was [told](Draft::told) whole.
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
        self.add_users_of_reshaped(&mut old, &mut new);
        changes_between(&old, &new)
    }

    /// A set that is made anew takes the rules that use it with it, in chains that were not touched, too.
    fn add_users_of_reshaped(&self, old: &mut Table, new: &mut Table) {
        let reshaped = reshaped(old, new);
        if reshaped.is_empty() {
            return;
        }
        let touched = |name: &String| old.chains.contains_key(name) || new.chains.contains_key(name);
        let users = self.table.chains.iter().filter(|(name, chain)| !touched(name) && uses(chain, &reshaped));
        let users: Vec<(String, Chain)> = users.map(|(name, chain)| (name.clone(), chain.clone())).collect();
        old.chains.extend(users.iter().cloned());
        new.chains.extend(users);
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
            let reported = draft.changes();
            assert_eq!(reported, diff(Some(&before), draft.table()));
            assert!(draft.changes().is_empty(), "told once");
            reported.len()
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
    fn what_is_told_whole_is_not_told_twice() {
        let mut draft = start();
        draft.put("map", vec![10, 0, 1, 1], jump("a"));
        draft.tell_whole();
        draft.put("map", vec![10, 0, 1, 2], jump("a"));
        draft.take("map", &[10, 0, 0, 1]);
        draft.remove_set("own");
        draft.set_chain("b", Chain::default());
        assert_eq!((draft.table().sets.len(), draft.table().sets["map"].elements.len()), (1, 101));
        draft.reported();
        assert!(draft.changes().is_empty());
        draft.take("map", &[10, 0, 1, 2]);
        assert_eq!(draft.changes().len(), 1);
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

    #[test]
    fn a_set_that_goes_and_comes_again() {
        let with =
            |last: u8| Set { elements: [(vec![10, 0, 0, last], jump("a"))].into(), ..Set::verdict_map(&[Type::Ipv4]) };
        let mut draft = start();
        draft.add_set("again", with(1));
        draft.changes();
        let before = draft.table().clone();
        draft.put("again", vec![10, 0, 0, 2], jump("a"));
        draft.take("again", &[10, 0, 0, 1]);
        draft.remove_set("again");
        draft.add_set("again", with(3));
        assert_eq!(draft.changes(), diff(Some(&before), draft.table()), "one element out, one in");
        let before = draft.table().clone();
        draft.remove_set("again");
        draft.add_set("again", with(3));
        assert!(draft.changes().is_empty() && draft.table() == &before);
    }

    /// Its rules go with it, in whatever chain: the kernel deletes no set that a rule uses.
    #[test]
    fn a_set_of_another_shape() {
        let mut draft = start();
        draft.add_set("shape", Set::new(&[Type::Ipv4]));
        let lookup = Expr::Lookup { set: "shape".into(), key: Reg(0), not: false };
        draft.set_chain("user", Chain::default().rule([lookup]).clone());
        draft.changes();
        let before = draft.table().clone();
        draft.add_set("shape", Set { intervals: true, ..Set::new(&[Type::Ipv4]) });
        let changes = draft.changes();
        assert_eq!(changes, diff(Some(&before), draft.table()));
        assert!(changes.contains(&Change::FlushChain("user".into())), "{changes:?}");
    }
}
