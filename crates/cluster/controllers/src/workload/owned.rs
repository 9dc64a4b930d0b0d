//! The shape that all controllers of pods share.
//!
//! ```text
//! owner changes ──┐                       ┌─ owned pods ─▶ the kind's own plan ─┬─ create, delete (till seen)
//! pod changes  ───┴─▶ queue ─▶ sync(key) ─┘                                     └─ status
//! orphans that a selector matches
//! ```

use std::fmt::Debug;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kinit_client::informer::{Change, Store, key_of};
use kinit_client::queue::Queue;
use kube::api::{Api, PostParams};
use kube::core::{Selector, SelectorExt};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::expectations::Expectations;
use super::pods::{PodControl, brief, is_terminating, slow_start};
use super::written::Written;
use crate::context::Context;
use crate::object::owner::{claim_all, controller_of};
use crate::object::{ignore_gone, selector};

/// A kind whose controller keeps pods.
pub trait PodOwner:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// Which pods it owns or adopts.
    fn pod_selector(&self) -> Option<LabelSelector>;
}

/// What such a controller holds.
pub struct PodLoop<K> {
    /// Acts as the controller.
    pub client: Client,
    /// The owners.
    pub owners: Arc<Store<K>>,
    /// All pods.
    pub pods: Arc<Store<Pod>>,
    /// Writes pods and tells of it.
    pub control: PodControl,
    /// Keys of owners that are due.
    pub queue: Arc<Queue<String>>,
    expectations: Arc<Expectations>,
    /// Statuses that the store does not show yet.
    written: Written<K>,
}

impl<K: PodOwner> PodLoop<K> {
    /// Hooks the queue up to owners and pods and waits for the first lists. `account` is the controller's service
    /// account, `reporter` its name in events.
    pub async fn start(ctx: &Context, account: &str, reporter: &str) -> Result<Self> {
        let client = ctx.client(account).await?;
        let (owners, pods) = (ctx.store::<K>(), ctx.store::<Pod>());
        let (queue, expectations) = (Queue::new(), Arc::new(Expectations::default()));
        let (on_owner, seen) = (queue.clone(), expectations.clone());
        owners.on_change(move |change| {
            let key = key_of(&**change.object());
            if let Change::Deleted(_) = change {
                seen.forget(&key);
            }
            on_owner.add(key);
        });
        watch_pods(&pods, &owners, &queue, &expectations);
        owners.synced().await;
        pods.synced().await;
        let control = PodControl { client: client.clone(), recorder: ctx.recorder(client.clone(), reporter) };
        Ok(Self { client, owners, pods, control, queue, expectations, written: Written::default() })
    }

    /// The owner as the store has it, or as its status was written last.
    pub fn owner(&self, key: &str) -> Option<Arc<K>> {
        self.written.or_newer(key, self.owners.get(key))
    }

    /// The API of a namespace's objects of some kind.
    pub fn api<T: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self, owner: &K) -> Api<T> {
        Api::namespaced(self.client.clone(), &owner.namespace().unwrap_or_default())
    }

    /// Whether all that was asked for this owner has been seen: before that, its pods are not to be counted on.
    pub fn settled(&self, key: &str) -> bool {
        self.expectations.satisfied(key)
    }

    /// Adopts and releases; returns the pods the owner has now.
    pub async fn claim(&self, owner: &K) -> Result<Vec<Arc<Pod>>> {
        let selector = selector::of_workload(owner.pod_selector().as_ref())?;
        claim_all(&self.api::<K>(owner), owner, &selector, &self.api::<Pod>(owner), &self.pods)
            .await
            .context("claim pods")
    }

    /// Creates pods, in growing batches. What failed will not be waited for.
    pub async fn create(&self, key: &str, owner: &K, wanted: &[Pod]) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        self.expectations.expect_creations(key, wanted.len());
        let create = |i: usize| {
            let pod = wanted.get(i).cloned().unwrap_or_default();
            async move { self.control.create(owner, &pod).await }
        };
        let (done, untried, failure) = slow_start(wanted.len(), create).await;
        (done.len()..wanted.len()).for_each(|_| self.expectations.created(key));
        tracing::debug!(key, created = done.len(), untried, "created pods");
        match failure.filter(|e| !is_terminating(e)) {
            Some(error) => {
                let text = brief(&error);
                Err(error).with_context(|| format!("create pods: {text}"))
            }
            None => Ok(()),
        }
    }

    /// Deletes pods, all at once. Returns the first failure.
    pub async fn delete(&self, key: &str, owner: &K, pods: &[Arc<Pod>]) -> Result<()> {
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        pods.iter().for_each(|pod| self.expectations.expect_deletion(key, &uid(pod)));
        let results = futures::future::join_all(pods.iter().map(|pod| async move {
            let result = self.control.delete(owner, pod).await;
            if result.is_err() {
                self.expectations.deleted(key, &uid(pod));
            }
            result
        }))
        .await;
        results.into_iter().collect()
    }

    /// Writes `changed`'s status. An owner that is gone needs none.
    pub async fn write_status(&self, changed: &K) -> Result<()> {
        let api = self.api::<K>(changed);
        let written = ignore_gone(api.replace_status(&changed.name_any(), &PostParams::default(), changed).await);
        if let Some(written) = written.context("write the status")? {
            self.written.note(written);
        }
        Ok(())
    }
}

