//! Image garbage collection (`pkg/kubelet/images/image_gc_manager.go`): when the images' file system fills, those that
//! were not used for longest go, and those that nobody used for `imageMaximumGCAge`. Images the runtime calls pinned
//! never do.

pub mod plan;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kinit_component_base::Shutdown;
use kinit_cri::Runtime;
use kinit_cri::v1::{ImageFsInfoRequest, ImageSpec, ListContainersRequest, ListImagesRequest, RemoveImageRequest};
use parking_lot::Mutex;

use crate::kubelet::Kubelet;
use crate::node::facts;
use plan::{Disk, Image, Limits, Records};

/// Nothing tells when a disk fills (upstream's `ImageGCPeriod`).
const EVERY: Duration = Duration::from_secs(300);

/// Collects for ever.
pub async fn run(kubelet: Arc<Kubelet>, shutdown: Shutdown) {
    loop {
        if let Err(error) = kubelet.images.collect(&kubelet).await {
            tracing::warn!(error, "collect images");
            kubelet.events.node(&kubelet.node_name, true, "ImageGCFailed", error);
        }
        tokio::select! { () = shutdown.cancelled() => return, () = tokio::time::sleep(EVERY) => {} }
    }
}

/// What is known of the node's images.
#[derive(Debug, Default)]
pub struct Collector(Mutex<Records>);

impl Collector {
    /// Frees what the thresholds ask for.
    async fn collect(&self, kubelet: &Kubelet) -> Result<(), String> {
        let (disk, limits) = (disk(&kubelet.runtime).await?, limits(kubelet));
        let images = images(&kubelet.runtime).await?;
        let plan = self.0.lock().plan(&images, disk, &limits, Instant::now());
        let freed = self.remove(&kubelet.runtime, plan.remove).await;
        if freed < plan.wanted {
            let (short, percent) = (plan.wanted, limits.high);
            return Err(format!(
                "Failed to garbage collect required amount of images. Attempted to free {short} bytes, but only found {freed} bytes eligible to free (imageGCHighThresholdPercent {percent})"
            ));
        }
        Ok(())
    }

    /// Removes all images that nobody uses, because disk space is wanted badly; bytes that were freed.
    pub async fn remove_unused(&self, runtime: &Runtime) -> Result<u64, String> {
        let images = images(runtime).await?;
        let unused = images.into_iter().filter(Image::is_free).map(|i| (i.id, i.size)).collect();
        Ok(self.remove(runtime, unused).await)
    }

    async fn remove(&self, runtime: &Runtime, ids: Vec<(String, u64)>) -> u64 {
        let mut freed = 0;
        for (id, size) in ids {
            let spec = ImageSpec { image: id.clone(), ..Default::default() };
            match runtime.remove_image(RemoveImageRequest { image: Some(spec) }).await {
                Ok(_) => {
                    tracing::info!(image = id, size, "removed an image that nobody uses");
                    self.0.lock().forget(&id);
                    freed += size;
                }
                Err(error) => tracing::warn!(image = id, %error, "remove an image"),
            }
        }
        freed
    }
}

fn limits(kubelet: &Kubelet) -> Limits {
    let config = &kubelet.config;
    Limits {
        high: config.image_gc_high_threshold_percent.unwrap_or(85),
        low: config.image_gc_low_threshold_percent.unwrap_or(80),
        youngest: config.image_minimum_gc_age,
        oldest: Some(config.image_maximum_gc_age).filter(|age| !age.is_zero()),
    }
}

/// Where images are.
pub async fn file_system(runtime: &Runtime) -> Result<PathBuf, String> {
    let answer = runtime.image_fs_info(ImageFsInfoRequest {}).await.map_err(|e| e.to_string())?;
    let found = answer.image_filesystems.into_iter().find_map(|f| f.fs_id).map(|id| id.mountpoint);
    found.map(PathBuf::from).ok_or_else(|| "the runtime names no file system for images".to_owned())
}

async fn disk(runtime: &Runtime) -> Result<Disk, String> {
    let path = file_system(runtime).await?;
    let (total, free, _, _) = facts::disk(&path).map_err(|e| format!("{e:#}"))?;
    Ok(Disk { total, free })
}

async fn images(runtime: &Runtime) -> Result<Vec<Image>, String> {
    // Containers first: one that is made in between holds an image that is seen as new, and too young to go.
    let containers =
        runtime.list_containers(ListContainersRequest::default()).await.map_err(|e| e.to_string())?.containers;
    let mut used: BTreeSet<String> = BTreeSet::new();
    for container in containers {
        used.extend(container.image.map(|i| i.image));
        used.extend([container.image_ref, container.image_id]);
    }
    let listed = runtime.list_images(ListImagesRequest::default()).await.map_err(|e| e.to_string())?.images;
    Ok(listed
        .into_iter()
        .map(|i| {
            let mut names = i.repo_tags.iter().chain(&i.repo_digests).chain([&i.id]).cloned();
            let is_used = names.any(|n| used.contains(&n));
            Image { used: is_used, pinned: i.pinned, size: i.size, id: i.id.clone() }
        })
        .collect())
}
