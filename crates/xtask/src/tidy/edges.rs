//! Who uses whom: the table in docs/architecture.md against the manifests.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::metadata::Crate;

/// Rooms that know nothing of each other.
const ROOMS: &[&str] = &["lifecycle", "cluster", "node"];
/// What every crate outside base may use without a word in the table.
const FREE: &[&str] = &["apimachinery", "component-base"];
/// Names that gather what belongs nowhere.
const CATCH_ALL: &[&str] = &["common", "util", "utils", "helper", "helpers"];
/// First line of the table.
const HEADER: &str = "| crate | may use";

/// Every difference between the table and the manifests, and every edge that no table can allow.
pub fn check(document: &str, crates: &[Crate]) -> Result<Vec<String>> {
    let table = table(document)?;
    let mut problems = Vec::new();
    for one in crates {
        let name = name(&one.dir);
        if CATCH_ALL.contains(&name) {
            problems.push(format!("{}: a crate is not called {name}", one.dir));
        }
        let Some(allowed) = table.get(name) else {
            problems.push(format!("docs/architecture.md: no row for {name}"));
            continue;
        };
        let free = |used: &str| room(&one.dir) != Some("base") && FREE.contains(&used);
        for used in &one.uses {
            problems.extend(forbidden(&one.dir, used));
            let used = self::name(used);
            if !free(used) && !allowed.contains(&used) {
                problems.push(format!("{}: may not use {used} (docs/architecture.md)", one.dir));
            }
        }
        for unused in allowed.iter().filter(|a| !one.uses.iter().any(|u| self::name(u) == **a)) {
            problems.push(format!("docs/architecture.md: {name} does not use {unused}"));
        }
    }
    for gone in table.keys().filter(|row| !crates.iter().any(|c| name(&c.dir) == **row)) {
        problems.push(format!("docs/architecture.md: there is no crate {gone}"));
    }
    Ok(problems)
}

/// Edges that are wrong whatever the table says.
fn forbidden(from: &str, to: &str) -> Option<String> {
    let (mine, theirs) = (room(from), room(to));
    if to.starts_with("cmd/") {
        return Some(format!("{from}: nothing uses {to}"));
    }
    if name(to) == "storage" && name(from) != "apiserver" {
        return Some(format!("{from}: only apiserver uses storage"));
    }
    let sideways = mine.is_some() && theirs != mine && theirs.is_some_and(|t| ROOMS.contains(&t));
    sideways.then(|| format!("{from}: {} may not use {} of {}", mine.unwrap_or(""), name(to), theirs.unwrap_or("")))
}

/// `base`, `lifecycle`, `cluster` or `node`.
fn room(dir: &str) -> Option<&str> {
    let (room, _) = dir.strip_prefix("crates/")?.split_once('/')?;
    (ROOMS.contains(&room) || room == "base").then_some(room)
}

/// A crate's name in the table: its directory's, or `cmd/NAME` for a program.
fn name(dir: &str) -> &str {
    if dir.starts_with("cmd/") {
        return dir;
    }
    dir.rsplit('/').next().unwrap_or(dir)
}

/// Rows of the table: `| crate, crate | used, used |`, where `-` is nothing.
fn table(document: &str) -> Result<BTreeMap<&str, Vec<&str>>> {
    let rows: Vec<&str> =
        document.lines().skip_while(|l| !l.starts_with(HEADER)).skip(2).take_while(|l| l.starts_with('|')).collect();
    ensure!(!rows.is_empty(), "docs/architecture.md has no table `{HEADER} ... |`");
    let mut table = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        ensure!(cells.len() == 2, "docs/architecture.md: not two cells: {row}");
        for name in cells[0].split(", ") {
            let uses = cells[1].split(", ").filter(|u| *u != "-").collect();
            ensure!(table.insert(name, uses).is_none(), "docs/architecture.md: two rows for {name}");
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "text\n\n| crate | may use (beyond apimachinery and component-base) |\n|---|---|\n\
        | apimachinery, pki | - |\n| kubelet, proxy | pki |\n\nmore | text |\n";

    fn one(dir: &str, uses: &[&str]) -> Crate {
        Crate { dir: dir.to_owned(), uses: uses.iter().map(|u| (*u).to_owned()).collect() }
    }

    fn good() -> Vec<Crate> {
        vec![
            one("crates/base/apimachinery", &[]),
            one("crates/base/pki", &[]),
            one("crates/node/kubelet", &["crates/base/pki", "crates/base/apimachinery"]),
            one("crates/node/proxy", &["crates/base/pki"]),
        ]
    }

    #[test]
    fn the_table_says_all_edges_and_no_other() {
        assert_eq!(check(TABLE, &good()).unwrap(), Vec::<String>::new());

        let mut crates = good();
        crates[1].uses.push("crates/base/apimachinery".to_owned());
        crates[3].uses.clear();
        crates.push(one("crates/node/dns", &[]));
        assert_eq!(
            check(TABLE, &crates).unwrap(),
            [
                "crates/base/pki: may not use apimachinery (docs/architecture.md)",
                "docs/architecture.md: proxy does not use pki",
                "docs/architecture.md: no row for dns",
            ]
        );
        crates.retain(|c| c.dir == "crates/node/kubelet" || c.dir == "crates/node/proxy");
        let problems = check(TABLE, &crates).unwrap();
        assert!(problems.contains(&"docs/architecture.md: there is no crate apimachinery".to_owned()), "{problems:?}");
        assert!(check("no table", &good()).is_err());
    }

    #[test]
    fn no_table_allows_an_edge_between_rooms() {
        let reported = |from, to| forbidden(from, to).unwrap_or_default();
        assert_eq!(
            reported("crates/node/kubelet", "crates/lifecycle/config"),
            "crates/node/kubelet: node may not use config of lifecycle"
        );
        assert_eq!(reported("crates/base/pki", "crates/node/cri"), "crates/base/pki: base may not use cri of node");
        assert_eq!(
            reported("crates/cluster/scheduler", "crates/cluster/storage"),
            "crates/cluster/scheduler: only apiserver uses storage"
        );
        assert_eq!(reported("crates/xtask", "cmd/kinit"), "crates/xtask: nothing uses cmd/kinit");
        assert_eq!(forbidden("cmd/kinit", "crates/lifecycle/cli"), None);
        assert_eq!(forbidden("crates/cluster/apiserver", "crates/cluster/storage"), None);
    }
}
