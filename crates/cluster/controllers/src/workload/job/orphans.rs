//! Pods whose Job is gone: nobody counts them any more, so they lose the finalizer (`syncOrphanPod`).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kinit_client::informer::{Change, Store, key_of, split_key};
use kinit_client::queue::Queue;
use kube::api::Api;
use kube::{Client, Resource, ResourceExt};

use super::sync::untrack;
use super::tally::is_tracked;
use crate::object::owner::controller_of;

/// What the loop holds.
pub struct Orphans {
    /// Acts as the controller.
    pub client: Client,
    /// All Jobs.
    pub jobs: Arc<Store<Job>>,
    /// All pods.
    pub pods: Arc<Store<Pod>>,
}

/// Whether the pod carries the finalizer and no Job of the store controls it.
fn is_orphan(pod: &Pod, jobs: &Store<Job>) -> bool {
    if !is_tracked(pod) {
        return false;
    }
    let Some(owner) = controller_of(pod) else { return true };
    if owner.kind != Job::kind(&()) || owner.api_version != Job::api_version(&()) {
        return false;
    }
    let key = format!("{}/{}", pod.namespace().unwrap_or_default(), owner.name);
    jobs.get(&key).is_none_or(|job| job.metadata.uid.as_ref() != Some(&owner.uid))
}

impl Orphans {
    /// Hooks `queue` up to Jobs and pods, both of which must have synced: a Job that was not listed yet is not gone.
    pub fn watch(&self, queue: &Arc<Queue<String>>) {
        let (jobs, on_pod) = (self.jobs.clone(), queue.clone());
        self.pods.on_change(move |change| {
            if !matches!(change, Change::Deleted(_)) && is_orphan(change.object(), &jobs) {
                on_pod.add(key_of(&**change.object()));
            }
        });
        let (pods, on_job) = (self.pods.clone(), queue.clone());
        self.jobs.on_change(move |change| {
            let gone = match change {
                Change::Deleted(job) => job,
                Change::Updated { old, new } if old.metadata.uid != new.metadata.uid => old,
                _ => return,
            };
            let mine = pods.controlled_by(gone.metadata.uid.as_deref().unwrap_or_default());
            mine.iter().filter(|p| is_tracked(p)).for_each(|p| on_job.add(key_of(&**p)));
        });
    }

    /// Looks at one pod.
    pub async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(pod) = self.pods.get(&key).filter(|p| is_orphan(p, &self.jobs)) else { return Ok(None) };
        let namespace = split_key(&key).0;
        if let Some(owner) = controller_of(&*pod) {
            // The watch of Jobs may be behind that of pods: only the API server's own answer makes a Job gone.
            let jobs: Api<Job> = Api::namespaced(self.client.clone(), namespace);
            let job = jobs.get_opt(&owner.name).await.with_context(|| format!("look for job {}", owner.name))?;
            if job.is_some_and(|job| job.metadata.uid.as_ref() == Some(&owner.uid)) {
                return Ok(None);
            }
        }
        untrack(&Api::namespaced(self.client.clone(), namespace), &pod).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn who_is_an_orphan() {
        let jobs = Store::<Job>::new();
        let job = json!({"metadata": {"name": "j", "namespace": "n", "uid": "now"}});
        jobs.apply(serde_json::from_value(job).unwrap());
        let owner = |api: &str, kind: &str, uid: &str| json!([{"apiVersion": api, "kind": kind, "name": "j", "uid": uid, "controller": true}]);
        for (owners, finalizers, expected) in [
            (json!([]), json!([super::super::FINALIZER]), true),
            (json!([]), json!(["other"]), false),
            (owner("batch/v1", "Job", "now"), json!([super::super::FINALIZER]), false),
            (owner("batch/v1", "Job", "earlier"), json!([super::super::FINALIZER]), true),
            (owner("example.com/v1", "Job", "x"), json!([super::super::FINALIZER]), false),
        ] {
            let meta: Value =
                json!({"name": "p", "namespace": "n", "ownerReferences": owners, "finalizers": finalizers});
            let pod: Pod = serde_json::from_value(json!({"metadata": meta})).unwrap();
            assert_eq!(is_orphan(&pod, &jobs), expected, "{owners} {finalizers}");
        }
    }
}
