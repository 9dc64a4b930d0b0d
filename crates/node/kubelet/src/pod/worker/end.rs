//! When and how a pod ends: deleted, out of time, over a limit; and the last clean-up.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kinit_component_helpers::pod::is_over;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};

use super::act::perform;
use super::done::Done;
use super::{Round, Wanted, Worker};
use crate::pod::clean;
use crate::pod::observe::Observed;
use crate::pod::policy::grace_of;
use crate::pod::step::Intent;
use crate::volumes::limit;

/// Volumes with a limit are measured this often at most.
pub(super) const MEASURE: Duration = Duration::from_secs(10);

impl Worker {
    pub(super) fn intent(&self, wanted: &Wanted) -> Intent {
        let pod = &wanted.pod;
        let ended = is_over(self.last.as_ref());
        if wanted.removed || pod.metadata.deletion_timestamp.is_some() {
            return Intent::Terminate {
                grace: pod.metadata.deletion_grace_period_seconds.unwrap_or_else(|| grace_of(pod)),
            };
        }
        if let Some(eviction) = &self.disruption {
            return Intent::Terminate { grace: eviction.grace.unwrap_or_else(|| grace_of(pod)) };
        }
        if self.verdict.is_some() || ended { Intent::Terminate { grace: grace_of(pod) } } else { Intent::Run }
    }

    pub(super) fn deadline(&self, pod: &Pod) -> Option<Timestamp> {
        let seconds = pod.spec.as_ref().and_then(|s| s.active_deadline_seconds)?;
        let start = self.last.as_ref().and_then(|s| s.start_time.clone())?;
        start.0.checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    pub(super) fn check_deadline(&mut self, pod: &Pod, now: Timestamp) {
        let ended = is_over(self.last.as_ref());
        if self.verdict.is_none() && !ended && self.deadline(pod).is_some_and(|d| d <= now) {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.kubelet.events.pod(pod, None, false, "DeadlineExceeded", &message);
            self.verdict = Some(("DeadlineExceeded".into(), message));
        }
    }

    /// Measures emptyDir volumes that have a limit, now and then; nothing tells when a directory has grown.
    pub(super) fn check_sizes(&mut self, pod: &Pod) {
        let recently = self.measured.is_some_and(|m| m.elapsed() < MEASURE);
        if recently || self.verdict.is_some() || self.torn_down {
            return;
        }
        let limited = limit::limited(pod, &self.volumes);
        if limited.is_empty() {
            return;
        }
        self.measured = Some(tokio::time::Instant::now());
        perform(self.done.0.clone(), |_| Done::Exceeded(None), async move {
            let measured = tokio::task::spawn_blocking(move || limit::exceeded(&limited)).await;
            Done::Exceeded(measured.unwrap_or_else(|error| {
                tracing::error!(%error, "measure volumes");
                None
            }))
        });
    }

    /// The pod has ended and is to go: last status out, object deleted, everything removed.
    pub(super) async fn finish(&mut self, wanted: &Wanted, seen: &Observed) -> Round {
        if !wanted.removed
            && !wanted.is_static
            && let Some(client) = self.kubelet.client.clone()
        {
            if !self.kubelet.writer.flush(&self.key.uid, Duration::from_secs(30)).await {
                return Round::Again;
            }
            let api: Api<Pod> = Api::namespaced(client, &self.key.namespace);
            let preconditions = Some(Preconditions { uid: wanted.api_uid.clone(), resource_version: None });
            let params = DeleteParams { grace_period_seconds: Some(0), preconditions, ..Default::default() };
            match api.delete(&self.key.name, &params).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => {
                    tracing::warn!(pod = %self.key, %error, "delete the pod's object");
                    return Round::Wait(Timestamp::now().checked_add(SignedDuration::from_secs(2)).ok());
                }
            }
        }
        clean::everything(&self.kubelet, &self.key, seen).await;
        self.kubelet.writer.forget(&self.key.uid);
        tracing::info!(pod = %self.key, uid = self.key.uid, "the pod is gone");
        Round::End
    }
}
