//! A distribution's packages for a bundle: apt finds out what the hosts' packages need, and downloads it; dpkg-deb
//! reads what each file is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use kinit_bundle::{INDEX, PACKAGES, PackageSet, describe_package, package_file_name};
use kinit_manifests::HOST_PACKAGES;

use crate::errors::Usage;

/// Downloads the packages of each release into `packages/RELEASE` of the bundle's folder, in place of what is there.
pub(super) fn download(folder: &Path, releases: &[String], sources: &[String]) -> Result<()> {
    let own = own_release()?;
    let releases = if releases.is_empty() { std::slice::from_ref(&own) } else { releases };
    for release in releases {
        let (distribution, codename) =
            release.split_once('-').ok_or_else(|| Usage(format!("--suite: {release:?} is not like debian-trixie")))?;
        let lines = match sources {
            [] => own_sources(&own, distribution, codename)?,
            given => given.to_vec(),
        };
        let to = folder.join(PACKAGES).join(release);
        let count = fetch(&lines, &to).with_context(|| format!("download the packages for {release}"))?;
        say!("{count} packages for {release} are in {}", to.display());
    }
    Ok(())
}

/// This machine's release, by os-release(5).
fn own_release() -> Result<String> {
    let text = std::fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let field = |name: &str| fields.get(name).map(|value| value.trim_matches('"')).unwrap_or_default();
    Ok(format!("{}-{}", field("ID"), field("VERSION_CODENAME")))
}

/// Lines of sources.list(5) for a release, from what this machine's apt uses. apt-get(8) says it to programs.
fn own_sources(own: &str, distribution: &str, codename: &str) -> Result<Vec<String>> {
    let (own_distribution, own_codename) = own.split_once('-').unwrap_or_default();
    if distribution != own_distribution {
        return Err(Usage(format!(
            "this machine is {own}, whose sources have no packages of {distribution}: name them with --package-source"
        ))
        .into());
    }
    let format = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(SIGNED_BY)";
    let said = output(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))
        .context("ask apt for this machine's sources of packages")?;
    let lines = sources_of(&said, own_codename, codename);
    ensure!(!lines.is_empty(), "apt on this machine has no source of packages: name one with --package-source");
    Ok(lines)
}

/// One line for each target `URI RELEASE COMPONENT [KEY]` of apt's, for another release.
fn sources_of(said: &str, own: &str, wanted: &str) -> Vec<String> {
    let line = |target: &str| {
        let mut words = target.split_whitespace();
        let (uri, release, component) = (words.next()?, words.next()?, words.next()?);
        let release = match release.strip_prefix(own) {
            Some(rest) if rest.is_empty() || rest.starts_with(['-', '/']) => format!("{wanted}{rest}"),
            _ => return None,
        };
        let key = words.next().filter(|key| key.starts_with('/'));
        let options = key.map(|key| format!("[signed-by={key}] ")).unwrap_or_default();
        Some(format!("deb {options}{uri} {release} {component}"))
    };
    let mut lines: Vec<String> = said.lines().filter_map(line).collect();
    lines.sort();
    lines.dedup();
    lines
}

/// Downloads what an empty system would need for the hosts' packages; returns how many packages that is.
fn fetch(sources: &[String], to: &Path) -> Result<usize> {
    let scratch = tempfile::tempdir().context("make a folder for apt")?;
    let dir = scratch.path();
    for part in ["lists/partial", "archives/partial"] {
        std::fs::create_dir_all(dir.join(part)).context("make a folder for apt")?;
    }
    std::fs::write(dir.join("status"), "").context("write a file for apt")?;
    std::fs::write(dir.join("sources.list"), sources.join("\n") + "\n").context("write a file for apt")?;
    let apt = || {
        let mut command = Command::new("apt-get");
        let shown = dir.display();
        command.args(["-q", "-y"]);
        command.args([
            format!("-oDir::Etc::sourcelist={shown}/sources.list"),
            format!("-oDir::State::lists={shown}/lists"),
            format!("-oDir::State::status={shown}/status"),
            format!("-oDir::Cache::archives={shown}/archives"),
        ]);
        command.args(["-oDir::Etc::sourceparts=/dev/null", "-oDir::Etc::preferencesparts=/dev/null"]);
        command.args(["-oDir::Cache::pkgcache=", "-oDir::Cache::srcpkgcache=", "-oDebug::NoLocking=1"]);
        command.args(["-oAPT::Architecture=amd64", "-oAPT::Architectures::=amd64", "-oAPT::Sandbox::User=root"]);
        command.args(["-oAPT::Install-Recommends=false", "-oAcquire::Languages=none"]);
        command
    };
    output(apt().arg("update")).context("fetch the package indexes")?;
    output(apt().args(["--download-only", "install"]).args(HOST_PACKAGES)).context("download packages")?;
    let files = debs(&dir.join("archives"))?;
    // Made anew beside it, so that a download that fails leaves what was there.
    let new = to.with_extension("new");
    remove(&new)?;
    std::fs::create_dir_all(&new).with_context(|| format!("make {}", new.display()))?;
    for file in &files {
        let control = control(file)?;
        let field = |name: &str| control.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let name = package_file_name(
            field("Package").unwrap_or_default(),
            field("Version").unwrap_or_default(),
            field("Architecture").unwrap_or_default(),
        );
        std::fs::copy(file, new.join(name)).with_context(|| format!("copy {}", file.display()))?;
    }
    remove(to)?;
    std::fs::rename(&new, to).with_context(|| format!("put the packages into {}", to.display()))?;
    Ok(files.len())
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// The packages in a folder, by name.
fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry.with_context(|| format!("list {}", folder.display()))?.path();
        files.extend(path.extension().is_some_and(|extension| extension == "deb").then_some(path));
    }
    files.sort();
    Ok(files)
}

