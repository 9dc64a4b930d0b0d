//! Real servers for the tests that want them: Debian's, unpacked into the build directory where they are not installed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::run::{run, target_dir};

/// Where the playground keeps the packages its hosts install.
const PLAYGROUND: &str = "/var/cache/kinit/playground";

/// Programs that come together.
pub struct Programs {
    /// What they are called in PATH.
    names: &'static [&'static str],
    /// The packages that have them; the first names their directory.
    packages: &'static [&'static str],
    /// Whether another release's packages, as the playground's, do too: a static program runs everywhere.
    any_release: bool,
}

/// For the API server's tests.
pub const ETCD: Programs = Programs { names: &["etcd"], packages: &["etcd-server"], any_release: true };
/// For the kubelet's.
pub const CONTAINERD: Programs =
    Programs { names: &["containerd", "ctr", "runc"], packages: &["containerd", "runc"], any_release: false };

/// `PATH` with these programs: as it is where they are in it, else with directories in front that have them.
pub fn path(wanted: &[Programs]) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories = Vec::new();
    for programs in wanted {
        if !programs.names.iter().all(|name| works(Path::new(name))) {
            let what = programs.names.join(", ");
            directories.push(programs.unpacked().with_context(|| {
                format!(
                    "the tests need {what}, which are not in PATH: install Debian's {}, or let apt-get download them",
                    programs.packages.join(" and ")
                )
            })?);
        }
    }
    directories.extend(std::env::split_paths(&path));
    Ok(std::env::join_paths(directories)?)
}

fn works(program: &Path) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|s| s.success())
}

impl Programs {
    /// The directory of the unpacked programs, unpacked now if need be.
    fn unpacked(&self) -> Result<PathBuf> {
        let dir = target_dir().join(self.packages[0]);
        let bin = dir.join("usr/bin");
        if self.names.iter().all(|name| works(&bin.join(name))) {
            return Ok(bin);
        }
        let unfinished = dir.with_extension("new");
        clear(&unfinished)?;
        std::fs::create_dir_all(&unfinished).with_context(|| format!("create {}", unfinished.display()))?;
        for name in self.packages {
            let kept = package_in(Path::new(PLAYGROUND), name, 1).filter(|_| self.any_release);
            let package = match kept {
                Some(package) => package,
                None => downloaded(name, &unfinished)?,
            };
            run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&unfinished))
                .with_context(|| format!("unpack {}", package.display()))?;
        }
        for name in self.names {
            let program = unfinished.join("usr/bin").join(name);
            ensure!(works(&program), "{} does not run on this machine", program.display());
        }
        clear(&dir)?;
        std::fs::rename(&unfinished, &dir).with_context(|| format!("keep {}", dir.display()))?;
        Ok(bin)
    }
}

fn clear(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// The package in `dir` or, as the playground keeps it, a level below.
fn package_in(dir: &Path, package: &str, below: u8) -> Option<PathBuf> {
    let paths: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.filter_map(Result::ok).map(|e| e.path()).collect();
    let is_it = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
    };
    paths.iter().find(is_it).cloned().or_else(|| {
        let folders = paths.iter().filter(|p| below > 0 && p.is_dir() && p.to_string_lossy().ends_with("-debs"));
        folders.into_iter().find_map(|p| package_in(p, package, below - 1))
    })
}

/// Downloads the package of this machine's own Debian.
fn downloaded(package: &str, into: &Path) -> Result<PathBuf> {
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(into).args(["-qq", "-oAPT::Sandbox::User=root"]).args(arguments);
        run(&mut command)
    };
    if apt(&["download", package]).is_err() {
        // The index may be missing, or name a version that is no more.
        apt(&["update"]).context("fetch the package index")?;
        apt(&["download", package]).with_context(|| format!("download {package}"))?;
    }
    package_in(into, package, 0).context("apt-get downloaded nothing")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_package_is_found_where_the_playground_keeps_it() {
        let dir = std::env::temp_dir().join(format!("xtask-programs-{}", std::process::id()));
        let debs = dir.join("trixie-3-debs");
        std::fs::create_dir_all(&debs).unwrap();
        std::fs::create_dir_all(dir.join("trixie-3")).unwrap();
        assert_eq!(package_in(&dir, "etcd-server", 1), None);
        std::fs::write(debs.join("etcd-client_3.5_amd64.deb"), "").unwrap();
        std::fs::write(debs.join("etcd-server_3.5_amd64.deb"), "").unwrap();
        assert_eq!(package_in(&dir, "etcd-server", 1), Some(debs.join("etcd-server_3.5_amd64.deb")));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
