//! Packages of a bundle: apt decides what is to be installed, by an index that the desk sends, and knows no other
//! source meanwhile. Nothing is fetched from anywhere.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use kinit_resource::{IndexedPackage, indexed_packages};
use serde::{Deserialize, Serialize};

use super::{HELD_TOO, OPTIONS, run};
use crate::blobs;

/// What apt would take from a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackagePlan {
    /// The packages, each by its name and the SHA-256 of its file.
    pub needed: Vec<(String, String)>,
    /// Why the packages that are asked for cannot be installed, in apt's words; empty when they can.
    pub obstacles: Vec<String>,
}

/// A repository of the bundle's packages on this host, which goes when it is dropped.
pub(super) struct Repository {
    folder: PathBuf,
    index: Vec<IndexedPackage>,
}

impl Drop for Repository {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

/// What apt makes of a run.
pub(super) struct Simulated {
    /// What it would install or upgrade.
    pub(super) packages: Vec<IndexedPackage>,
    /// Why it cannot.
    pub(super) obstacles: Vec<String>,
}

impl Repository {
    /// Writes the index below `parent` and has apt read it.
    pub(super) async fn open(parent: &Path, index: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("kinit-packages-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let repository = Self { folder: parent.join(name), index: indexed_packages(index) };
        let folder = repository.folder.clone();
        for part in ["lists/partial", "archives/partial"] {
            std::fs::create_dir_all(folder.join(part)).context("make a folder for the bundle's packages")?;
        }
        let source = format!("deb [trusted=yes] file:{} ./\n", folder.display());
        for (file, text) in [("Packages", index), ("sources.list", &source)] {
            std::fs::write(folder.join(file), text).with_context(|| format!("write the bundle's {file}"))?;
        }
        let (_, failed) = repository.ask(&["update"]).await?;
        if failed.is_empty() {
            Ok(repository)
        } else {
            bail!("read the index of the bundle's packages: {}", failed.join(" | "))
        }
    }

    /// Options that leave apt this source alone, and no state of its own.
    pub(super) fn options(&self) -> Vec<String> {
        let folder = self.folder.display();
        vec![
            "-q".to_owned(),
            format!("-oDir::Etc::sourcelist={folder}/sources.list"),
            "-oDir::Etc::sourceparts=/dev/null".to_owned(),
            format!("-oDir::State::lists={folder}/lists"),
            format!("-oDir::Cache::archives={folder}/archives"),
            "-oDir::Cache::pkgcache=".to_owned(),
            "-oDir::Cache::srcpkgcache=".to_owned(),
            "-oAPT::Sandbox::User=root".to_owned(),
            "-oAcquire::Languages=none".to_owned(),
        ]
    }

    /// Runs apt-get without the locks of packages; what it printed, and what it complained of.
    async fn ask(&self, arguments: &[&str]) -> Result<(String, Vec<String>)> {
        let output = tokio::process::Command::new("apt-get")
            .args(self.options())
            .args(["-oDebug::NoLocking=1", "-y"])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .await
            .context("start apt-get")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok((text, Vec::new()));
        }
        let complaints = complaints(&format!("{text}\n{}", String::from_utf8_lossy(&output.stderr)));
        let none = || vec![format!("apt-get failed with {}", output.status)];
        Ok((text, if complaints.is_empty() { none() } else { complaints }))
    }

    /// What installing these would do.
    pub(super) async fn simulate(&self, names: &[&str]) -> Result<Simulated> {
        let unknown = names.iter().filter(|name| !self.index.iter().any(|package| package.name == **name));
        let unknown: Vec<String> = unknown.map(|name| format!("there is no package {name}")).collect();
        if !unknown.is_empty() {
            return Ok(Simulated { packages: Vec::new(), obstacles: unknown });
        }
        let (said, obstacles) = self.ask(&[&["--simulate", "install"][..], OPTIONS, HELD_TOO, names].concat()).await?;
        let mut packages = Vec::new();
        for (name, version) in installs(&said) {
            let known = self.index.iter().find(|package| package.name == name && package.version == version);
            packages.push(
                known
                    .with_context(|| format!("apt would install {name} {version}, which is not of the bundle"))?
                    .clone(),
            );
        }
        Ok(Simulated { packages, obstacles })
    }

