//! A pod's volumes: directories on the host that containers get mounted.
//!
//! ```text
//! emptyDir            directory or tmpfs
//! hostPath            the host's own path, checked or made
//! configMap, secret,
//! downwardAPI,        payload (pure bytes) → atomic writer → ..data link; secrets on tmpfs, tokens refreshed
//! projected
//! persistentVolume-   claim → its PersistentVolume → hostPath, or local: bound to a directory of the pod
//! Claim, ephemeral      local_path: folders of the provisioner kinit.dev/local-path, made here and removed here
//! ```
//!
//! Each is a [`plugin::VolumePlugin`]. Anything else is refused when the pod arrives ([`unsupported`]): the kubelet
//! says so instead of waiting for ever.

mod api_files;
pub mod atomic;
mod claim;
mod empty_dir;
pub mod files;
pub mod folders;
pub mod hostpath;
pub mod limit;
mod local;
mod local_path;
pub mod mounts;
pub mod payload;
mod plugin;
mod remove;
pub mod subpath;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, Volume};
use serde::{Deserialize, Serialize};

use crate::downward::Place;
use crate::kubelet::Kubelet;
use crate::names::PodKey;
use plugin::{Request, plugin_of, setup_failed};

/// A volume that is in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// Where.
    pub path: PathBuf,
    /// Whether containers may only read it, whatever they ask for.
    pub read_only: bool,
}

/// A pod's volumes by name.
pub type Volumes = BTreeMap<String, Mounted>;

/// Names the first volume whose source this kubelet does not serve.
pub fn unsupported(pod: &Pod) -> Option<String> {
    let mut volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let found = volumes.find(|v: &&Volume| plugin_of(v).is_none())?;
    Some(format!("volume {:?} has a source that this kubelet does not support", found.name))
}

/// Sets up all volumes of a pod, or brings them up to date; idempotent. `tokens` keeps service account tokens between
/// calls.
pub async fn set_up(
    kubelet: &Kubelet,
    pod: &Pod,
    key: &PodKey,
    place: &Place,
    tokens: &mut payload::Tokens,
) -> Result<Volumes, String> {
    let directory = kubelet.paths.pod(&key.uid);
    make_directory(&directory, 0o750)?;
    let mut out = Volumes::new();
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let plugin = plugin_of(volume)
            .ok_or_else(|| setup_failed(&volume.name, "its source is not supported by this kubelet"))?;
        let request = Request { kubelet, pod, key, volume, place, tokens };
        let mounted = plugin.set_up(request).await.map_err(|failure| failure.message(&volume.name))?;
        out.insert(volume.name.clone(), mounted);
    }
    Ok(out)
}

/// Makes a directory and its parents; the last one gets exactly `mode`.
pub fn make_directory(path: &Path, mode: u32) -> Result<(), String> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    if path.is_dir() {
        return Ok(());
    }
    let failed = |e: std::io::Error| format!("make directory {}: {e}", path.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)
}

/// Unmounts and removes everything of a pod under the kubelet's directory. Never follows a mount into what it does not
/// own.
pub fn tear_down(kubelet_pod: &Path) -> Result<(), String> {
    if !kubelet_pod.exists() {
        return Ok(());
    }
    mounts::unmount_below(kubelet_pod)?;
    remove::tree(kubelet_pod)
}

/// Unmounts a pod's volumes and removes what the kubelet made for them; the rest of its directory stays.
pub fn take_down(kubelet_pod: &Path) -> Result<(), String> {
    mounts::unmount_below(kubelet_pod)?;
    for part in ["volumes", "volume-subpaths", claim::RECORDS] {
        remove::tree(&kubelet_pod.join(part))?;
    }
    Ok(())
}
