//! Lets go of deleted volumes of the provisioner `kinit.dev/local-path` on this node: the folder first, then the
//! finalizer that says that it may be there.
//!
//! Upstream's kubelets know nothing of this, and upstream's API server does not let a kubelet see these volumes: the
//! watch then tries again now and then, and all else works.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use futures::StreamExt;
use k8s_openapi::api::core::v1::PersistentVolume;
use kinit_client::queue::Queue;
use kinit_component_base::{Shutdown, supervise};
use kinit_component_helpers::storage::LocalPath;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;

use super::local_path;
use crate::kubelet::Kubelet;

/// No answer within this is no answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Volumes to let go of, by name.
type Due = Arc<Mutex<HashMap<String, Arc<PersistentVolume>>>>;

/// Begins, and goes on until `shutdown`.
pub fn start(kubelet: &Arc<Kubelet>, client: Client, shutdown: &Shutdown) {
    // The provisioner makes no volumes for nodes whose name is no label's value.
    if !kinit_apimachinery::names::check_label_value(&kubelet.node_name).is_empty() {
        return;
    }
    let (due, queue) = (Due::default(), Queue::new());
    let watch = follow(client.clone(), kubelet.node_name.clone(), due.clone(), queue.clone(), shutdown.clone());
    supervise::vital("watch of local volumes", shutdown, watch);
    let (kubelet, stop) = (kubelet.clone(), shutdown.clone());
    let work = move |name: String| {
        let (kubelet, client, volume) = (kubelet.clone(), client.clone(), due.lock().get(&name).cloned());
        async move {
            if let Some(volume) = volume {
                let_go(&kubelet, &client, &volume).await?;
            }
            Ok(None)
        }
    };
    supervise::vital(
        "clean-up of local volumes",
        shutdown,
        async move { queue.run("local-path", 1, stop, work).await },
    );
}

async fn follow(client: Client, node: String, due: Due, queue: Arc<Queue<String>>, shutdown: Shutdown) {
    // The node authorizer lets a kubelet see those with its own node's name alone.
    let config = watcher::Config::default().labels(&format!("{}={node}", LocalPath::NODE));
    let mut events = pin!(watcher::watcher(Api::<PersistentVolume>::all(client), config).default_backoff());
    loop {
        let event = tokio::select! { () = shutdown.cancelled() => return, event = events.next() => event };
        match event {
            Some(Ok(Event::Apply(volume) | Event::InitApply(volume))) => {
                let name = volume.name_any();
                if LocalPath::is_due(&volume) {
                    due.lock().insert(name.clone(), Arc::new(volume));
                    queue.add(name);
                } else {
                    due.lock().remove(&name);
                }
            }
            Some(Ok(Event::Delete(volume))) => {
                due.lock().remove(&volume.name_any());
            }
            Some(Ok(Event::Init | Event::InitDone)) => {}
            Some(Err(error)) => tracing::debug!(%error, "watch local volumes"),
            None => return,
        }
    }
}

/// What is to be done about a folder.
#[derive(Debug, PartialEq, Eq)]
enum Folder {
    /// It goes.
    Remove(LocalPath),
    /// It stays where it is.
    Keep(LocalPath),
    /// There is none of ours: nothing but the finalizer goes.
    None,
}

/// Only a folder of the volume's own name, of a volume of the provisioner on this node, is ever removed.
fn folder_of(volume: &PersistentVolume, node: &str) -> Folder {
    match LocalPath::of(volume).filter(|l| l.node == node) {
        Some(folder) if LocalPath::deletes_data(volume) => Folder::Remove(folder),
        Some(folder) => Folder::Keep(folder),
        None => Folder::None,
    }
}

async fn let_go(kubelet: &Arc<Kubelet>, client: &Client, volume: &PersistentVolume) -> Result<()> {
    let name = volume.name_any();
    let folder = folder_of(volume, &kubelet.node_name);
    let paths = kubelet.paths.clone();
    let done = tokio::task::spawn_blocking(move || match &folder {
        Folder::Remove(folder) => local_path::remove(&paths, folder),
        Folder::Keep(folder) => local_path::forget(&paths, folder),
        Folder::None => Ok(()),
    });
    if let Err(error) = done.await.unwrap_or_else(|e| Err(e.to_string())) {
        kubelet.events.volume(volume, "VolumeFailedDelete", format!("remove the volume's folder: {error}"));
        return Err(anyhow!(error)).context("remove the folder of a deleted volume");
    }
    let change =
        json!({"metadata": {"uid": volume.uid(), "resourceVersion": volume.resource_version(), "finalizers": null}});
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let (params, patch) = (PatchParams::default(), Patch::Merge(change));
    let call = api.patch(&name, &params, &patch);
    match tokio::time::timeout(PATIENCE, call).await.context("no answer")? {
        Ok(_) => tracing::info!(volume = name, "let go of a deleted volume"),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error).with_context(|| format!("take the finalizer of volume {name} away")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_folder_goes() {
        let volume = |node: &str, path: &str, by: &str, policy: &str| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "v", "labels": {LocalPath::NODE: node},
                "annotations": {"pv.kubernetes.io/provisioned-by": by}},
                "spec": {"local": {"path": path}, "persistentVolumeReclaimPolicy": policy}}))
            .unwrap()
        };
        let (by, path) = (LocalPath::PROVISIONER, LocalPath::path("v"));
        let own = || LocalPath { name: "v".into(), node: "n1".into() };
        for (volume, expected) in [
            (volume("n1", &path, by, "Delete"), Folder::Remove(own())),
            (volume("n1", &path, by, "Retain"), Folder::Keep(own())),
            (volume("n2", &path, by, "Delete"), Folder::None),
            (volume("n1", "/etc", by, "Delete"), Folder::None),
            (volume("n1", "/var/lib/kinit/local-path/../../../etc", by, "Delete"), Folder::None),
            (volume("n1", &path, "example.com/p", "Delete"), Folder::None),
        ] {
            assert_eq!(folder_of(&volume, "n1"), expected, "{volume:?}");
        }
    }
}