    /// Puts the files of packages beside the index, from uploads.
    pub(super) fn place(&self, packages: &[IndexedPackage]) -> Result<()> {
        for package in packages {
            let upload = blobs::path_of(&package.sha256);
            let to = self.folder.join(&package.file);
            std::fs::hard_link(&upload, &to)
                .or_else(|_| std::fs::copy(&upload, &to).map(drop))
                .with_context(|| format!("the package {} {} was not sent", package.name, package.version))?;
        }
        Ok(())
    }
}

/// What of these packages is to come from a bundle: those that are missing, or, for an upgrade, all that are older.
pub(crate) async fn plan(names: &[String], index: &str, upgrade: bool) -> Result<PackagePlan> {
    let installed = super::installed()?;
    let wanted: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| upgrade == installed.contains(*name)).collect();
    if wanted.is_empty() {
        return Ok(PackagePlan { needed: Vec::new(), obstacles: Vec::new() });
    }
    // In memory: whoever only looks leaves nothing on the disk.
    let repository = Repository::open(Path::new("/run"), index).await?;
    let simulated = repository.simulate(&wanted).await?;
    let needed = simulated.packages.into_iter().map(|package| (package.name, package.sha256)).collect();
    Ok(PackagePlan { needed, obstacles: simulated.obstacles })
}

/// Removes what an earlier run left that was killed.
pub(super) fn sweep(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("kinit-packages-") {
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
}

/// Name and version of each line `Inst NAME [OLD] (NEW ...)`.
fn installs(said: &str) -> Vec<(String, String)> {
    let parse = |line: &str| {
        let name = line.strip_prefix("Inst ")?.split_whitespace().next()?;
        let version = line.split_once('(')?.1.split([' ', ')']).next()?;
        Some((name.split(':').next()?.to_owned(), version.to_owned()))
    };
    said.lines().filter_map(parse).collect()
}

/// apt's errors, and the dependencies that it does not find.
fn complaints(said: &str) -> Vec<String> {
    let tells =
        |line: &&str| line.starts_with("E:") || ["Depends:", "Breaks:", "Conflicts:"].iter().any(|w| line.contains(w));
    let mut lines: Vec<String> = said.lines().filter(tells).map(|line| line.trim().to_owned()).collect();
    let general = |line: &String| {
        line.starts_with("E: Unable to correct problems") || line.starts_with("E: The following information")
    };
    if lines.iter().any(|line| !general(line)) {
        lines.retain(|line| !general(line));
    }
    lines.truncate(12);
    lines
}

/// Carries `apt-get install` out with a repository.
pub(super) async fn install(repository: &Repository, names: &[&str]) -> Result<()> {
    let options = repository.options();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    run("apt-get", &[&options[..], &["install", "-y"], OPTIONS, HELD_TOO, names].concat()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apts_plans_are_read() {
        let said = "NOTE: This is only a simulation!\nInst libc6 [2.41-1] (2.41-12 localhost [amd64]) []\n\
                    Inst runc (1.1.15+ds1-2  [amd64])\nConf runc (1.1.15+ds1-2  [amd64])\nInst keepalived:amd64 (1:2.3.3-1 [amd64])\n";
        let expected = [("libc6", "2.41-12"), ("runc", "1.1.15+ds1-2"), ("keepalived", "1:2.3.3-1")];
        assert_eq!(installs(said), expected.map(|(name, version)| (name.to_owned(), version.to_owned())));
    }

    #[test]
    fn what_is_missing_is_named_and_not_apts_general_words() {
        let said = "The following packages have unmet dependencies:\n containerd : Depends: runc (>= 1.0.0~rc2~) but it is not installable\n\
                    E: Unable to correct problems, you have held broken packages.\n";
        assert_eq!(complaints(said), ["containerd : Depends: runc (>= 1.0.0~rc2~) but it is not installable"]);
        assert_eq!(complaints("E: Unable to locate package x\n"), ["E: Unable to locate package x"]);
        assert_eq!(complaints("E: Unable to correct problems, y\n").len(), 1);
    }
}
