//! Giving the host back as it was.

use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};

use crate::ledger::{HOME, Ledger};
use crate::{facts, files, kernel, packages, residue, systemd};

/// Undoes the ledger, latest parts first; goes on after a failure. Returns what is left all the same.
pub(crate) async fn run(authority: Option<&str>) -> Result<Vec<String>> {
    if Ledger::load()? == Ledger::default() {
        return Ok(Vec::new());
    }
    let own = facts::authority()?;
    belongs(&facts::authorities()?, authority)?;
    Ledger::note(|ledger| ledger.authority = own)?;
    let ledger = Ledger::load()?;
    let mut failures = Vec::new();
    let mut note = |what: &str, result: Result<()>| {
        if let Err(error) = result {
            failures.push(format!("{what}: {error:#}"));
        }
    };
    let (back, gone): (Vec<_>, Vec<_>) = ledger.units.iter().partition(|(_, before)| **before);
    // The kubelet first: it would start again what is stopped after it.
    let mut units: Vec<&str> = gone.iter().chain(&back).map(|(name, _)| name.as_str()).collect();
    // etcd after its clients, whose connections it would wait for.
    units.sort_by_key(|name| (*name != "kubelet.service", *name == "etcd.service", *name == "containerd.service"));
    for unit in &units {
        if *unit == "containerd.service" {
            note("end the pods", crate::reset_pods::end_all().await);
        }
        note(unit, systemd::give_up(unit).await);
    }
    note("undo mounts", unmount());
    note("remove network state", crate::reset_pods::network().await);
    let made = ledger.made_while_running();
    for path in ledger.created.iter().rev().chain(&made).filter(|path| !is_below_home(path)) {
        note(path, files::remove(path));
    }
    let installed = packages::installed()?;
    let purged = !ledger.packages.is_empty() && !ledger.packages.iter().any(|p| installed.contains(p));
    for (path, backup) in ledger.replaced.iter().filter(|(path, _)| !went_with_its_package(path, purged)) {
        note(path, files::copy(backup, path));
    }
    for (key, value) in &ledger.sysctls {
        note(key, kernel::write_sysctl(key, value));
    }
    for swap in &ledger.swaps {
        note(swap, kernel::swap_on(swap));
    }
    note("packages", packages::release(&ledger.held).await);
    note("packages", packages::purge(&ledger.packages).await);
    let names: Vec<&str> = back.iter().map(|(name, _)| name.as_str()).collect();
    note("give units back", systemd::give_back(&names).await);
    if failures.is_empty() {
        files::remove(HOME)?;
    }
    failures.extend(residue::find(&ledger).await?);
    Ok(failures)
}

/// The desk has asked before; between then and now the host may have joined another cluster. One without an authority
/// belongs to whoever wrote its ledger: a first run that was interrupted before it made one.
fn belongs(own: &[String], meant: Option<&str>) -> Result<()> {
    match own.first() {
        Some(first) if !own.iter().any(|own| Some(own.as_str()) == meant) => {
            bail!("this host belongs to another cluster, with the authority {first}")
        }
        _ => Ok(()),
    }
}

/// What is in kinit's own folder is needed to the end, the copies of replaced files among it; it goes with the folder.
fn is_below_home(path: &str) -> bool {
    Path::new(path).starts_with(HOME)
}

/// Whether an earlier reset, interrupted after it had purged kinit's packages, took the file's folder along: then the
/// file was the package's, and not the host's own.
fn went_with_its_package(path: &str, purged: bool) -> bool {
    purged && !Path::new(path).parent().is_some_and(Path::exists)
}

/// Unmounts what components mounted, deepest first.
fn unmount() -> Result<()> {
    let mut points = residue::mounts()?;
    points.sort_by_key(|p| std::cmp::Reverse(p.len()));
    for path in points {
        umount2(path.as_str(), MntFlags::MNT_DETACH).with_context(|| format!("unmount {path}"))?;
        if path.starts_with("/run/netns/cni-") {
            std::fs::remove_file(&path).with_context(|| format!("remove {path}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_of_another_cluster_refuses() {
        for (own, meant, expected) in [
            (&["a"][..], Some("a"), true),
            (&[], Some("a"), true),
            (&[], None, true),
            (&["a"], Some("b"), false),
            (&["a"], None, false),
            // In the middle of a rotation it trusts two.
            (&["a", "b"], Some("b"), true),
            (&["a", "b"], Some("c"), false),
        ] {
            let own: Vec<String> = own.iter().map(|hash| (*hash).to_owned()).collect();
            assert_eq!(belongs(&own, meant).is_ok(), expected, "{own:?} {meant:?}");
        }
    }

    #[test]
    fn kinits_own_folder_goes_last() {
        for (path, expected) in [(HOME, true), ("/var/lib/kinit/images", true), ("/var/lib/kinit-other", false)] {
            assert_eq!(is_below_home(path), expected, "{path}");
        }
    }

    #[test]
    fn only_what_a_purge_took_along_is_not_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let (there, gone) = (dir.path().join("x.toml"), dir.path().join("gone/x.toml"));
        for (path, purged, expected) in
            [(&gone, true, true), (&gone, false, false), (&there, true, false), (&there, false, false)]
        {
            assert_eq!(went_with_its_package(path.to_str().unwrap(), purged), expected, "{path:?} {purged}");
        }
    }
}
