//! Debian packages: dpkg's database is read, apt-get is run. apt has no protocol for this.

mod offline;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kinit_resource::{InstalledPackage, Observed, compare_versions, indexed_packages, version_in};
use tokio::process::Command;
use tokio::time::Instant;

use crate::ledger::Ledger;
use crate::notes::note;
use crate::{apt_locks, files};

pub use offline::PackagePlan;
pub(crate) use offline::plan;

/// How apt installs: without questions, and without what is only recommended.
const OPTIONS: &[&str] =
    &["--no-install-recommends", "-oDpkg::Options::=--force-confdef", "-oDpkg::Options::=--force-confold"];
/// kinit's own holds are for others than kinit.
const HELD_TOO: &[&str] = &["--allow-change-held-packages"];

/// Which of these are not installed, or not held.
pub(crate) fn observe(names: &[String]) -> Result<Observed> {
    let status = status()?;
    let (installed, held) = (parse(&status, is_installed), parse(&status, is_held));
    let missing: Vec<&str> = names.iter().map(String::as_str).filter(|n| !installed.contains(*n)).collect();
    let loose: Vec<String> = names.iter().filter(|name| !held.contains(*name)).cloned().collect();
    Ok(match missing.len() {
        0 if !loose.is_empty() => Observed::NotHeld(loose),
        0 => Observed::AsWanted,
        n if n == names.len() => Observed::Missing,
        _ => Observed::Differs(format!("missing: {}", missing.join(" "))),
    })
}

/// Whether these are as new as those of an index. What is not installed is no older.
pub(crate) fn observe_versions(names: &[String], index: &str) -> Result<Observed> {
    let (status, index) = (status()?, indexed_packages(index));
    let older = names.iter().filter_map(|name| {
        let (now, then) = (version_of(&status, name)?, version_in(&index, name)?);
        compare_versions(&now, then).is_lt().then(|| format!("{name} {now} -> {then}"))
    });
    let older: Vec<String> = older.collect();
    Ok(if older.is_empty() { Observed::AsWanted } else { Observed::Differs(older.join(", ")) })
}

/// What is installed of these, with its version.
pub(crate) fn facts(names: &[impl AsRef<str>]) -> Result<BTreeMap<String, InstalledPackage>> {
    let status = status()?;
    let held = parse(&status, is_held);
    let fact = |name: &str| {
        let installed = InstalledPackage { version: version_of(&status, name)?, held: held.contains(name) };
        Some((name.to_owned(), installed))
    };
    Ok(names.iter().filter_map(|name| fact(name.as_ref())).collect())
}

/// The version of a package that is installed.
fn version_of(status: &str, name: &str) -> Option<String> {
    let field = |paragraph: &str, name: &str| {
        let value = paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(|value| value.trim().to_owned())
    };
    let is_it = |paragraph: &&str| {
        field(paragraph, "Package").as_deref() == Some(name)
            && field(paragraph, "Status").is_some_and(|status| is_installed(&status))
    };
    status.split("\n\n").find(is_it).and_then(|paragraph| field(paragraph, "Version"))
}

/// Names of all installed packages, from `/var/lib/dpkg/status`.
pub(crate) fn installed() -> Result<BTreeSet<String>> {
    Ok(parse(&status()?, is_installed))
}

/// dpkg's database; empty on a host that has none, of which everything that is wrong is to be said.
fn status() -> Result<String> {
    Ok(files::read_optional("/var/lib/dpkg/status")?.unwrap_or_default())
}

/// Names of the packages in such a state.
fn parse(status: &str, keep: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let paragraphs = status.split("\n\n");
    let field =
        |paragraph: &str, name: &str| paragraph.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned());
    paragraphs.filter(|p| field(p, "Status:").is_some_and(|s| keep(&s))).filter_map(|p| field(p, "Package:")).collect()
}

/// Whether a package's state (wanted, flag, actual) is a whole installation. One that is held counts: its
/// administrator wants it as it is.
fn is_installed(status: &str) -> bool {
    status.ends_with(" ok installed")
}

/// Whether apt may not touch a package (`apt-mark hold`).
fn is_held(status: &str) -> bool {
    status.starts_with("hold ")
}

/// Installs what is missing, with `mask` masked meanwhile, and holds all of them: an upgrade of the whole system, as
/// unattended-upgrades makes it on every host at the same time of day, would restart all members of etcd at once.
/// They come from the bundle where there is an index of its packages, and from the host's own sources otherwise.
pub(crate) async fn install(names: &[String], mask: &[String], index: Option<&str>) -> Result<()> {
    settle().await?;
    let before = installed()?;
    let missing: Vec<&str> = names.iter().map(String::as_str).filter(|n| !before.contains(*n)).collect();
    if !missing.is_empty() {
        let held = parse(&status()?, is_held);
        if let Some(name) = missing.iter().find(|name| held.contains(**name)) {
            bail!("the package {name} is held and not installed; `apt-mark unhold {name}`, or install it yourself");
        }
        match index {
            Some(index) => from_bundle(&missing, &before, mask, index).await?,
            None => from_sources(&missing, &before, mask, &held).await?,
        }
    }
    hold(names).await
}

