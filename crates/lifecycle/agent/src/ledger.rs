//! What kinit changed on this host, so that reset can give it back as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::files;

pub(crate) const HOME: &str = "/var/lib/kinit";
const PATH: &str = "/var/lib/kinit/ledger.json";

/// Everything that was different before. Written before the change it tells of.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    /// Packages that were not installed.
    pub packages: BTreeSet<String>,
    /// Packages that were not held.
    #[serde(default)]
    pub held: BTreeSet<String>,
    /// Paths that did not exist.
    pub created: BTreeSet<String>,
    /// Files that existed, and where their old content is kept.
    pub replaced: BTreeMap<String, String>,
    /// Kernel settings and their old values.
    pub sysctls: BTreeMap<String, String>,
    /// Swap areas that were in use.
    pub swaps: BTreeSet<String>,
    /// Units that kinit enabled, or stopped; true: it was enabled and running before.
    pub units: BTreeMap<String, bool>,
    /// Folders that components write to and that existed, with what was in them.
    #[serde(default)]
    pub found: BTreeMap<String, BTreeSet<String>>,
    /// The cluster's authority, noted when a reset begins.
    #[serde(default)]
    pub authority: Option<String>,
}

/// Folders that components fill while they run. What was in them before the first change is the host's own.
pub(crate) const FILLED_WHILE_RUNNING: &[&str] = &[
    "/etc/kubernetes",
    "/var/lib/kubelet",
    "/var/lib/etcd",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/log/pods",
    "/var/log/containers",
    "/var/log/kubernetes",
    "/etc/cni",
    "/run/flannel",
    "/run/kubernetes",
];

fn children(folder: &str) -> Option<BTreeSet<String>> {
    let entries = std::fs::read_dir(folder).ok()?;
    Some(entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect())
}

