//! Files the kubelet itself puts into containers: hosts and the termination log.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

use super::make_directory;
use crate::kubelet::Kubelet;
use crate::names::{Paths, PodKey};
use crate::{hosts, make};

/// Writes the pod's hosts file; `None` for a pod that must not have one (its network is not known).
pub fn write_hosts(kubelet: &Kubelet, pod: &Pod, key: &PodKey, ips: &[String]) -> Result<Option<String>, String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let aliases = spec.host_aliases.clone().unwrap_or_default();
    let text = if spec.host_network == Some(true) {
        let host = std::fs::read_to_string("/etc/hosts").map_err(|e| format!("read /etc/hosts: {e}"))?;
        hosts::host(&host, &aliases)
    } else if ips.is_empty() {
        return Ok(None);
    } else {
        let (name, domain) = make::sandbox::hostname(pod, &kubelet.config.cluster_domain)?;
        let short = name.split('.').next().unwrap_or(&name);
        hosts::pod(ips, short, &domain, &aliases)
    };
    let path = kubelet.paths.etc_hosts(&key.uid);
    // Written in place: running containers have this very file mounted.
    let failed = |e: std::io::Error| format!("write {}: {e}", path.display());
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    Ok(Some(path.display().to_string()))
}

/// Makes the file that a container's attempt writes its last words to.
pub fn termination_log(paths: &Paths, uid: &str, container: &str, attempt: u32) -> Result<String, String> {
    use std::os::unix::fs::PermissionsExt;
    let directory = paths.container(uid, container);
    make_directory(&directory, 0o750)?;
    let path = directory.join(attempt.to_string());
    let failed = |e: std::io::Error| format!("make {}: {e}", path.display());
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).open(&path).map_err(failed)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(path.display().to_string())
}

/// Writes a file by temporary file, fsync and rename.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let temporary = path.with_extension("kinit-tmp");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}