/// A run that was killed in the middle leaves packages unpacked but not configured.
async fn settle() -> Result<()> {
    run("dpkg", &["--configure", "-a", "--force-confdef", "--force-confold"])
        .await
        .context("finish an interrupted installation")
}

/// Installs from what the desk has sent.
async fn from_bundle(missing: &[&str], before: &BTreeSet<String>, mask: &[String], index: &str) -> Result<()> {
    let what = || format!("install {} from the bundle", missing.join(" "));
    let home = Path::new(crate::ledger::HOME);
    Ledger::note_path(crate::ledger::HOME)?;
    std::fs::create_dir_all(home).context("make kinit's folder")?;
    offline::sweep(home);
    let repository = offline::Repository::open(home, index).await.with_context(what)?;
    let simulated = repository.simulate(missing).await.with_context(what)?;
    if !simulated.obstacles.is_empty() {
        bail!("{}: {}", what(), simulated.obstacles.join(" | "));
    }
    repository.place(&simulated.packages).with_context(what)?;
    note_new(simulated.packages.iter().map(|package| package.name.clone()), before)?;
    masked(mask, offline::install(&repository, missing)).await.with_context(what)
}

/// Brings packages that are installed to the versions of a bundle's.
pub(crate) async fn upgrade(names: &[String], index: &str) -> Result<()> {
    settle().await?;
    let before = installed()?;
    let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| before.contains(*name)).collect();
    let what = || format!("upgrade {} from the bundle", names.join(" "));
    let home = Path::new(crate::ledger::HOME);
    offline::sweep(home);
    let repository = offline::Repository::open(home, index).await.with_context(what)?;
    let simulated = repository.simulate(&names).await.with_context(what)?;
    if !simulated.obstacles.is_empty() {
        bail!("{}: {}", what(), simulated.obstacles.join(" | "));
    }
    repository.place(&simulated.packages).with_context(what)?;
    note_new(simulated.packages.iter().map(|package| package.name.clone()), &before)?;
    offline::install(&repository, &names).await.with_context(what)?;
    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    hold(&names).await
}

/// Dependencies too are given back at reset.
fn note_new(names: impl Iterator<Item = String>, before: &BTreeSet<String>) -> Result<()> {
    Ledger::note(|ledger| ledger.packages.extend(names.filter(|name| !before.contains(name))))
}

/// Does something while these units cannot be started.
async fn masked(units: &[String], work: impl Future<Output = Result<()>>) -> Result<()> {
    for unit in units {
        mask(unit)?;
    }
    let done = work.await;
    for unit in units {
        unmask(unit)?;
    }
    done
}

/// Has dpkg leave these as they are, and notes which of them it would not have.
async fn hold(names: &[String]) -> Result<()> {
    let held = parse(&status()?, is_held);
    let loose: Vec<&str> = names.iter().map(String::as_str).filter(|name| !held.contains(*name)).collect();
    if loose.is_empty() {
        return Ok(());
    }
    Ledger::note(|ledger| ledger.held.extend(loose.iter().map(|name| (*name).to_owned())))?;
    run("apt-mark", &[&["hold"][..], &loose].concat()).await.context("hold packages")
}

/// Takes back what kinit holds.
pub(crate) async fn release(names: &BTreeSet<String>) -> Result<()> {
    let held = parse(&status()?, is_held);
    let names: Vec<&str> = names.iter().filter(|name| held.contains(*name)).map(String::as_str).collect();
    if names.is_empty() {
        return Ok(());
    }
    run("apt-mark", &[&["unhold"][..], &names].concat()).await.context("hold packages no longer")
}

/// Installs from the host's own sources. The package index is fetched only when it does not know a package.
async fn from_sources(
    missing: &[&str],
    before: &BTreeSet<String>,
    mask: &[String],
    held: &BTreeSet<String>,
) -> Result<()> {
    let install = [&["install", "-q", "-y"][..], OPTIONS, missing].concat();
    let what = || format!("install {}{}", missing.join(" "), also_held(held));
    let mut planned = output("apt-get", &simulate(&install)).await;
    if planned.is_err() {
        // One source that fails must not keep packages of another from being installed: what counts is whether it is
        // known now.
        let updated = update().await;
        planned = output("apt-get", &simulate(&install)).await.map_err(|error| match updated {
            Ok(()) => error,
            Err(update) => error.context(format!("{update:#}")),
        });
    }
    let planned = planned.with_context(what)?;
    // `Inst NAME ...`, one line a package.
    let new = planned.lines().filter_map(|l| l.strip_prefix("Inst ")?.split(' ').next()).map(str::to_owned);
    note_new(new, before)?;
    masked(mask, fetch_and_install(&install)).await.with_context(what)
}