impl Ledger {
    /// The ledger on disk, or an empty one.
    pub fn load() -> Result<Self> {
        match std::fs::read(PATH) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("parse {PATH}")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("read {PATH}")),
        }
    }

    /// Changes the ledger, durably, if `change` changes anything.
    pub fn note(change: impl FnOnce(&mut Self)) -> Result<()> {
        let old = Self::load()?;
        let mut new = old.clone();
        change(&mut new);
        if new == old {
            return Ok(());
        }
        if !Self::exists() {
            let found = FILLED_WHILE_RUNNING.iter().filter_map(|f| Some(((*f).to_owned(), children(f)?)));
            new.found.extend(found);
        }
        std::fs::create_dir_all(HOME).with_context(|| format!("create {HOME}"))?;
        files::write_private(PATH, &serde_json::to_vec_pretty(&new).context("encode the ledger")?)
    }

    /// Whether kinit has changed anything here.
    pub fn exists() -> bool {
        Path::new(PATH).exists()
    }

    /// Notes what is in a folder that a component will fill, if it is there already.
    pub fn note_populated(folder: &str) -> Result<()> {
        let ledger = Self::load()?;
        let known = ledger.found.contains_key(folder) || ledger.created.contains(folder);
        match children(folder) {
            Some(names) if !known && !FILLED_WHILE_RUNNING.contains(&folder) => Self::note(|l| {
                l.found.insert(folder.to_owned(), names);
            }),
            _ => Ok(()),
        }
    }

    /// What components have made: folders that were not there, and what is new in those that were.
    pub fn made_while_running(&self) -> BTreeSet<String> {
        let folders = FILLED_WHILE_RUNNING.iter().copied().chain(self.found.keys().map(String::as_str));
        let mut made = BTreeSet::new();
        for folder in folders {
            match (self.found.get(folder), children(folder)) {
                (None, Some(_)) => drop(made.insert(folder.to_owned())),
                (Some(before), Some(now)) => {
                    made.extend(now.difference(before).map(|name| format!("{folder}/{name}")));
                }
                (_, None) => {}
            }
        }
        made
    }

    /// Whether kinit or one of its components made this path, or a folder that it is in.
    pub fn is_ours(&self, path: &str) -> bool {
        // Without a ledger nothing is kinit's, whatever there is in the folders that it would fill.
        if *self == Self::default() {
            return false;
        }
        let made = self.made_while_running();
        let known = |folder: &Path| folder.to_str().is_some_and(|p| self.created.contains(p) || made.contains(p));
        Path::new(path).ancestors().any(known)
    }

    /// Notes a path that is about to be written: as created, or with a copy of what it was. A file that kinit made
    /// itself is neither when it is written again.
    pub fn note_path(path: &str) -> Result<()> {
        let ledger = Self::load()?;
        if ledger.replaced.contains_key(path) || ledger.is_ours(path) {
            return Ok(());
        }
        if std::fs::symlink_metadata(path).is_err() {
            return Self::note(|l| {
                l.created.insert(path.to_owned());
            });
        }
        if std::fs::read(path).is_err() {
            return Ok(());
        }
        let backup = format!("{HOME}/replaced/{}", path.trim_start_matches('/').replace('/', "%"));
        std::fs::create_dir_all(format!("{HOME}/replaced")).context("create the folder for replaced files")?;
        // The copy has the original's owner, mode and time, for the way back.
        files::copy(path, &backup)?;
        Self::note(|l| {
            l.replaced.insert(path.to_owned(), backup);
        })
    }

    /// Forgets paths that were removed before their time.
    pub fn forget(paths: &[String]) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        Self::note(|ledger| ledger.created.retain(|path| !paths.contains(path)))
    }

    /// A line for each thing that reset would undo.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(
            self.units
                .iter()
                .map(|(u, before)| if *before { format!("start {u} again") } else { format!("stop and disable {u}") }),
        );
        lines.extend(self.replaced.keys().map(|p| format!("put back {p}")));
        // What lies in a folder that goes as a whole is not told one by one.
        let inside = |path: &str| {
            Path::new(path).ancestors().skip(1).filter_map(|p| p.to_str()).any(|p| self.created.contains(p))
        };
        lines.extend(self.created.iter().filter(|p| !inside(p)).map(|p| format!("remove {p}")));
        lines.extend(self.sysctls.iter().map(|(k, v)| format!("set sysctl {k}={v}")));
        lines.extend(self.swaps.iter().map(|s| format!("use swap {s} again")));
        lines.extend(
            self.made_while_running()
                .into_iter()
                .filter(|p| !inside(p))
                .filter(|p| !self.created.contains(p))
                .map(|p| format!("remove {p}")),
        );
        let loose: Vec<&str> = self.held.difference(&self.packages).map(String::as_str).collect();
        if !loose.is_empty() {
            lines.push(format!("hold packages no longer: {}", loose.join(" ")));
        }
        if !self.packages.is_empty() {
            lines.push(format!("remove packages {}", self.packages.iter().cloned().collect::<Vec<_>>().join(" ")));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_folder_of_kinits_is_kinits() {
        let none = Ledger::default();
        // A host that kinit has never touched: its etcd's data are its own.
        for path in ["/var/lib/etcd", "/etc/kubernetes/pki/ca.crt", "/proc"] {
            assert!(!none.is_ours(path), "{path}");
        }
        let mut ledger = Ledger::default();
        ledger.created.insert("/nowhere/kubernetes".to_owned());
        assert!(ledger.is_ours("/nowhere/kubernetes/pki/ca.crt") && ledger.is_ours("/nowhere/kubernetes"));
        assert!(!ledger.is_ours("/nowhere/kubernetes2") && !ledger.is_ours("/nowhere"));
        // A folder that was there before, with one file of the host's own.
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().to_str().unwrap().to_owned();
        std::fs::write(dir.path().join("old"), "").unwrap();
        ledger.found.insert(folder.clone(), BTreeSet::from(["old".to_owned()]));
        std::fs::write(dir.path().join("new"), "").unwrap();
        assert!(ledger.is_ours(&format!("{folder}/new")) && !ledger.is_ours(&format!("{folder}/old")));
        assert!(!ledger.is_ours(&folder));
    }
}
