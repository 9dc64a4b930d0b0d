//! The actions of a resize: the pod's cgroup and the limits of containers that run.

use k8s_openapi::api::core::v1::Pod;
use kinit_cri::v1::{ContainerStatsFilter, ListContainerStatsRequest, UpdateContainerResourcesRequest};

use super::resize::{Change, Resize};
use crate::kubelet::Kubelet;
use crate::names::PodKey;

/// Makes room, changes containers, takes back what is not needed any more.
pub async fn enforce(kubelet: &Kubelet, pod: &Pod, key: &PodKey, resize: &Resize) -> Result<(), String> {
    let set = |limits| kubelet.cgroups.set(pod, key, limits);
    set(resize.lift).await.map_err(|e| format!("raise the limits of the pod's cgroup: {e:#}"))?;
    for change in &resize.changes {
        if change.lowers_memory {
            check(kubelet, change).await?;
        }
        let request = UpdateContainerResourcesRequest {
            container_id: change.id.clone(),
            linux: Some(change.to.message()),
            ..Default::default()
        };
        kubelet
            .runtime
            .update_container_resources(request)
            .await
            .map_err(|e| format!("resize container {}: {}", change.name, e.message()))?;
    }
    match resize.settle {
        Some(limits) => set(limits).await.map_err(|e| format!("set the limits of the pod's cgroup: {e:#}")),
        None => Ok(()),
    }
}

/// A limit below what is in use would kill the container.
async fn check(kubelet: &Kubelet, change: &Change) -> Result<(), String> {
    let filter = Some(ContainerStatsFilter { id: change.id.clone(), ..Default::default() });
    let answer = kubelet.runtime.list_container_stats(ListContainerStatsRequest { filter }).await;
    let stats = answer.map_err(|e| format!("measure container {}: {}", change.name, e.message()))?.stats;
    let usage = stats.first().and_then(|s| s.memory.as_ref()?.working_set_bytes.as_ref()).map_or(0, |v| v.value);
    match change.to.memory {
        Some(limit) if i128::from(usage) >= i128::from(limit) => Err(format!(
            "attempting to set the memory limit of container {} ({limit}) below current usage ({usage})",
            change.name
        )),
        _ => Ok(()),
    }
}
