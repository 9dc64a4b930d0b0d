//! Clean-up: what dead containers and departed pods leave behind.

use std::collections::BTreeSet;
use std::time::Duration;

use kinit_cri::v1::{
    ListContainersRequest, ListPodSandboxRequest, RemoveContainerRequest, RemovePodSandboxRequest,
    StopPodSandboxRequest,
};

use super::observe::{Life, Observed};
use crate::kubelet::Kubelet;
use crate::names::{self, PodKey};
use crate::volumes;

/// Removes all but the newest dead container of each name, and all but the newest sandbox. `keep` is how many dead ones
/// stay.
pub async fn dead_containers(kubelet: &Kubelet, key: &PodKey, seen: &Observed, keep: usize) {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for container in &seen.containers {
        let count = counts.entry(&container.name).or_default();
        *count += 1;
        // The newest is the pod's present; behind it `keep` of the past.
        if *count > keep + 1 && matches!(container.life, Life::Exited | Life::Created) {
            remove_container(kubelet, key, &container.name, &container.id, Some(&container.log_path)).await;
        }
    }
    for sandbox in seen.sandboxes.iter().skip(1).filter(|s| !s.ready) {
        let used = seen.containers.iter().any(|c| c.sandbox == sandbox.id);
        if !used {
            remove_sandbox(kubelet, &sandbox.id).await;
        }
    }
}

async fn remove_container(kubelet: &Kubelet, key: &PodKey, name: &str, id: &str, log: Option<&str>) {
    if let Err(error) = kubelet.runtime.remove_container(RemoveContainerRequest { container_id: id.to_owned() }).await {
        return tracing::debug!(container = id, %error, "remove a dead container");
    }
    let link = kubelet.paths.container_log_link(key, name, id);
    let log = log.filter(|l| !l.is_empty()).map(std::path::PathBuf::from);
    let rotated = log.as_deref().map(crate::rotate_logs::rotated).unwrap_or_default();
    for path in std::iter::once(link).chain(log).chain(rotated) {
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::debug!(file = %path.display(), %error, "remove a log");
        }
    }
}

async fn remove_sandbox(kubelet: &Kubelet, id: &str) {
    if let Err(error) =
        kubelet.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() }).await
    {
        tracing::debug!(sandbox = id, %error, "remove a sandbox");
    }
}

/// Removes everything of a pod that has left for good.
pub async fn everything(kubelet: &Kubelet, key: &PodKey, seen: &Observed) {
    for container in &seen.containers {
        remove_container(kubelet, key, &container.name, &container.id, None).await;
    }
    for sandbox in &seen.sandboxes {
        remove_sandbox(kubelet, &sandbox.id).await;
    }
    if let Err(error) = volumes::tear_down(&kubelet.paths.pod(&key.uid)) {
        tracing::warn!(pod = %key, error, "remove the pod's directory");
    }
    let logs = kubelet.paths.log_directory(key);
    if let Err(error) = std::fs::remove_dir_all(&logs)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(pod = %key, %error, "remove the pod's logs");
    }
}

/// Ends and removes what runs or lies about for pods nobody wants; `wanted` holds uids.
pub async fn orphans(kubelet: &Kubelet, wanted: &BTreeSet<String>) -> Result<(), kinit_cri::CriError> {
    let containers = kubelet.runtime.list_containers(ListContainersRequest::default()).await?.containers;
    for container in containers {
        let Some(uid) = container.labels.get(names::POD_UID) else { continue };
        if wanted.contains(uid) {
            continue;
        }
        let grace = container.annotations.get(names::POD_GRACE).and_then(|g| g.parse().ok()).unwrap_or(30);
        tracing::info!(container = container.id, uid, "end a container whose pod is gone");
        if let Err(error) = kubelet.runtime.stop_container(&container.id, Duration::from_secs(grace)).await {
            tracing::debug!(container = container.id, %error, "stop an orphan");
        }
    }
    let sandboxes = kubelet.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.items;
    for sandbox in sandboxes {
        let Some(uid) = sandbox.labels.get(names::POD_UID).filter(|u| !wanted.contains(*u)) else { continue };
        tracing::info!(sandbox = sandbox.id, uid, "remove a sandbox whose pod is gone");
        if let Err(error) =
            kubelet.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() }).await
        {
            tracing::debug!(sandbox = sandbox.id, %error, "stop an orphan's sandbox");
        }
        remove_sandbox(kubelet, &sandbox.id).await;
    }
    directories(kubelet, wanted);
    Ok(())
}

fn directories(kubelet: &Kubelet, wanted: &BTreeSet<String>) {
    let entries = |path| std::fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries(kubelet.paths.pods()) {
        let uid = entry.file_name().to_string_lossy().into_owned();
        if !wanted.contains(&uid)
            && let Err(error) = volumes::tear_down(&entry.path())
        {
            tracing::warn!(uid, error, "remove the directory of a pod that is gone");
        }
    }
    for entry in entries(kubelet.paths.pod_logs.clone()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some((_, uid)) = name.rsplit_once('_').filter(|(_, uid)| !wanted.contains(*uid))
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::warn!(uid, %error, "remove the logs of a pod that is gone");
        }
    }
    for entry in entries(kubelet.paths.container_logs.clone()) {
        // A link whose target is gone.
        if entry.path().symlink_metadata().is_ok_and(|m| m.is_symlink()) && !entry.path().exists() {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
