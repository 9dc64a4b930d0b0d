//! Volumes that are claims: `persistentVolumeClaim`, and `ephemeral`, whose claim is made for the pod
//! (`desiredStateOfWorldPopulator.createVolumeSpec`, `operationGenerator`).
//!
//! ```text
//! volume → claim, bound? → PersistentVolume, bound to it? on this node? → local, hostPath
//!     └─ record: what was mounted once stays, whatever becomes of claim and API server while the pod runs
//! ```

mod check;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Volume};
use kinit_component_helpers::storage::{LocalPath, PodClaim, claims_of, volume_name};
use kube::{Api, Client};

use super::files::write_atomically;
use super::local::{self, Local};
use super::plugin::{Failure, Request, VolumePlugin, setup_failed};
use super::{Mounted, hostpath, local_path, make_directory, mounts};
use check::Source;

/// The directory of a pod that remembers which of its claims are mounted where.
pub const RECORDS: &str = "claims";
/// No answer within this is no answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// See the module.
pub struct Claim;

#[async_trait]
impl VolumePlugin for Claim {
    fn serves(&self, volume: &Volume) -> bool {
        volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
    }

    async fn set_up(&self, request: Request<'_>) -> Result<Mounted, Failure> {
        if let Some(mounted) = recorded(&request) {
            return Ok(mounted);
        }
        let wanted = claims_of(request.pod).find(|c| c.volume == request.volume.name);
        let wanted = wanted.ok_or_else(|| Failure::Cause("it names no claim".to_owned()))?;
        let volume = resolve(&request, &wanted).await.map_err(|cause| unprocessed(&request, &wanted, &cause))?;
        let name = volume.metadata.name.clone().unwrap_or_default();
        if let Err(cause) = check::node(&volume, &request.kubelet.node()) {
            let reported = format!("MountVolume.NodeAffinity check failed for volume \"{name}\" : {cause}");
            return Err(Failure::Reported(reported));
        }
        let mounted = mount(&request, &volume, &name, wanted.read_only);
        let mounted = mounted.map_err(|cause| Failure::Reported(setup_failed(&name, &cause)))?;
        record(&request, &mounted).map_err(|cause| Failure::Reported(setup_failed(&name, &cause)))?;
        Ok(mounted)
    }
}

/// The words of the event for a claim that leads to no volume.
fn unprocessed(request: &Request<'_>, wanted: &PodClaim, cause: &str) -> Failure {
    let (volume, namespace) = (&request.volume.name, &request.key.namespace);
    Failure::Reported(format!(
        "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], failed to process \
         volumes=[{volume}]: error processing PVC {namespace}/{}: {cause}",
        wanted.claim
    ))
}

/// The volume that the pod's claim is bound to.
async fn resolve(request: &Request<'_>, wanted: &PodClaim) -> Result<PersistentVolume, String> {
    let client = request.kubelet.client.clone().ok_or("this kubelet runs without an API server")?;
    let claim = fetch_claim(client.clone(), &request.key.namespace, &wanted.claim).await?;
    check::claim(&claim, request.pod, wanted)?;
    let name = volume_name(&claim);
    let volume = fetch_volume(client, name).await?;
    check::volume(&volume, &claim, request.pod, &request.volume.name)?;
    Ok(volume)
}

async fn fetch_claim(client: Client, namespace: &str, name: &str) -> Result<PersistentVolumeClaim, String> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client, namespace);
    let answer = tokio::time::timeout(PATIENCE, api.get(name)).await.map_err(|_| "no answer".to_owned());
    answer.and_then(|a| a.map_err(|e| e.to_string())).map_err(|e| format!("failed to fetch PVC from API server: {e}"))
}

async fn fetch_volume(client: Client, name: &str) -> Result<PersistentVolume, String> {
    let api: Api<PersistentVolume> = Api::all(client);
    let answer = tokio::time::timeout(PATIENCE, api.get(name)).await.map_err(|_| "no answer".to_owned());
    answer
        .and_then(|a| a.map_err(|e| e.to_string()))
        .map_err(|e| format!("failed to fetch PV {name} from API server: {e}"))
}

/// Mounts the volume by its own source.
fn mount(request: &Request<'_>, volume: &PersistentVolume, name: &str, read_only: bool) -> Result<Mounted, String> {
    let paths = &request.kubelet.paths;
    match check::source(volume)? {
        Source::HostPath { path, kind } => {
            hostpath::prepare(&path, &kind)?;
            Ok(Mounted { path, read_only })
        }
        Source::Local(path) => {
            let ours = LocalPath::of(volume).filter(|l| l.node == request.kubelet.node_name);
            let source = match &ours {
                Some(folder) => local_path::ensure(paths, folder)?,
                None => path,
            };
            let context = request.pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
            let policy = context.and_then(|c| c.fs_group_change_policy.as_deref());
            let wanted = Local {
                name,
                source: &source,
                read_only,
                group: request.fs_group(),
                only_on_mismatch: policy == Some("OnRootMismatch"),
            };
            let path = local::set_up(paths, &request.key.uid, &wanted)?;
            Ok(Mounted { path, read_only })
        }
    }
}

fn record_path(request: &Request<'_>) -> PathBuf {
    request.kubelet.paths.pod(&request.key.uid).join(RECORDS).join(format!("{}.json", request.volume.name))
}

/// What was mounted for this volume, if it is still.
fn recorded(request: &Request<'_>) -> Option<Mounted> {
    let text = std::fs::read(record_path(request)).ok()?;
    let mounted: Mounted = serde_json::from_slice(&text).ok()?;
    // What lies in the pod's directory is a mount, which a restart of the host ends.
    let own = mounted.path.starts_with(request.kubelet.paths.pod(&request.key.uid));
    (!own || mounts::is_mount_point(&mounted.path)).then_some(mounted)
}

fn record(request: &Request<'_>, mounted: &Mounted) -> Result<(), String> {
    let path = record_path(request);
    let failed = |e: &dyn std::fmt::Display| format!("write {}: {e}", path.display());
    make_directory(path.parent().unwrap_or(&path), 0o750)?;
    let text = serde_json::to_vec(mounted).map_err(|e| failed(&e))?;
    write_atomically(&path, &text, 0o640).map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests;
