//! A pod's volumes: directories on the host that containers get mounted.
//!
//! ```text
//! emptyDir            directory or tmpfs
//! hostPath            the host's own path, checked or made
//! configMap, secret,
//! downwardAPI,        payload (pure bytes) → atomic writer → ..data link; secrets on tmpfs, tokens refreshed
//! projected
//! ```
//!
//! Anything else is refused when the pod arrives ([`unsupported`]): the kubelet says so instead of waiting for ever.

pub mod atomic;
pub mod files;
pub mod hostpath;
pub mod limit;
pub mod mounts;
pub mod payload;
pub mod subpath;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, ProjectedVolumeSource, Volume};

use crate::downward::Place;
use crate::kubelet::Kubelet;
use crate::names::PodKey;
use crate::quantity;

/// A volume that is in place.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    let strange = |v: &&Volume| plugin(v).is_none() || v.projected.as_ref().is_some_and(has_strange_source);
    let found = volumes.find(strange)?;
    Some(format!("volume {:?} has a source that this kubelet does not support", found.name))
}

fn has_strange_source(projected: &ProjectedVolumeSource) -> bool {
    projected.sources.iter().flatten().any(|s| {
        s.config_map.is_none() && s.secret.is_none() && s.downward_api.is_none() && s.service_account_token.is_none()
    })
}

/// The plugin's name, as directories under the pod carry it.
fn plugin(volume: &Volume) -> Option<&'static str> {
    let v = volume;
    if v.config_map.is_some() {
        Some("kubernetes.io/configmap")
    } else if v.secret.is_some() {
        Some("kubernetes.io/secret")
    } else if v.projected.is_some() {
        Some("kubernetes.io/projected")
    } else if v.downward_api.is_some() {
        Some("kubernetes.io/downward-api")
    } else if v.host_path.is_some() {
        Some("kubernetes.io/host-path")
    } else if let Some(empty) = &v.empty_dir {
        matches!(empty.medium.as_deref(), None | Some("" | "Memory")).then_some("kubernetes.io/empty-dir")
    } else {
        None
    }
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
        let mounted = one(kubelet, pod, key, volume, place, tokens)
            .await
            .map_err(|e| format!("MountVolume.SetUp failed for volume \"{}\" : {e}", volume.name))?;
        out.insert(volume.name.clone(), mounted);
    }
    Ok(out)
}

async fn one(
    kubelet: &Kubelet,
    pod: &Pod,
    key: &PodKey,
    volume: &Volume,
    place: &Place,
    tokens: &mut payload::Tokens,
) -> Result<Mounted, String> {
    if let Some(source) = &volume.host_path {
        let path = PathBuf::from(&source.path);
        hostpath::prepare(&path, source.type_.as_deref().unwrap_or(""))?;
        return Ok(Mounted { path, read_only: false });
    }
    let plugin = plugin(volume).ok_or("its source is not supported by this kubelet")?;
    let path = kubelet.paths.volume(&key.uid, plugin, &volume.name);
    let group = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|c| c.fs_group);
    if let Some(source) = &volume.empty_dir {
        empty_dir(&path, source, pod, group)?;
        return Ok(Mounted { path, read_only: false });
    }
    let files = payload::of(kubelet, pod, key, volume, place, tokens).await?;
    make_directory(&path, 0o777)?;
    // Secrets never touch a disk; ConfigMaps do, as upstream's.
    if volume.config_map.is_none() {
        mounts::tmpfs(&path, None, 0o1777)?;
    }
    atomic::write(&path, &files, group).map_err(|e| format!("write {}: {e}", path.display()))?;
    // The kubelet alone writes there, whatever the mount says (upstream's `GetAttributes().ReadOnly` of these four).
    Ok(Mounted { path, read_only: true })
}

fn empty_dir(path: &Path, source: &EmptyDirVolumeSource, pod: &Pod, group: Option<i64>) -> Result<(), String> {
    let fresh = !path.exists();
    make_directory(path, 0o777)?;
    if source.medium.as_deref() == Some("Memory") {
        let own = source.size_limit.as_ref().and_then(|q| quantity::units(&q.0)).filter(|s| *s > 0);
        let pod = crate::resources::pod(pod).memory;
        let size = match (own, pod) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        mounts::tmpfs(path, size, 0o1777)?;
    }
    if fresh && let Some(group) = group {
        atomic::give_to_group(path, group, atomic::Access::Write)
            .map_err(|e| format!("set the group of {}: {e}", path.display()))?;
    }
    Ok(())
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
    std::fs::remove_dir_all(kubelet_pod).map_err(|e| format!("remove {}: {e}", kubelet_pod.display()))
}
