//! Ending what runs in containerd, and the network state of pods.

use std::collections::BTreeSet;

use anyhow::{Context, Result, anyhow};
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    DeleteContainerRequest, DeleteImageRequest, DeleteTaskRequest, Image, KillRequest, ListContainersRequest,
    ListImagesRequest, WaitRequest,
};
use containerd_client::tonic::Request;
use containerd_client::with_namespace;

const SOCKET: &str = "/run/containerd/containerd.sock";
const NAMESPACE: &str = "k8s.io";
const KILL: u32 = 9;

/// Images of this name space are kinit's own, imported by it and by nobody else.
const OUR_IMAGES: &str = "kinit.dev/";

/// Kills and removes every container of Kubernetes, and kinit's images. Without a running containerd there is none.
pub(crate) async fn end_all() -> Result<()> {
    let Ok(channel) = containerd_client::connect(SOCKET).await else { return Ok(()) };
    let mut containers = ContainersClient::new(channel.clone());
    let mut tasks = TasksClient::new(channel.clone());
    let mut images = ImagesClient::new(channel);
    let request = ListContainersRequest::default();
    let list = containers
        .list(with_namespace!(request, NAMESPACE))
        .await
        .map_err(|s| anyhow!("{}", s.message()))
        .context("list containers")?;
    for container in list.into_inner().containers {
        let id = container.id;
        let request = KillRequest { container_id: id.clone(), signal: KILL, all: true, ..Default::default() };
        // A container without a task has nothing to kill.
        if tasks.kill(with_namespace!(request, NAMESPACE)).await.is_ok() {
            let request = WaitRequest { container_id: id.clone(), ..Default::default() };
            tasks.wait(with_namespace!(request, NAMESPACE)).await.ok();
        }
        let request = DeleteTaskRequest { container_id: id.clone() };
        tasks.delete(with_namespace!(request, NAMESPACE)).await.ok();
        let request = DeleteContainerRequest { id: id.clone() };
        let removed = containers.delete(with_namespace!(request, NAMESPACE)).await;
        removed.map_err(|s| anyhow!("{}", s.message())).with_context(|| format!("remove container {id}"))?;
    }
    let request = ListImagesRequest::default();
    let list = images
        .list(with_namespace!(request, NAMESPACE))
        .await
        .map_err(|s| anyhow!("{}", s.message()))
        .context("list images")?;
    let list = list.into_inner().images;
    // An image has records under its names and under its digest.
    let digest = |i: &Image| i.target.as_ref().map(|t| t.digest.clone());
    let ours: BTreeSet<_> = list.iter().filter(|i| i.name.starts_with(OUR_IMAGES)).map(digest).collect();
    for image in list.iter().filter(|i| ours.contains(&digest(i))) {
        let request = DeleteImageRequest { name: image.name.clone(), ..Default::default() };
        let removed = images.delete(with_namespace!(request, NAMESPACE)).await;
        removed.map_err(|s| anyhow!("{}", s.message())).with_context(|| format!("remove image {}", image.name))?;
    }
    Ok(())
}

/// The proxy and the pod network know best what they left: their own `--cleanup` takes it away.
pub(crate) async fn network() -> Result<()> {
    for program in ["/usr/local/bin/kube-proxy", "/usr/local/bin/kube-netd"] {
        if !std::path::Path::new(program).exists() {
            continue;
        }
        let output = tokio::process::Command::new(program)
            .arg("--cleanup")
            .output()
            .await
            .with_context(|| format!("start {program}"))?;
        if !output.status.success() {
            return Err(anyhow!("{program} --cleanup: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
    }
    Ok(())
}
