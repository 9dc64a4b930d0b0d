//! Kernel settings, features and swap.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use kinit_resource::Observed;
use tokio::process::Command;

use crate::ledger::Ledger;

fn sysctl_path(key: &str) -> Result<PathBuf> {
    ensure!(!key.contains("..") && !key.contains('/'), "{key} is not a sysctl");
    Ok(PathBuf::from("/proc/sys").join(key.replace('.', "/")))
}

fn sysctl(key: &str) -> Result<String> {
    let path = sysctl_path(key)?;
    Ok(std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?.trim().to_owned())
}

pub(crate) fn observe_sysctl(key: &str, value: &str) -> Result<Observed> {
    let actual = sysctl(key)?;
    Ok(if actual == value { Observed::AsWanted } else { Observed::Differs(format!("is {actual}")) })
}

pub(crate) fn set_sysctl(key: &str, value: &str) -> Result<()> {
    let old = sysctl(key)?;
    Ledger::note(|l| {
        l.sysctls.entry(key.to_owned()).or_insert(old);
    })?;
    write_sysctl(key, value)
}

pub(crate) fn write_sysctl(key: &str, value: &str) -> Result<()> {
    std::fs::write(sysctl_path(key)?, value).with_context(|| format!("set {key} to {value}"))
}

/// Where a feature shows itself when it is there, built in or loaded.
fn feature_shows(name: &str) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let built_in =
        std::fs::read_to_string(format!("/lib/modules/{}/modules.builtin", release.trim())).unwrap_or_default();
    let file = format!("/{}.ko", name.replace('-', "_"));
    let listed = built_in.lines().any(|line| line.replace('-', "_").ends_with(&file));
    listed || std::path::Path::new("/sys/module").join(name).exists() || (name == "overlay" && filesystem("overlay"))
}

fn filesystem(name: &str) -> bool {
    std::fs::read_to_string("/proc/filesystems")
        .is_ok_and(|text| text.lines().any(|l| l.split_whitespace().last() == Some(name)))
}

pub(crate) fn observe_module(name: &str) -> Result<Observed> {
    Ok(if feature_shows(name) { Observed::AsWanted } else { Observed::Missing })
}

/// Loads a module. kmod's own rules (aliases, blacklists, options) are the system's; there is no protocol but the
/// program.
pub(crate) async fn load_module(name: &str) -> Result<()> {
    let output = Command::new("modprobe").arg(name).output().await.context("start modprobe")?;
    if !output.status.success() {
        bail!("the kernel has no {name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn swaps() -> Result<Vec<String>> {
    let text = std::fs::read_to_string("/proc/swaps").context("read /proc/swaps")?;
    Ok(text.lines().skip(1).filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect())
}

pub(crate) fn observe_swap() -> Result<Observed> {
    let swaps = swaps()?;
    Ok(if swaps.is_empty() { Observed::AsWanted } else { Observed::Differs(format!("in use: {}", swaps.join(" "))) })
}

/// What pulls in every swap area at boot, whoever declared it (systemd.special(7)).
const SWAP_TARGET: &str = "/etc/systemd/system/swap.target";

/// Stops using swap, now and after the next boot. fstab is left alone.
#[expect(unsafe_code, reason = "swapoff has no safe form")]
pub(crate) fn swap_off() -> Result<()> {
    // Masked first: a run that dies in between finds swap in use, and comes back here.
    if std::fs::symlink_metadata(SWAP_TARGET).is_err() {
        Ledger::note_path(SWAP_TARGET)?;
        crate::files::link(SWAP_TARGET, "/dev/null")?;
    }
    let swaps = swaps()?;
    Ledger::note(|l| l.swaps.extend(swaps.iter().cloned()))?;
    for swap in swaps {
        let path = std::ffi::CString::new(swap.as_str()).context("a swap area's path")?;
        // SAFETY: swapoff reads a path that lives until it returns.
        if unsafe { libc::swapoff(path.as_ptr()) } != 0 {
            return Err(std::io::Error::last_os_error()).with_context(|| format!("stop using swap {swap}"));
        }
    }
    Ok(())
}

#[expect(unsafe_code, reason = "swapon has no safe form")]
pub(crate) fn swap_on(swap: &str) -> Result<()> {
    let path = std::ffi::CString::new(swap).context("a swap area's path")?;
    // SAFETY: swapon reads a path that lives until it returns.
    if unsafe { libc::swapon(path.as_ptr(), 0) } != 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("use swap {swap} again"));
    }
    Ok(())
}
