//! Old builds. Each brings a program of some 66 MB, twice: the components' and the agent's own. The current one stays,
//! those that something runs, and the one before.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use kinit_resource::{IndexedPackage, Resource, indexed_packages};

use crate::blobs;
use crate::ledger::Ledger;
use crate::wire::ApplyItem;

/// Where links to the components are.
pub(crate) const LINKS: &str = "/usr/local/bin";
/// An upload that no run has used for so long is of a build that is gone.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// Removes what a batch has made useless: old builds beside a blob that was placed, old copies of the agent, and
/// uploads.
/// It is no reason for the batch to fail.
pub(crate) fn after(items: &[ApplyItem]) {
    let blobs = items.iter().filter_map(|item| match &item.resource {
        Resource::Blob { path, sha256, .. } => Some((path.as_str(), sha256.as_str())),
        _ => None,
    });
    let (paths, mut hashes): (Vec<&str>, BTreeSet<&str>) = blobs.unzip();
    let installed: Vec<_> = items.iter().flat_map(|item| packages_of(&item.resource)).collect();
    hashes.extend(installed.iter().map(|package| package.sha256.as_str()));
    if hashes.is_empty() {
        return;
    }
    let own = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let own = own.to_str().filter(|path| path.starts_with("/run/"));
    let own = own.filter(|_| !paths.is_empty());
    for current in paths.into_iter().chain(own) {
        if let Err(error) = builds(current, Path::new(LINKS)).and_then(|removed| Ledger::forget(&removed)) {
            tracing::warn!("old builds beside {current} stay: {error:#}");
        }
    }
    if let Err(error) = uploads(&blobs::folder(), &hashes, SystemTime::now()) {
        tracing::warn!("old uploads stay: {error:#}");
    }
}

/// The bundle's packages that a resource installs from.
fn packages_of(resource: &Resource) -> Vec<IndexedPackage> {
    match resource {
        Resource::Packages { index: Some(index), .. } | Resource::PackageVersions { index, .. } => {
            indexed_packages(index)
        }
        _ => Vec::new(),
    }
}

/// Of the builds beside this one (`NAME-HASH`) all go but those that something links to, and the latest of the others:
/// what a rollback goes back to. Returns what was removed.
fn builds(current: &str, links: &Path) -> Result<Vec<String>> {
    let current = Path::new(current);
    let Some((folder, family)) = current.parent().zip(family(current)) else { return Ok(Vec::new()) };
    let linked: BTreeSet<PathBuf> = entries(links)?.iter().filter_map(|path| std::fs::read_link(path).ok()).collect();
    let mut others = Vec::new();
    for path in entries(folder)? {
        if path != current && self::family(&path) == Some(family) && !linked.contains(&path) {
            let modified = path.metadata().and_then(|m| m.modified());
            others.push((modified.with_context(|| format!("look at {}", path.display()))?, path));
        }
    }
    others.sort();
    others.pop();
    let mut removed = Vec::new();
    for (_, path) in others {
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        removed.push(path.display().to_string());
    }
    Ok(removed)
}

/// `NAME` of `NAME-HASH`.
fn family(path: &Path) -> Option<&str> {
    let (name, hash) = path.file_name()?.to_str()?.rsplit_once('-')?;
    (hash.len() >= 12 && hash.bytes().all(|b| b.is_ascii_hexdigit())).then_some(name)
}

/// Removes uploads that were placed, and those that nobody has placed for a day.
fn uploads(folder: &Path, placed: &BTreeSet<&str>, now: SystemTime) -> Result<()> {
    for path in entries(folder)? {
        let is_placed = path.file_name().and_then(|n| n.to_str()).is_some_and(|name| placed.contains(name));
        let age = path.metadata().and_then(|m| m.modified()).ok().and_then(|time| now.duration_since(time).ok());
        if is_placed || age.is_some_and(|age| age > STALE) {
            std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("list {}", folder.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = entries(folder)
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().chars().take(12).collect())
            .collect();
        names.sort();
        names
    }

    fn write(folder: &Path, name: &str, age: u64) -> PathBuf {
        let path = folder.join(name);
        let file = std::fs::File::create(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        path
    }

    #[test]
    fn the_current_build_stays_the_linked_ones_and_the_one_before() {
        let hash = |c: char| std::iter::repeat_n(c, 12).collect::<String>();
        for (linked, expected) in [(Some('a'), &['a', 'c', 'd'][..]), (None, &['c', 'd'])] {
            let (dir, links) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            for (age, build) in [(300, 'a'), (200, 'b'), (100, 'c'), (0, 'd')] {
                write(dir.path(), &format!("hyper-{}", hash(build)), age);
            }
            write(dir.path(), "other-aaaaaaaaaaaa", 1000);
            write(dir.path(), "hyper-notes", 1000);
            if let Some(build) = linked {
                let target = dir.path().join(format!("hyper-{}", hash(build)));
                std::os::unix::fs::symlink(target, links.path().join("kubelet")).unwrap();
            }
            let current = dir.path().join(format!("hyper-{}", hash('d'))).display().to_string();
            let removed = builds(&current, links.path()).unwrap();
            assert_eq!(removed.len(), 4 - expected.len());
            let stays = |build: char| format!("hyper-{}", hash(build)).chars().take(12).collect::<String>();
            let mut left: Vec<String> = expected.iter().map(|build| stays(*build)).collect();
            left.extend(["hyper-notes".into(), "other-aaaaaa".into()]);
            left.sort();
            assert_eq!(names(dir.path()), left);
            assert_eq!(builds(&current, links.path()).unwrap(), Vec::<String>::new());
        }
    }

    #[test]
    fn uploads_go_when_they_are_placed_or_old() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "placed", 0);
        write(dir.path(), "waiting", 3600);
        write(dir.path(), "old.part", 2 * 24 * 3600);
        uploads(dir.path(), &BTreeSet::from(["placed"]), SystemTime::now()).unwrap();
        assert_eq!(names(dir.path()), ["waiting"]);
        uploads(&dir.path().join("none"), &BTreeSet::new(), SystemTime::now()).unwrap();
    }
}
