//! etcd for the tests that want a real one: Debian's, unpacked into the build directory.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::run::{run, target_dir};

const PACKAGE: &str = "etcd-server";
/// Where the playground keeps the packages its hosts install.
const PLAYGROUND: &str = "/var/cache/kinit/playground";

/// `PATH` for the tests: as it is where etcd is in it, else with a directory that has it in front.
pub fn path() -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if works(Path::new("etcd")) {
        return Ok(path);
    }
    let bin = unpacked().context(
        "the API server's tests need etcd, which is not in PATH: install Debian's etcd-server, or let apt-get download it",
    )?;
    Ok(std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path)))?)
}

fn works(program: &Path) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|s| s.success())
}

/// The directory of the unpacked program, unpacked now if need be.
fn unpacked() -> Result<PathBuf> {
    let dir = target_dir().join(PACKAGE);
    let bin = dir.join("usr/bin");
    if works(&bin.join("etcd")) {
        return Ok(bin);
    }
    let unfinished = dir.with_extension("new");
    clear(&unfinished)?;
    std::fs::create_dir_all(&unfinished).with_context(|| format!("create {}", unfinished.display()))?;
    let package = match package_in(Path::new(PLAYGROUND), 1) {
        Some(package) => package,
        None => downloaded(&unfinished)?,
    };
    run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&unfinished))
        .with_context(|| format!("unpack {}", package.display()))?;
    let program = unfinished.join("usr/bin/etcd");
    ensure!(works(&program), "{} of {} does not run on this machine", program.display(), package.display());
    clear(&dir)?;
    std::fs::rename(&unfinished, &dir).with_context(|| format!("keep {}", dir.display()))?;
    Ok(bin)
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
fn package_in(dir: &Path, below: u8) -> Option<PathBuf> {
    let paths: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.filter_map(Result::ok).map(|e| e.path()).collect();
    let is_it = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&format!("{PACKAGE}_")) && name.ends_with(".deb")
    };
    paths.iter().find(is_it).cloned().or_else(|| {
        let folders = paths.iter().filter(|p| below > 0 && p.is_dir() && p.to_string_lossy().ends_with("-debs"));
        folders.into_iter().find_map(|p| package_in(p, below - 1))
    })
}

/// Downloads the package of this machine's own Debian.
fn downloaded(into: &Path) -> Result<PathBuf> {
    let mut command = Command::new("apt-get");
    command.current_dir(into).args(["-qq", "-oAPT::Sandbox::User=root", "download", PACKAGE]);
    run(&mut command).with_context(|| format!("download {PACKAGE}"))?;
    package_in(into, 0).context("apt-get downloaded nothing")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_package_is_found_where_the_playground_keeps_it() {
        let dir = std::env::temp_dir().join(format!("xtask-etcd-{}", std::process::id()));
        let debs = dir.join("trixie-3-debs");
        std::fs::create_dir_all(&debs).unwrap();
        std::fs::create_dir_all(dir.join("trixie-3")).unwrap();
        assert_eq!(package_in(&dir, 1), None);
        std::fs::write(debs.join("etcd-client_3.5_amd64.deb"), "").unwrap();
        std::fs::write(debs.join("etcd-server_3.5_amd64.deb"), "").unwrap();
        assert_eq!(package_in(&dir, 1), Some(debs.join("etcd-server_3.5_amd64.deb")));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
