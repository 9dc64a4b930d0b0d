//! emptyDir: a directory or a tmpfs that lives as long as its pod (`pkg/volume/emptydir`).

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::plugin::{Failure, Request, VolumePlugin};
use super::{Mounted, atomic, make_directory, mounts};
use crate::quantity;

/// See the module.
pub struct EmptyDir;

#[async_trait]
impl VolumePlugin for EmptyDir {
    fn serves(&self, volume: &Volume) -> bool {
        volume.empty_dir.as_ref().is_some_and(|e| matches!(e.medium.as_deref(), None | Some("" | "Memory")))
    }

    async fn set_up(&self, request: Request<'_>) -> Result<Mounted, Failure> {
        let path = request.kubelet.paths.volume(&request.key.uid, "kubernetes.io/empty-dir", &request.volume.name);
        let source = request.volume.empty_dir.clone().unwrap_or_default();
        let fresh = !path.exists();
        make_directory(&path, 0o777)?;
        if source.medium.as_deref() == Some("Memory") {
            let own = source.size_limit.as_ref().and_then(|q| quantity::units(&q.0)).filter(|s| *s > 0);
            let pod = crate::resources::pod(request.pod).memory;
            let size = match (own, pod) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            mounts::tmpfs(&path, size, 0o1777)?;
        }
        if fresh && let Some(group) = request.fs_group() {
            atomic::give_to_group(&path, group, atomic::Access::Write)
                .map_err(|e| format!("set the group of {}: {e}", path.display()))?;
        }
        Ok(Mounted { path, read_only: false })
    }
}
