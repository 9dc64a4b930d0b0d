//! The smallest set of changes from one table to another.

use std::collections::BTreeMap;

use crate::model::{Base, Data, Rule, Set, Table};

/// One change, in an order the kernel accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Deletes the whole table, if it is there.
    DropTable,
    /// Makes the table.
    AddTable,
    /// Makes a chain.
    AddChain(String, Option<Base>),
    /// Makes a set.
    AddSet(String, Set),
    /// Takes elements out.
    DeleteElements(String, Set),
    /// Puts elements in.
    AddElements(String, Set),
    /// Takes all rules out of a chain.
    FlushChain(String),
    /// Appends a rule.
    AddRule(String, Rule),
    /// Deletes a set.
    DropSet(String),
    /// Deletes a chain.
    DropChain(String),
}

/// What turns `old` into `new`. Without `old`, or where a set or base chain changed its shape, the table is made anew, still
/// within one transaction.
pub fn diff(old: Option<&Table>, new: &Table) -> Vec<Change> {
    let Some(old) = old.filter(|old| can_change(old, new)) else {
        let mut changes = vec![Change::AddTable, Change::DropTable, Change::AddTable];
        let empty = Table::new(new.family, &new.name);
        changes.extend(changes_between(&empty, new));
        return changes;
    };
    changes_between(old, new)
}

fn can_change(old: &Table, new: &Table) -> bool {
    (old.family, &old.name) == (new.family, &new.name)
        && new.sets.iter().all(|(name, set)| old.sets.get(name).is_none_or(|o| o.same_shape(set)))
        && new.chains.iter().all(|(name, chain)| old.chains.get(name).is_none_or(|o| o.base == chain.base))
}

fn changes_between(old: &Table, new: &Table) -> Vec<Change> {
    let mut changes = Vec::new();
    let added = |name: &String| !old.chains.contains_key(name);
    let gone_chains: Vec<&String> = old.chains.keys().filter(|n| !new.chains.contains_key(*n)).collect();
    for (name, chain) in new.chains.iter().filter(|(n, _)| added(n)) {
        changes.push(Change::AddChain(name.clone(), chain.base));
    }
    for (name, set) in new.sets.iter().filter(|(n, _)| !old.sets.contains_key(*n)) {
        changes.push(Change::AddSet(name.clone(), bare(set)));
    }
    // Rules before elements would be as good; deleted elements come before what they point to goes.
    for (name, set) in &new.sets {
        let before = old.sets.get(name);
        let (out, into) = elements(before, set);
        if !out.elements.is_empty() || !out.ranges.is_empty() {
            changes.push(Change::DeleteElements(name.clone(), out));
        }
        if !into.elements.is_empty() || !into.ranges.is_empty() {
            changes.push(Change::AddElements(name.clone(), into));
        }
    }
    for (name, chain) in &new.chains {
        let before = old.chains.get(name).map(|c| c.rules.as_slice()).unwrap_or_default();
        if before == chain.rules.as_slice() {
            continue;
        }
        // What only grew at its end needs no flush.
        let rest = match chain.rules.strip_prefix(before) {
            Some(rest) => rest,
            None => {
                changes.push(Change::FlushChain(name.clone()));
                chain.rules.as_slice()
            }
        };
        changes.extend(rest.iter().map(|rule| Change::AddRule(name.clone(), rule.clone())));
    }
    changes.extend(gone_chains.iter().map(|name| Change::FlushChain((*name).clone())));
    for name in old.sets.keys().filter(|n| !new.sets.contains_key(*n)) {
        changes.push(Change::DropSet(name.clone()));
    }
    changes.extend(gone_chains.iter().map(|name| Change::DropChain((*name).clone())));
    changes
}

fn bare(set: &Set) -> Set {
    Set { elements: BTreeMap::new(), ranges: BTreeMap::new(), ..set.clone() }
}

/// Elements to take out and to put in; one with other data is both.
fn elements(old: Option<&Set>, new: &Set) -> (Set, Set) {
    let (mut out, mut into) = (bare(new), bare(new));
    let none = bare(new);
    let old = old.unwrap_or(&none);
    for (key, data) in &old.elements {
        if new.elements.get(key) != Some(data) {
            // Deletions name the key alone.
            out.elements.insert(key.clone(), Data::None);
        }
    }
    for (key, data) in &new.elements {
        if old.elements.get(key) != Some(data) {
            into.elements.insert(key.clone(), data.clone());
        }
    }
    for (first, end) in &old.ranges {
        if new.ranges.get(first) != Some(end) {
            out.ranges.insert(first.clone(), end.clone());
        }
    }
    for (first, end) in &new.ranges {
        if old.ranges.get(first) != Some(end) {
            into.ranges.insert(first.clone(), end.clone());
        }
    }
    (out, into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::{Expr, Verdict};
    use crate::model::{Family, Type};

    fn table(elements: &[(u8, &str)], chains: &[(&str, usize)]) -> Table {
        let mut table = Table::new(Family::Ip, "t");
        let mut set = Set::verdict_map(&[Type::Port]);
        for (port, chain) in elements {
            set.elements.insert(vec![0, *port], Data::Verdict(Verdict::Goto((*chain).into())));
        }
        table.sets.insert("m".into(), set);
        for (name, rules) in chains {
            for _ in 0..*rules {
                table.chain(name).rule([Expr::Counter]);
            }
        }
        table
    }

    #[test]
    fn changes_are_few_and_in_order() {
        let old = table(&[(1, "a"), (2, "b")], &[("a", 1), ("b", 1)]);
        assert!(diff(Some(&old), &old).is_empty());
        let names = |changes: Vec<Change>| -> Vec<String> {
            changes.iter().map(|c| format!("{c:?}").split(['(', ' ']).next().unwrap_or_default().to_owned()).collect()
        };
        let grown = table(&[(1, "a"), (2, "b"), (3, "c")], &[("a", 2), ("b", 1), ("c", 1)]);
        assert_eq!(names(diff(Some(&old), &grown)), ["AddChain", "AddElements", "AddRule", "AddRule"]);
        assert_eq!(
            names(diff(Some(&grown), &old)),
            ["DeleteElements", "FlushChain", "AddRule", "FlushChain", "DropChain"]
        );
        let moved = table(&[(1, "b"), (2, "b")], &[("a", 1), ("b", 1)]);
        assert_eq!(names(diff(Some(&old), &moved)), ["DeleteElements", "AddElements"]);
        assert_eq!(names(diff(None, &table(&[], &[])))[..3], ["AddTable", "DropTable", "AddTable"]);
        let mut reshaped = old.clone();
        reshaped.sets.insert("m".into(), Set::new(&[Type::Port]));
        assert_eq!(names(diff(Some(&old), &reshaped))[0], "AddTable");
    }
}
