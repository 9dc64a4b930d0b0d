//! Pods from the API: a watch of those that are bound to this node.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kinit_client::Rewatch;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use super::manager::Manager;
use super::mirror::Mirrors;
use super::worker::Wanted;
use super::writer::Writer;
use crate::names;

/// Follows the API for ever; `ready` is cancelled after the first list.
pub async fn run(
    client: Client,
    node: String,
    manager: Manager,
    mirrors: Mirrors,
    writer: Writer,
    ready: CancellationToken,
) {
    let api: Api<Pod> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut events = pin!(kube::runtime::watcher(api, config).backoff(Rewatch::default()));
    let mut first: Vec<Pod> = Vec::new();
    let mut mirror_uids: HashMap<String, String> = HashMap::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => first.clear(),
            Ok(Event::InitApply(pod)) => first.push(pod),
            Ok(Event::InitDone) => {
                let mut listed: BTreeSet<String> = BTreeSet::new();
                first.sort_by_key(turn);
                for pod in std::mem::take(&mut first) {
                    held(&pod, &writer);
                    listed.extend(take(pod, &manager, &mirrors, &mut mirror_uids));
                }
                for uid in manager.uids(false) {
                    if !listed.contains(&uid) {
                        manager.removed(&uid);
                    }
                }
                mirrors.synced();
                ready.cancel();
            }
            Ok(Event::Apply(pod)) => {
                held(&pod, &writer);
                take(pod, &manager, &mirrors, &mut mirror_uids);
            }
            Ok(Event::Delete(pod)) => {
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                if mirror_uids.remove(&uid).is_some() {
                    mirrors.lost(&pod);
                } else {
                    manager.removed(&uid);
                }
            }
            Err(error) => tracing::warn!(%error, "watch pods"),
        }
    }
}

/// In which order the pods of a list are taken: those that run have their room, then the oldest come first.
fn turn(pod: &Pod) -> (bool, bool, Option<Time>) {
    let status = pod.status.as_ref();
    let runs = status.is_some_and(|s| s.phase.as_deref() == Some("Running"));
    let started = status.is_some_and(|s| s.start_time.is_some());
    (!runs, !started, pod.metadata.creation_timestamp.clone())
}

/// Tells the writer what the API holds; a mirror goes by the uid of its static pod.
fn held(pod: &Pod, writer: &Writer) {
    let mirrored = pod.metadata.annotations.as_ref().and_then(|a| a.get(names::CONFIG_MIRROR));
    if let Some(key) = mirrored.or(pod.metadata.uid.as_ref()) {
        writer.held(key, pod);
    }
}

/// Hands a pod on; the uid of an ordinary one.
fn take(pod: Pod, manager: &Manager, mirrors: &Mirrors, mirror_uids: &mut HashMap<String, String>) -> Option<String> {
    let uid = pod.metadata.uid.clone()?;
    if let Some(hash) = pod.metadata.annotations.as_ref().and_then(|a| a.get(names::CONFIG_MIRROR)) {
        mirror_uids.insert(uid, hash.clone());
        mirrors.seen(pod);
        return None;
    }
    manager.want(
        &uid,
        Wanted { pod: Arc::new(pod), removed: false, api_uid: Some(uid.clone()), is_static: false, evicted: None },
    );
    Some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_runs_comes_before_what_is_new() {
        let pod = |name: &str, made: &str, status: serde_json::Value| -> Pod {
            let meta = json!({"name": name, "creationTimestamp": made});
            serde_json::from_value(json!({"metadata": meta, "status": status})).unwrap()
        };
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let mut pods = [
            pod("new", late, json!({"phase": "Pending"})),
            pod("old", early, json!({"phase": "Pending"})),
            pod("begun", late, json!({"phase": "Pending", "startTime": late})),
            pod("runs", late, json!({"phase": "Running", "startTime": late})),
        ];
        pods.sort_by_key(turn);
        let names: Vec<_> = pods.iter().filter_map(|p| p.metadata.name.as_deref()).collect();
        assert_eq!(names, ["runs", "begun", "old", "new"]);
    }
}
