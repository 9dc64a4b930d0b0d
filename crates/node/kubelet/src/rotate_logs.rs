//! Rotation of container logs (`pkg/kubelet/logs/container_log_manager.go`): by size, keeping a few old files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kinit_component_base::Shutdown;
use kinit_cri::v1::{
    ContainerFilter, ContainerState, ContainerStateValue, ContainerStatusRequest, ListContainersRequest,
    ReopenContainerLogRequest,
};

use crate::kubelet::Kubelet;
use crate::quantity;

/// Nothing tells when a file has grown past a size: they are looked at this often (upstream's default).
const EVERY: Duration = Duration::from_secs(10);

/// Rotates for ever.
pub async fn run(kubelet: Arc<Kubelet>, shutdown: Shutdown) {
    let most =
        quantity::units(&kubelet.config.container_log_max_size).and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
    let Some(most) = most else { return shutdown.cancelled().await };
    let files = usize::try_from(kubelet.config.container_log_max_files.unwrap_or(5)).unwrap_or(5).max(2);
    loop {
        tokio::select! { () = shutdown.cancelled() => return, () = tokio::time::sleep(EVERY) => {} }
        if let Err(error) = once(&kubelet, most, files).await {
            tracing::debug!(%error, "rotate container logs");
        }
    }
}

async fn once(kubelet: &Kubelet, most: u64, files: usize) -> Result<(), kinit_cri::CriError> {
    let state = Some(ContainerStateValue { state: ContainerState::ContainerRunning as i32 });
    let filter = Some(ContainerFilter { state, ..Default::default() });
    for container in kubelet.runtime.list_containers(ListContainersRequest { filter }).await?.containers {
        let request = ContainerStatusRequest { container_id: container.id.clone(), verbose: false };
        let Ok(answer) = kubelet.runtime.container_status(request).await else { continue };
        let Some(path) = answer.status.map(|s| PathBuf::from(s.log_path)).filter(|p| p.is_absolute()) else { continue };
        let length = std::fs::metadata(&path).ok().map(|m| m.len());
        let done = match todo(length, most) {
            Todo::Nothing => continue,
            Todo::Rotate => rotate(kubelet, &container.id, &path, files).await,
            Todo::Reopen => reopen(kubelet, &container.id).await.map_err(|e| e.to_string()),
        };
        if let Err(error) = done {
            tracing::warn!(log = %path.display(), error, "rotate a container's log");
        }
    }
    Ok(())
}

/// What a log needs.
#[derive(Debug, PartialEq, Eq)]
enum Todo {
    Nothing,
    Rotate,
    /// A running container has no log: this process died between moving it away and saying so.
    Reopen,
}

fn todo(length: Option<u64>, most: u64) -> Todo {
    match length {
        None => Todo::Reopen,
        Some(length) if length >= most => Todo::Rotate,
        Some(_) => Todo::Nothing,
    }
}

async fn reopen(kubelet: &Kubelet, id: &str) -> Result<(), kinit_cri::CriError> {
    let request = ReopenContainerLogRequest { container_id: id.to_owned() };
    kubelet.runtime.reopen_container_log(request).await.map(drop)
}

async fn rotate(kubelet: &Kubelet, id: &str, path: &Path, files: usize) -> Result<(), String> {
    let mut name = path.as_os_str().to_owned();
    name.push(Timestamp::now().strftime(".%Y%m%d-%H%M%S").to_string());
    let old = PathBuf::from(name);
    std::fs::rename(path, &old).map_err(|e| e.to_string())?;
    if let Err(error) = reopen(kubelet, id).await {
        // The runtime goes on writing to the old file: give it its name back.
        std::fs::rename(&old, path).map_err(|e| e.to_string())?;
        return Err(error.to_string());
    }
    // The newest counts among the files to keep.
    for surplus in rotated(path).into_iter().rev().skip(files - 1) {
        std::fs::remove_file(&surplus).map_err(|e| format!("remove {}: {e}", surplus.display()))?;
    }
    Ok(())
}

/// Old files of a log, oldest first.
pub fn rotated(path: &Path) -> Vec<PathBuf> {
    let Some((directory, name)) = path.parent().zip(path.file_name()) else { return Vec::new() };
    let prefix = format!("{}.", name.to_string_lossy());
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut out: Vec<PathBuf> =
        entries.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).map(|e| e.path()).collect();
    out.sort();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_log_needs() {
        for (length, expected) in
            [(None, Todo::Reopen), (Some(0), Todo::Nothing), (Some(9), Todo::Nothing), (Some(10), Todo::Rotate)]
        {
            assert_eq!(todo(length, 10), expected, "{length:?}");
        }
    }

    #[test]
    fn finds_old_files_of_this_log_only() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0.log", "0.log.20260102-000000", "0.log.20260101-000000", "10.log.20260101-000000"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let names: Vec<_> =
            rotated(&dir.path().join("0.log")).iter().map(|p| p.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["0.log.20260101-000000", "0.log.20260102-000000"]);
    }
}
