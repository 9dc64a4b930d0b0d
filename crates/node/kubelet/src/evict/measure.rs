//! Levels of the node and use of its pods.

use k8s_openapi::api::core::v1::{Container, Pod};
use kinit_cri::v1::{ContainerStats, ListContainerStatsRequest};

use super::rank::{Candidate, Level, Levels, Signal};
use crate::image_gc;
use crate::kubelet::Kubelet;
use crate::names::{self, PodKey};
use crate::node::facts;
use crate::quantity::units_of;
use crate::volumes::limit;

/// What is left of everything that may run short. What cannot be measured is left out.
pub async fn levels(kubelet: &Kubelet) -> Levels {
    let mut out = Levels::new();
    let level = |available: i128, total: i128| Level { available, total };
    if let Some(available) = facts::meminfo("MemAvailable") {
        out.insert(Signal::Memory, level(available.into(), kubelet.node_memory.into()));
    }
    let mut disk = |path: &std::path::Path, bytes, inodes| match facts::disk(path) {
        Ok((total, free, all, left)) => {
            out.insert(bytes, level(free.into(), total.into()));
            out.insert(inodes, level(left.into(), all.into()));
        }
        Err(error) => tracing::warn!(error = format!("{error:#}"), "measure a file system"),
    };
    disk(&kubelet.paths.root, Signal::NodeFs, Signal::NodeFsInodes);
    match image_gc::file_system(&kubelet.runtime).await {
        Ok(path) => disk(&path, Signal::ImageFs, Signal::ImageFsInodes),
        Err(error) => tracing::debug!(error, "find the file system of images"),
    }
    if let Some((now, most)) = facts::pids() {
        out.insert(Signal::Pid, level((most - now).into(), most.into()));
    }
    out
}

/// How much of what runs short each pod uses and asked for.
pub async fn candidates(kubelet: &Kubelet, signal: Signal, pods: Vec<Pod>) -> Result<Vec<Candidate>, String> {
    let answer = kubelet.runtime.list_container_stats(ListContainerStatsRequest::default()).await;
    let stats = answer.map_err(|e| e.to_string())?.stats;
    let mut out = Vec::with_capacity(pods.len());
    for pod in pods {
        let key = PodKey::of(&pod);
        let mut candidate = Candidate {
            priority: pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0),
            uid: key.uid.clone(),
            ..Candidate::default()
        };
        for container in containers(&pod) {
            let found = stats.iter().find(|s| is_of(s, &key.uid, &container.name));
            let (usage, request) = (found.map_or(0, |s| usage(signal, s)), request(signal, container));
            candidate.usage += usage;
            candidate.request += request;
            candidate.containers.insert(container.name.clone(), (usage, request));
        }
        match signal {
            Signal::NodeFs => candidate.usage += volumes(kubelet, &pod, &key).await,
            Signal::Pid => candidate.usage = kubelet.cgroups.processes(&pod, &key).unwrap_or(0).into(),
            _ => {}
        }
        out.push(candidate);
    }
    Ok(out)
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers))
}

fn is_of(stats: &ContainerStats, uid: &str, name: &str) -> bool {
    let label = |key: &str| stats.attributes.as_ref().and_then(|a| a.labels.get(key)).map_or("", String::as_str);
    label(names::POD_UID) == uid && label(names::CONTAINER_NAME) == name
}

fn usage(signal: Signal, stats: &ContainerStats) -> i128 {
    let layer = stats.writable_layer.as_ref();
    let value = match signal {
        Signal::Memory => stats.memory.as_ref().and_then(|m| m.working_set_bytes.as_ref()),
        Signal::NodeFs | Signal::ImageFs => layer.and_then(|l| l.used_bytes.as_ref()),
        Signal::NodeFsInodes | Signal::ImageFsInodes => layer.and_then(|l| l.inodes_used.as_ref()),
        Signal::Pid => None,
    };
    value.map_or(0, |v| v.value.into())
}

fn request(signal: Signal, container: &Container) -> i128 {
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    match signal {
        Signal::Memory | Signal::NodeFs | Signal::ImageFs => units_of(requests, signal.resource()).unwrap_or(0).into(),
        _ => 0,
    }
}

/// Bytes of logs and of volumes on disk.
async fn volumes(kubelet: &Kubelet, pod: &Pod, key: &PodKey) -> i128 {
    let mut places = vec![kubelet.paths.log_directory(key)];
    let on_disk = |v: &&k8s_openapi::api::core::v1::Volume| {
        v.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref() != Some("Memory"))
    };
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter(on_disk);
    places.extend(volumes.map(|v| kubelet.paths.volume(&key.uid, "kubernetes.io/empty-dir", &v.name)));
    let sum = tokio::task::spawn_blocking(move || places.iter().map(|p| i128::from(limit::usage(p))).sum());
    sum.await.unwrap_or(0)
}
