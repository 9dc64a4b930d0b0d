//! What the desk knows: who works at it, and which cluster is meant, by the kubeconfig that `init` wrote.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use kinit_agent::{Caller, LockMode, Opening};

use crate::cluster::Lock;
use crate::errors::Usage;

/// How the hosts' agents are asked: in whose name, for which verb, and whether other kinits have to stop.
pub(crate) fn opening(operation: &str, lock: Lock, break_lock: bool) -> Opening {
    let named = |name: &str| std::env::var(name).ok().filter(|user| !user.is_empty());
    let user = named("USER").or_else(|| named("LOGNAME")).unwrap_or_else(|| match std::fs::metadata("/proc/self") {
        Ok(own) if own.uid() == 0 => "root".to_owned(),
        Ok(own) => format!("uid-{}", own.uid()),
        Err(_) => "unknown".to_owned(),
    });
    let desk = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let by = format!("{user}@{}", desk.trim());
    let caller = Caller { by, pid: std::process::id(), operation: operation.to_owned() };
    let lock = match lock {
        Lock::Look => LockMode::Look,
        Lock::Take if break_lock => LockMode::Break,
        Lock::Take => LockMode::Take,
    };
    Opening { caller, lock }
}

/// The authority of the cluster as the desk knows it: by the given hash, or by its kubeconfig, if there is one.
pub(crate) fn known_authority(kubeconfig: &Path, hash: Option<&str>) -> Result<Option<String>> {
    if let Some(hash) = hash {
        let hex = hash.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Usage(format!("--ca-cert-hash: {hash:?} is not sha256: and 64 hexadecimal digits")).into());
        }
        return Ok(Some(hash.to_ascii_lowercase()));
    }
    let text = match std::fs::read_to_string(kubeconfig) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", kubeconfig.display())),
    };
    kinit_phases::kubeconfig_authority(&text)
        .with_context(|| format!("learn from {} which cluster is meant", kubeconfig.display()))
}

/// Removes the kubeconfig of a cluster that is gone: it opens nothing any more, and the next cluster would be taken for
/// a stranger by it. One that knows other clusters too stays.
pub(crate) fn forget(kubeconfig: &Path, authority: Option<&str>) -> Result<()> {
    let Ok(text) = std::fs::read_to_string(kubeconfig) else { return Ok(()) };
    let known = kinit_phases::kubeconfig_authority(&text).ok().flatten();
    if known.is_none() || known.as_deref() != authority || !kinit_phases::kubeconfig_is_of_one_cluster(&text) {
        return Ok(());
    }
    std::fs::remove_file(kubeconfig).with_context(|| format!("remove {}", kubeconfig.display()))?;
    tell!("[reset] removed {}: its cluster is gone", kubeconfig.display());
    Ok(())
}