/// Installs. An index that is older than its archive names files that are not there any more; then it is fetched
/// anew, once.
async fn fetch_and_install(install: &[&str]) -> Result<()> {
    match run("apt-get", install).await {
        Err(error) if is_stale(&format!("{error:#}")) => {
            note("the package index is out of date; fetching it anew".to_owned());
            update().await?;
            run("apt-get", install).await
        }
        other => other,
    }
}

/// apt's words (`apt-pkg/acquire-item.cc`, `apt-private/private-install.cc`) for files that are not what the index
/// says.
fn is_stale(said: &str) -> bool {
    ["404 ", "Unable to fetch some archives", "Hash Sum mismatch", "File has unexpected size"]
        .iter()
        .any(|words| said.contains(words))
}

async fn update() -> Result<()> {
    run("apt-get", &["-q", "update"]).await.context("fetch the package index")
}

/// What may be the reason when apt finds no way to install something.
fn also_held(held: &BTreeSet<String>) -> String {
    match held.is_empty() {
        true => String::new(),
        false => format!(" (held on this host: {})", held.iter().map(String::as_str).collect::<Vec<_>>().join(" ")),
    }
}

fn mask_path(unit: &str) -> String {
    format!("/etc/systemd/system/{unit}")
}

/// Keeps a package's scripts from starting a unit (deb-systemd-invoke(1) leaves masked units alone). A unit file of
/// ours stays.
fn mask(unit: &str) -> Result<()> {
    let path = mask_path(unit);
    if std::fs::symlink_metadata(&path).is_ok() {
        return Ok(());
    }
    files::link(&path, MASK)
}

const MASK: &str = "/dev/null";

/// Takes a mask away, whichever run left it.
pub(crate) fn unmask(unit: &str) -> Result<()> {
    let path = mask_path(unit);
    match std::fs::read_link(&path) {
        Ok(target) if target == std::path::Path::new(MASK) => files::remove(&path),
        _ => Ok(()),
    }
}

fn simulate<'a>(install: &[&'a str]) -> Vec<&'a str> {
    [&["--simulate"], install].concat()
}

/// Removes packages with their configuration.
pub(crate) async fn purge(names: &BTreeSet<String>) -> Result<()> {
    let present = installed()?;
    let names: Vec<&str> = names.iter().filter(|n| present.contains(*n)).map(String::as_str).collect();
    if names.is_empty() {
        return Ok(());
    }
    // Held since kinit installed them: they are taken back all the same.
    run("apt-get", &[&["-q", "-y", "--allow-change-held-packages", "purge"][..], &names].concat())
        .await
        .context("remove the packages that kinit installed")
}

async fn run(program: &str, arguments: &[&str]) -> Result<()> {
    output(program, arguments).await.map(drop)
}

/// Runs a program of apt's or dpkg's when nobody else does.
async fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let deadline = Instant::now() + apt_locks::PATIENCE;
    loop {
        apt_locks::wait_until_free(apt_locks::LOCKS, deadline).await?;
        let output = Command::new(program)
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .await
            .with_context(|| format!("start {program}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = [output.stderr, output.stdout].concat();
        let said = String::from_utf8_lossy(&said);
        if is_locked(&said) && Instant::now() < deadline {
            // Somebody was faster. The pause is for a lock that is not among those that were looked at.
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        }
        let lines: Vec<&str> = said.lines().filter(|l| l.starts_with("E:") || l.contains("rror")).take(6).collect();
        bail!("{program} failed with {}: {}", output.status, lines.join(" | "))
    }
}

/// apt's and dpkg's words for a lock that another process holds.
fn is_locked(said: &str) -> bool {
    ["Could not get lock", "Unable to acquire the dpkg frontend lock", "is locked by another process"]
        .iter()
        .any(|words| said.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_installations_count_held_ones_too() {
        let status = "Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\nStatus: deinstall ok config-files\n\n\
                      Package: c\nStatus: install ok unpacked\n\nPackage: d\nStatus: hold ok installed\n\n\
                      Package: e\nStatus: hold ok not-installed\n\nPackage: f\nStatus: install reinstreq installed\n";
        assert_eq!(Vec::from_iter(parse(status, is_installed)), ["a", "d"]);
        assert_eq!(Vec::from_iter(parse(status, is_held)), ["d", "e"]);
        assert_eq!((version_of(status, "a").as_deref(), version_of(status, "b")), (Some("1"), None));
    }

    #[test]
    fn apts_words_are_known() {
        let stale =
            "apt-get failed with exit status: 100: E: Failed to fetch http://deb/x.deb  404  Not Found [IP: ::1 80]";
        assert!(is_stale(stale) && !is_locked(stale));
        let locked = "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (apt-get)";
        assert!(is_locked(locked) && !is_stale(locked));
        assert!(is_locked("dpkg: error: dpkg frontend lock is locked by another process"));
    }
}
