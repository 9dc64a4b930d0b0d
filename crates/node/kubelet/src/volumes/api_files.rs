//! Volumes whose files come from the API: configMap, secret, downwardAPI, projected.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ProjectedVolumeSource, Volume};

use super::plugin::{Failure, Request, VolumePlugin};
use super::{Mounted, atomic, make_directory, mounts, payload};

/// One of them.
pub struct ApiFiles {
    /// Its name, as directories under the pod carry it.
    name: &'static str,
    /// Secrets never touch a disk; ConfigMaps do, as upstream's.
    in_memory: bool,
    serves: fn(&Volume) -> bool,
}

/// `configMap`.
pub const CONFIG_MAP: ApiFiles =
    ApiFiles { name: "kubernetes.io/configmap", in_memory: false, serves: |v| v.config_map.is_some() };
/// `secret`.
pub const SECRET: ApiFiles = ApiFiles { name: "kubernetes.io/secret", in_memory: true, serves: |v| v.secret.is_some() };
/// `downwardAPI`.
pub const DOWNWARD_API: ApiFiles =
    ApiFiles { name: "kubernetes.io/downward-api", in_memory: true, serves: |v| v.downward_api.is_some() };
/// `projected`.
pub const PROJECTED: ApiFiles = ApiFiles {
    name: "kubernetes.io/projected",
    in_memory: true,
    serves: |v| v.projected.as_ref().is_some_and(|p| !has_strange_source(p)),
};

fn has_strange_source(projected: &ProjectedVolumeSource) -> bool {
    projected.sources.iter().flatten().any(|s| {
        s.config_map.is_none() && s.secret.is_none() && s.downward_api.is_none() && s.service_account_token.is_none()
    })
}

#[async_trait]
impl VolumePlugin for ApiFiles {
    fn serves(&self, volume: &Volume) -> bool {
        (self.serves)(volume)
    }

    async fn set_up(&self, request: Request<'_>) -> Result<Mounted, Failure> {
        let group = request.fs_group();
        let Request { kubelet, pod, key, volume, place, tokens } = request;
        let path = kubelet.paths.volume(&key.uid, self.name, &volume.name);
        let files = payload::of(kubelet, pod, key, volume, place, tokens).await?;
        make_directory(&path, 0o777)?;
        if self.in_memory {
            mounts::tmpfs(&path, None, 0o1777)?;
        }
        atomic::write(&path, &files, group).map_err(|e| format!("write {}: {e}", path.display()))?;
        // The kubelet alone writes there, whatever the mount says (upstream's `GetAttributes().ReadOnly` of these
        // four).
        Ok(Mounted { path, read_only: true })
    }
}
