//! Actions, each a task of its own that reports back when it is through.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::Worker;
use super::done::Done;
use crate::pod::observe::Observed;
use crate::pod::start::{self, Start};
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
                tokio::spawn(async move {
                    let result = start::mount(&kubelet, &pod, &key, &ips, tokens).await;
                    let _ = done.send(Done::Mounted(result));
                });
            }
            Action::CreateSandbox { attempt } => {
                self.memory.creating_sandbox = true;
                tokio::spawn(async move {
                    let _ = done.send(Done::Sandbox(start::sandbox(&kubelet, &pod, &key, attempt).await));
                });
            }
            Action::StopSandbox { id } => {
                self.memory.stopping.insert(id.clone());
                tokio::spawn(async move {
                    let request = kinit_cri::v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
                    if let Err(error) = kubelet.runtime.stop_pod_sandbox(request).await {
                        tracing::warn!(pod = %key, %error, "stop the sandbox");
                        tokio::time::sleep(Duration::from_secs(2)).await;
                    }
                    let _ = done.send(Done::Stopped(id));
                });
            }
            Action::Start { container, attempt } => self.start(pod, seen, container, attempt, ips),
            Action::Resize(change) => {
                self.memory.resizing = true;
                tokio::spawn(async move {
                    let result = enforce::enforce(&kubelet, &pod, &key, &change).await;
                    let _ = done.send(Done::Resized(change, result));
                });
            }
            Action::Kill { id, container, message, grace, renew } => {
                if renew {
                    self.memory.renewed.insert(id.clone());
                }
                self.memory.killing.insert(id.clone(), grace);
                tokio::spawn(async move {
                    kill::kill(&kubelet, &pod, &container, &id, &message, grace, ips.first().map(String::as_str)).await;
                    let _ = done.send(Done::Killed(id));
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
        tokio::spawn(async move {
            let result = start::container(&kubelet, &pod, &key, &spec, &start).await;
            let _ = done.send(Done::Started(container, result));
        });
    }

    pub(super) fn tear_down(&mut self, pod: &Arc<Pod>) {
        self.tearing = true;
        self.probes.stop();
        let (kubelet, key, pod, done) = (self.kubelet.clone(), self.key.clone(), pod.clone(), self.done.0.clone());
        tokio::spawn(async move {
            let directory = kubelet.paths.pod(&key.uid);
            let result = tokio::task::spawn_blocking(move || {
                // Last words of containers stay readable until the pod is gone.
                crate::volumes::mounts::unmount_below(&directory)?;
                for part in ["volumes", "volume-subpaths"] {
                    let path = directory.join(part);
                    if path.exists() {
                        std::fs::remove_dir_all(&path).map_err(|e| format!("remove {}: {e}", path.display()))?;
                    }
                }
                Ok(())
            })
            .await
            .unwrap_or_else(|e| Err(e.to_string()));
            if let Err(error) = kubelet.cgroups.remove(&pod, &key).await {
                tracing::debug!(pod = %key, error = format!("{error:#}"), "remove the pod's cgroup");
            }
            let _ = done.send(Done::TornDown(result));
        });
    }
}
