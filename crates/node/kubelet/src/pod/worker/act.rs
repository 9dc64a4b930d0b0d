//! Actions, each a task of its own that reports back when it is through.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kinit_component_base::supervise;
use tokio::sync::mpsc::UnboundedSender;

use super::Worker;
use super::done::Done;
use crate::pod::observe::Observed;
use crate::pod::start::{self, Start, StartError};
use crate::pod::step::Action;
use crate::pod::{enforce, ephemeral, kill};

impl Worker {
    pub(super) fn act(&mut self, pod: &Arc<Pod>, seen: &Observed, action: Action) {
        let (kubelet, key, pod, done) = (self.kubelet.clone(), self.key.clone(), pod.clone(), self.done.0.clone());
        let ips: Vec<String> = if pod.spec.as_ref().and_then(|s| s.host_network) == Some(true) {
            kubelet.host_ips.clone()
        } else {
            seen.sandbox().map(|s| s.ips.clone()).unwrap_or_default()
        };
        tracing::debug!(pod = %key, ?action, "act");
        match action {
            Action::MountVolumes => {
                self.memory.mounting = true;
                self.memory.limits = Some(crate::resources::pod(&pod));
                let tokens = self.tokens.clone();
                perform(done, |lost| Done::Mounted(Err(lost)), async move {
                    Done::Mounted(start::mount(&kubelet, &pod, &key, &ips, tokens).await)
                });
            }
            Action::CreateSandbox { attempt } => {
                self.memory.creating_sandbox = true;
                perform(done, |lost| Done::Sandbox(Err(lost)), async move {
                    Done::Sandbox(start::sandbox(&kubelet, &pod, &key, attempt).await)
                });
            }
            Action::StopSandbox { id } => {
                self.memory.stopping.insert(id.clone());
                let stopped = id.clone();
                perform(done, |_| Done::Stopped(stopped), async move {
                    let request = kinit_cri::v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
                    if let Err(error) = kubelet.runtime.stop_pod_sandbox(request).await {
                        tracing::warn!(pod = %key, %error, "stop the sandbox");
                        tokio::time::sleep(Duration::from_secs(2)).await;
                    }
                    Done::Stopped(id)
                });
            }
            Action::Start { container, attempt } => self.start(pod, seen, container, attempt, ips),
            Action::Resize(change) => {
                self.memory.resizing = true;
                let meant = change.clone();
                perform(done, |lost| Done::Resized(meant, Err(lost)), async move {
                    let result = enforce::enforce(&kubelet, &pod, &key, &change).await;
                    Done::Resized(change, result)
                });
            }
            Action::Kill { id, container, message, grace, renew } => {
                if renew {
                    self.memory.renewed.insert(id.clone());
                }
                self.memory.killing.insert(id.clone(), grace);
                let killed = id.clone();
                perform(done, |_| Done::Killed(killed), async move {
                    kill::kill(&kubelet, &pod, &container, &id, &message, grace, ips.first().map(String::as_str)).await;
                    Done::Killed(id)
                });
            }
        }
    }

    pub(super) fn start(&mut self, pod: Arc<Pod>, seen: &Observed, container: String, attempt: u32, ips: Vec<String>) {
        let Some(spec) = ephemeral::find(&pod, &container) else { return };
        let Some(sandbox) = seen.sandbox() else { return };
        if attempt > 0 {
            let now = Timestamp::now();
            self.memory.backoff.next(&container, now);
        }
        self.memory.starting.insert(container.clone());
        let start = Start {
            sandbox: sandbox.id.clone(),
            sandbox_attempt: sandbox.attempt,
            attempt,
            volumes: self.volumes.clone(),
            pod_ips: ips,
            ending: self.ending.clone(),
            target: ephemeral::target(&pod, &container).and_then(|t| seen.latest(&t).map(|c| c.id.clone())),
        };
        let (kubelet, key, done) = (self.kubelet.clone(), self.key.clone(), self.done.0.clone());
        let meant = container.clone();
        let lost =
            |message| Done::Started(meant, Err(StartError { reason: "CreateContainerError", message, created: false }));
        perform(done, lost, async move {
            let result = start::container(&kubelet, &pod, &key, &spec, &start).await;
            Done::Started(container, result)
        });
    }

    pub(super) fn tear_down(&mut self, pod: &Arc<Pod>) {
        self.tearing = true;
        self.probes.stop();
        let (kubelet, key, pod, done) = (self.kubelet.clone(), self.key.clone(), pod.clone(), self.done.0.clone());
        perform(done, |lost| Done::TornDown(Err(lost)), async move {
            let directory = kubelet.paths.pod(&key.uid);
            // Last words of containers stay readable until the pod is gone.
            let result = tokio::task::spawn_blocking(move || crate::volumes::take_down(&directory))
                .await
                .unwrap_or_else(|e| Err(e.to_string()));
            if let Err(error) = kubelet.cgroups.remove(&pod, &key).await {
                tracing::debug!(pod = %key, error = format!("{error:#}"), "remove the pod's cgroup");
            }
            Done::TornDown(result)
        });
    }
}

/// Does something in a task of its own and reports what came of it; `lost` makes the report when it panicked. Without
/// one the pod would wait for ever.
pub(super) fn perform(
    done: UnboundedSender<Done>,
    lost: impl FnOnce(String) -> Done + Send + 'static,
    work: impl Future<Output = Done> + Send + 'static,
) {
    tokio::spawn(async move {
        let report = supervise::outcome(work).await.unwrap_or_else(|panic| {
            tracing::error!(panic, "an action panicked");
            lost(format!("internal error: {panic}"))
        });
        // A worker that has ended needs no report.
        let _ = done.send(report);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_reported_as_a_failure() {
        let (sender, mut reports) = tokio::sync::mpsc::unbounded_channel();
        perform(sender, |lost| Done::Sandbox(Err(lost)), async { unreachable!("no such sandbox") });
        match reports.recv().await {
            Some(Done::Sandbox(Err(message))) => assert!(message.contains("no such sandbox"), "{message}"),
            _ => unreachable!("a sandbox that could not be made"),
        }
    }
}
