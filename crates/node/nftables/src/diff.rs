//! The smallest set of changes from one table to another.

use std::collections::{BTreeMap, BTreeSet};

use crate::expr::Expr;
use crate::model::{Base, Chain, Data, Rule, Set, Table};

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
    /// Takes the rule with this handle out of a chain.
    DropRule(String, u64),
    /// Deletes a set.
    DropSet(String),
    /// Deletes a chain.
    DropChain(String),
}

/// What turns `old` into `new`, within one transaction. A set that changed its shape (its types, or how long elements
/// live) is made anew alone, with the rules that use it: what other sets have learned stays. Without `old`, or where a
/// base chain changed its hook, the whole table is made anew.
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
        && new.chains.iter().all(|(name, chain)| old.chains.get(name).is_none_or(|o| o.base == chain.base))
}

/// As [`diff`], between tables of which base chains stay what they are; what is in neither is left alone.
pub(crate) fn changes_between(old: &Table, new: &Table) -> Vec<Change> {
    let mut changes = Vec::new();
    let reshaped = reshaped(old, new);
    // The kernel deletes no set that a rule uses.
    let emptied: BTreeSet<&String> =
        old.chains.iter().filter(|(_, chain)| uses(chain, &reshaped)).map(|(name, _)| name).collect();
    let gone_chains: Vec<&String> = old.chains.keys().filter(|n| !new.chains.contains_key(*n)).collect();
    for (name, chain) in new.chains.iter().filter(|(n, _)| !old.chains.contains_key(*n)) {
        changes.push(Change::AddChain(name.clone(), chain.base));
    }
    changes.extend(emptied.iter().map(|name| Change::FlushChain((*name).clone())));
    changes.extend(reshaped.iter().map(|name| Change::DropSet(name.clone())));
    let kept = |name: &String| old.sets.get(name).filter(|_| !reshaped.contains(name));
    for (name, set) in new.sets.iter().filter(|(n, _)| kept(n).is_none()) {
        changes.push(Change::AddSet(name.clone(), bare(set)));
    }
    // Rules before elements would be as good; deleted elements come before what they point to goes.
    for (name, set) in &new.sets {
        let (out, into) = elements(kept(name), set);
        if !out.elements.is_empty() || !out.ranges.is_empty() {
            changes.push(Change::DeleteElements(name.clone(), out));
        }
        if !into.elements.is_empty() || !into.ranges.is_empty() {
            changes.push(Change::AddElements(name.clone(), into));
        }
    }
    for (name, chain) in &new.chains {
        let before = old.chains.get(name).filter(|_| !emptied.contains(name));
        rules(name, before.map(|c| c.rules.as_slice()).unwrap_or_default(), &chain.rules, &mut changes);
    }
    let to_flush = gone_chains.iter().filter(|name| !emptied.contains(*name));
    changes.extend(to_flush.map(|name| Change::FlushChain((*name).clone())));
    for name in old.sets.keys().filter(|n| !new.sets.contains_key(*n)) {
        changes.push(Change::DropSet(name.clone()));
    }
    changes.extend(gone_chains.iter().map(|name| Change::DropChain((*name).clone())));
    changes
}

/// Sets that the kernel has to make anew to become what they should be.
pub(crate) fn reshaped(old: &Table, new: &Table) -> BTreeSet<String> {
    let changed = |name: &String, set: &Set| old.sets.get(name).is_some_and(|o| !o.same_shape(set));
    new.sets.iter().filter(|(name, set)| changed(name, set)).map(|(name, _)| name.clone()).collect()
}

/// Whether a rule of the chain names one of these sets.
pub(crate) fn uses(chain: &Chain, sets: &BTreeSet<String>) -> bool {
    chain.rules.iter().flat_map(|rule| &rule.exprs).any(|expr| match expr {
        Expr::Lookup { set, .. } | Expr::Learn { set, .. } => sets.contains(set.as_str()),
        Expr::MapLookup { map, .. } | Expr::VerdictLookup { map, .. } => sets.contains(map.as_str()),
        _ => false,
    })
}

fn rules(chain: &str, before: &[Rule], after: &[Rule], changes: &mut Vec<Change>) {
    if before == after {
        return;
    }
    // What only grew at its end needs no flush.
    let rest = match after.strip_prefix(before) {
        Some(rest) => rest,
        None => {
            changes.push(Change::FlushChain(chain.to_owned()));
            after
        }
    };
    changes.extend(rest.iter().map(|rule| Change::AddRule(chain.to_owned(), rule.clone())));
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
    use crate::expr::{Expr, Reg, Verdict};
    use crate::model::{ChainType, Family, Hook, Type};

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
        let mut hooked = old.clone();
        hooked.chain("a").base =
            Some(Base { kind: ChainType::Filter, hook: Hook::Input, priority: 0, drop_by_default: false });
        assert_eq!(names(diff(Some(&old), &hooked))[0], "AddTable");
    }

    #[test]
    fn a_reshaped_set_costs_its_own_rules_only() {
        let with = |life: u64| {
            let mut table = table(&[(1, "a")], &[("a", 1), ("b", 1)]);
            for (name, chain, life) in [("x", "a", life), ("y", "b", 60)] {
                let learned = Some(std::time::Duration::from_secs(life));
                table.sets.insert(name.into(), Set { learned, ..Set::new(&[Type::Ipv4]) });
                table.chain(chain).rule([Expr::Lookup { set: name.into(), key: Reg(0), not: false }]);
            }
            table
        };
        let changes = diff(Some(&with(60)), &with(30));
        let touched = |change: &Change| match change {
            Change::FlushChain(name) | Change::AddRule(name, _) => name.clone(),
            Change::DropSet(name) | Change::AddSet(name, _) => name.clone(),
            other => format!("{other:?}"),
        };
        assert_eq!(changes.iter().map(touched).collect::<Vec<_>>(), ["a", "x", "x", "a", "a"]);
    }
}
