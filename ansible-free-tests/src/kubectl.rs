//! Debian's kubectl, fetched once.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};
use kinit_playground::Cache;

/// trixie's package of kubectl 1.32.
const PACKAGE: &str = "kubectl";

static PATH: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// The program, downloaded and unpacked on first use, kept beside the playground's cache.
pub fn path() -> Result<PathBuf> {
    PATH.get_or_init(|| fetch().map_err(|e| format!("{e:#}"))).clone().map_err(|e| anyhow!(e))
}

fn fetch() -> Result<PathBuf> {
    let cache = Cache::system();
    let dir = cache.root().with_extension("kubectl");
    let program = dir.join("usr/bin/kubectl");
    if program.exists() {
        return Ok(program);
    }
    cache.ensure(&|_| ())?;
    let unfinished = dir.with_extension("new");
    std::fs::remove_dir_all(&unfinished).ok();
    std::fs::create_dir_all(&unfinished)?;
    let root = cache.root();
    let mut command = Command::new("apt-get");
    command.current_dir(&unfinished).arg(format!("-oDir={}", root.display()));
    command.arg(format!("-oDir::State::status={}/var/lib/dpkg/status", root.display()));
    command.args([
        "-oDir::Cache::pkgcache=",
        "-oDir::Cache::srcpkgcache=",
        "-oAPT::Sandbox::User=root",
        "-oDebug::NoLocking=1",
        "-qq",
        "download",
        PACKAGE,
    ]);
    run(&mut command).context("download kubectl")?;
    let package = std::fs::read_dir(&unfinished)?
        .filter_map(Result::ok)
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|x| x == "deb"));
    let package = package.context("apt-get downloaded nothing")?;
    run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&unfinished)).context("unpack kubectl")?;
    std::fs::remove_file(package)?;
    std::fs::rename(&unfinished, &dir).context("keep kubectl")?;
    Ok(program)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