/// The key of the owner of kind `K` that controls the pod.
fn owner_key<K: PodOwner>(pod: &Pod) -> Option<String> {
    let owner = controller_of(pod).filter(|o| o.kind == K::kind(&()) && o.api_version == K::api_version(&()))?;
    Some(format!("{}/{}", pod.namespace().unwrap_or_default(), owner.name))
}

fn watch_pods<K: PodOwner>(
    pods: &Arc<Store<Pod>>,
    owners: &Arc<Store<K>>,
    queue: &Arc<Queue<String>>,
    seen: &Arc<Expectations>,
) {
    let (queue, owners, seen) = (queue.clone(), owners.clone(), seen.clone());
    pods.on_change(move |change| {
        let pod = change.object();
        let key = owner_key::<K>(pod);
        if let Some(old) = change.old().and_then(|old| owner_key::<K>(old))
            && Some(&old) != key.as_ref()
        {
            queue.add(old);
        }
        let Some(key) = key else {
            // An orphan: whoever's selector matches may adopt it.
            if controller_of(&**pod).is_none() && !matches!(change, Change::Deleted(_)) {
                let all = owners.in_namespace(&pod.namespace().unwrap_or_default());
                all.iter().filter(|o| matches(&***o, pod)).for_each(|o| queue.add(key_of(&**o)));
            }
            return;
        };
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let ending = pod.metadata.deletion_timestamp.is_some() || matches!(change, Change::Deleted(_));
        if ending {
            seen.deleted(&key, uid);
        } else if matches!(change, Change::Added(_)) {
            seen.created(&key);
        }
        queue.add(key);
    });
}

fn matches<K: PodOwner>(owner: &K, pod: &Pod) -> bool {
    selector::of_workload(owner.pod_selector().as_ref()).is_ok_and(|s: Selector| s.matches(pod.labels()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::DaemonSet;
    use serde_json::{Value, json};

    #[tokio::test]
    async fn pods_make_their_owners_due() {
        let (pods, sets) = (Store::<Pod>::new(), Store::<DaemonSet>::new());
        sets.apply(
            serde_json::from_value(json!({
                "metadata": {"name": "d", "namespace": "n", "resourceVersion": "1"},
                "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {}}
            }))
            .unwrap(),
        );
        let (queue, seen) = (Queue::new(), Arc::new(Expectations::default()));
        watch_pods(&pods, &sets, &queue, &seen);
        let owner =
            |kind: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": "d", "uid": "u", "controller": true}]);
        let pod = |name: &str, version: &str, owners: Value, ends: Option<&str>| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": version,
                "labels": {"a": "b"}, "ownerReferences": owners, "deletionTimestamp": ends}}),
            )
            .unwrap()
        };
        let due = async || {
            let was = !queue.is_empty();
            if was {
                let key: String = queue.next().await;
                queue.done(&key);
            }
            was
        };
        pods.apply(pod("orphan", "1", json!([]), None));
        assert!(due().await, "an orphan may be adopted");
        pods.apply(pod("other", "1", owner("Job"), None));
        assert!(!due().await, "another kind's");
        seen.expect_creations("n/d", 1);
        pods.apply(pod("mine", "1", owner("DaemonSet"), None));
        assert!(due().await && seen.satisfied("n/d"));
        seen.expect_deletion("n/d", "mine");
        pods.apply(pod("mine", "2", owner("DaemonSet"), Some("2026-01-01T00:00:00Z")));
        assert!(due().await && seen.satisfied("n/d"), "its deletion has begun");
        pods.apply(pod("mine", "3", json!([]), None));
        assert!(due().await, "released");
    }
}