/// A package's control file.
fn control(file: &Path) -> Result<String> {
    output(Command::new("dpkg-deb").arg("--field").arg(file))
        .with_context(|| format!("read the package {}", file.display()))
}

/// Describes what is in `packages/` of a bundle's folder, and writes an index of each release's.
pub(super) fn describe(folder: &Path) -> Result<Vec<PackageSet>> {
    let entries = match std::fs::read_dir(folder.join(PACKAGES)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("list the bundle's packages")?,
    };
    let mut releases = Vec::new();
    for entry in entries {
        let entry = entry.context("list the bundle's packages")?;
        releases.extend(entry.path().is_dir().then(|| entry.file_name().to_string_lossy().into_owned()));
    }
    releases.sort();
    releases.iter().map(|release| set(folder, release)).collect()
}

fn set(folder: &Path, release: &str) -> Result<PackageSet> {
    let below = format!("{PACKAGES}/{release}");
    let (mut packages, mut paragraphs, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for file in debs(&folder.join(&below))? {
        let name = file.file_name().and_then(|name| name.to_str()).context("a package's file name is not UTF-8")?;
        let entry = kinit_bundle::digest(folder, &format!("{below}/{name}"))?;
        match describe_package(&control(&file)?, &entry) {
            Ok((package, paragraph)) => {
                packages.push(package);
                paragraphs.push(paragraph);
            }
            Err(why) => wrong.push(why),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let missing: Vec<&str> =
        HOST_PACKAGES.into_iter().filter(|name| !packages.iter().any(|package| package.name == *name)).collect();
    if !missing.is_empty() {
        tell!(
            "warning: there are no packages {} for {release}: hosts must have what they need of them",
            missing.join(", ")
        );
    }
    let index = format!("{below}/{INDEX}");
    let path = folder.join(&index);
    std::fs::write(&path, paragraphs.join("\n")).with_context(|| format!("write {}", path.display()))?;
    Ok(PackageSet { release: release.to_owned(), index, packages })
}

/// What a program says; its complaints are the error.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = lines.get(lines.len().saturating_sub(6)..).unwrap_or_default();
        bail!("{program} failed with {}: {}", output.status, last.join(" | "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_those_of_the_wanted_release() {
        let said = "http://m/debian/ bookworm main /k.gpg\nhttp://m/debian/ bookworm-updates main $(SIGNED_BY)\n\
                    http://s/debian-security/ bookworm-security main /k.gpg\nhttp://other/ stable main /o.gpg\n\
                    http://m/debian/ bookworm main /k.gpg\n";
        assert_eq!(
            sources_of(said, "bookworm", "trixie"),
            [
                "deb [signed-by=/k.gpg] http://m/debian/ trixie main",
                "deb [signed-by=/k.gpg] http://s/debian-security/ trixie-security main",
                "deb http://m/debian/ trixie-updates main",
            ]
        );
        assert!(sources_of("garbage", "bookworm", "trixie").is_empty());
    }

    #[test]
    fn another_distribution_needs_sources_of_its_own() {
        let error = own_sources("debian-bookworm", "ubuntu", "noble").unwrap_err().to_string();
        assert!(error.contains("--package-source"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        for suite in ["trixie", ""] {
            assert!(download(folder.path(), &[suite.to_owned()], &[]).unwrap_err().to_string().contains("--suite"));
        }
        assert!(describe(folder.path()).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_is_no_package_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let packages = folder.path().join("packages/debian-trixie");
        std::fs::create_dir_all(&packages).unwrap();
        std::fs::write(packages.join("x.deb"), "no package").unwrap();
        let error = format!("{:#}", describe(folder.path()).unwrap_err());
        assert!(error.contains("x.deb"), "{error}");
    }
}
