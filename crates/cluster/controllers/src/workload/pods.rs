//! Creation and deletion of pods for an owner, with upstream's events (`pkg/controller.RealPodControl`).

use std::future::Future;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kinit_client::events::Recorder;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Client, Resource, ResourceExt};

use crate::object::owner::controller_ref;
use crate::object::{ignore_gone, is_status};

/// Writes pods of one controller.
#[derive(Clone)]
pub struct PodControl {
    /// Acts as the controller.
    pub client: Client,
    /// Tells of it.
    pub recorder: Recorder,
}

/// A pod from an owner's template. Without a name it gets the owner's as prefix.
pub fn from_template<O: Resource<DynamicType = ()>>(template: &PodTemplateSpec, owner: &O) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(prefix(&owner.name_any())),
            namespace: owner.namespace(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_ref(owner)]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Names are at most 63 bytes long with the five random ones; what does not fit is cut as upstream's name generator
/// does.
fn prefix(name: &str) -> String {
    let mut name = name.to_owned();
    name.truncate(57);
    name.push('-');
    name
}

impl PodControl {
    fn api(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Creates a pod and tells of it on `owner`.
    pub async fn create<O: Resource<DynamicType = ()>>(&self, owner: &O, pod: &Pod) -> Result<Pod, kube::Error> {
        let namespace = owner.namespace().unwrap_or_default();
        match self.api(&namespace).create(&PostParams::default(), pod).await {
            Ok(created) => {
                self.recorder.normal(owner, "SuccessfulCreate", format!("Created pod: {}", created.name_any()));
                Ok(created)
            }
            Err(error) => {
                if !is_terminating(&error) {
                    self.recorder.warning(owner, "FailedCreate", format!("Error creating: {}", brief(&error)));
                }
                Err(error)
            }
        }
    }

    /// Deletes a pod and tells of it on `owner`. One that is gone already is no failure.
    pub async fn delete<O: Resource<DynamicType = ()>>(&self, owner: &O, pod: &Pod) -> Result<()> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
            ..Default::default()
        };
        match ignore_gone(self.api(&namespace).delete(&name, &params).await) {
            Ok(_) => {
                self.recorder.normal(owner, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(())
            }
            // Another of that name took its place.
            Err(error) if is_status(&error, 409) => Ok(()),
            Err(error) => {
                self.recorder.warning(owner, "FailedDelete", format!("Error deleting: {}", brief(&error)));
                Err(error).with_context(|| format!("delete pod {namespace}/{name}"))
            }
        }
    }
}

/// The namespace is on its way out: nothing is to be created there, and nothing to be told.
pub fn is_terminating(error: &kube::Error) -> bool {
    is_status(error, 403) && crate::service_accounts::default_account::gone(error)
}

/// The API server's message, or the error's text.
pub fn brief(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Calls `create` `count` times in batches of 1, 2, 4, ..., stopping after a batch with a failure: what fails for all
/// fails once. Returns how many succeeded, how many were not tried, and the first failure.
pub async fn slow_start<F, Fut, T>(count: usize, create: F) -> (Vec<T>, usize, Option<kube::Error>)
where
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Result<T, kube::Error>>,
{
    let (mut done, mut tried, mut batch) = (Vec::new(), 0, 1);
    while tried < count {
        let size = batch.min(count - tried);
        let results = futures::future::join_all((tried..tried + size).map(&create)).await;
        tried += size;
        let mut failure = None;
        for result in results {
            match result {
                Ok(value) => done.push(value),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if failure.is_some() {
            return (done, count - tried, failure);
        }
        batch *= 2;
    }
    (done, 0, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slow_start_stops_after_a_bad_batch() {
        let fail = |from: usize| {
            move |i: usize| async move { if i >= from { Err(kube::Error::LinesCodecMaxLineLengthExceeded) } else { Ok(i) } }
        };
        let (done, untried, failure) = slow_start(10, fail(100)).await;
        assert_eq!((done.len(), untried, failure.is_none()), (10, 0, true));
        let (done, untried, failure) = slow_start(10, fail(2)).await;
        assert_eq!((done.len(), untried, failure.is_some()), (2, 7, true));
        assert_eq!(slow_start(10, fail(0)).await.1, 9);
    }
}
