//! Debian packages: dpkg's database is read, apt-get is run. apt has no protocol for this.

use std::collections::BTreeSet;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use kinit_resource::Observed;
use tokio::process::Command;

use crate::files;
use crate::ledger::Ledger;

/// Which of these are not installed.
pub(crate) fn observe(names: &[String]) -> Result<Observed> {
    let installed = installed()?;
    let missing: Vec<&str> = names.iter().map(String::as_str).filter(|n| !installed.contains(*n)).collect();
    Ok(match missing.len() {
        0 => Observed::AsWanted,
        n if n == names.len() => Observed::Missing,
        _ => Observed::Differs(format!("missing: {}", missing.join(" "))),
    })
}

/// Names of all installed packages, from `/var/lib/dpkg/status`.
pub(crate) fn installed() -> Result<BTreeSet<String>> {
    let path = "/var/lib/dpkg/status";
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(parse(&text))
}

fn parse(status: &str) -> BTreeSet<String> {
    let paragraphs = status.split("\n\n");
    let field =
        |paragraph: &str, name: &str| paragraph.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned());
    paragraphs
        .filter(|p| field(p, "Status:").is_some_and(|s| s == "install ok installed"))
        .filter_map(|p| field(p, "Package:"))
        .collect()
}

/// Installs what is missing, with `hold` masked meanwhile. The package index is fetched only when it does not know a
/// package.
pub(crate) async fn install(names: &[String], hold: &[String]) -> Result<()> {
    // A run that was killed in the middle leaves packages unpacked but not configured.
    run("dpkg", &["--configure", "-a", "--force-confdef", "--force-confold"])
        .await
        .context("finish an interrupted installation")?;
    let before = installed()?;
    let missing: Vec<&str> = names.iter().map(String::as_str).filter(|n| !before.contains(*n)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let options = [
        "-q",
        "-y",
        "--no-install-recommends",
        "-oDpkg::Options::=--force-confdef",
        "-oDpkg::Options::=--force-confold",
    ];
    let install = [&["install"][..], &options, &missing].concat();
    if run("apt-get", &simulate(&install)).await.is_err() {
        run("apt-get", &["-q", "update"]).await.context("fetch the package index")?;
    }
    let planned =
        output("apt-get", &simulate(&install)).await.with_context(|| format!("install {}", missing.join(" ")))?;
    // `Inst NAME ...`, one line a package: dependencies too are given back at reset.
    let new: Vec<String> =
        planned.lines().filter_map(|l| l.strip_prefix("Inst ")?.split(' ').next()).map(str::to_owned).collect();
    Ledger::note(|l| l.packages.extend(new.into_iter().filter(|n| !before.contains(n))))?;
    for unit in hold {
        mask(unit)?;
    }
    let installed = run("apt-get", &install).await.with_context(|| format!("install {}", missing.join(" ")));
    for unit in hold {
        unmask(unit)?;
    }
    installed
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
    run("apt-get", &[&["-q", "-y", "purge"][..], &names].concat())
        .await
        .context("remove the packages that kinit installed")
}

async fn run(program: &str, arguments: &[&str]) -> Result<()> {
    output(program, arguments).await.map(drop)
}

async fn output(program: &str, arguments: &[&str]) -> Result<String> {
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
    let lines: Vec<&str> = said.lines().filter(|l| l.starts_with("E:") || l.contains("rror")).take(6).collect();
    bail!("{program} failed with {}: {}", output.status, lines.join(" | "))
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_fully_installed_packages_count() {
        let status = "Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\nStatus: deinstall ok config-files\n\n\
                      Package: c\nStatus: install ok unpacked\n\nPackage: d\nStatus: install ok installed\n";
        let names: Vec<String> = super::parse(status).into_iter().collect();
        assert_eq!(names, ["a", "d"]);
    }
}
