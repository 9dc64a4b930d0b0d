//! The actions that bring a pod down (`kuberuntime_container.go: killContainer`).

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;

use super::hooks;
use crate::kubelet::Kubelet;

/// Even when a preStop hook took all the time, the container gets this much to end by itself.
const LEAST: i64 = 2;

/// A runtime that cannot stop a container now may be able to in a moment.
const TRIES: u32 = 5;

/// Ends a container: event, preStop hook, stop signal, SIGKILL.
pub async fn kill(kubelet: &Kubelet, pod: &Pod, name: &str, id: &str, message: &str, grace: i64, pod_ip: Option<&str>) {
    kubelet.events.pod(pod, Some(name), false, "Killing", message);
    let begun = Instant::now();
    let spec = pod
        .spec
        .iter()
        .flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()))
        .find(|c| c.name == name);
    if let Some(spec) = spec
        && let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
        && grace > 0
    {
        let deadline = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        match tokio::time::timeout(deadline, hooks::run(kubelet, hook, spec, id, pod_ip)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                kubelet.events.pod(pod, Some(name), true, "FailedPreStopHook", format!("PreStopHook failed: {error}"))
            }
            Err(_) => tracing::warn!(container = name, grace, "the preStop hook took longer than the grace period"),
        }
    }
    let left =
        if grace == 0 { 0 } else { (grace - i64::try_from(begun.elapsed().as_secs()).unwrap_or(grace)).max(LEAST) };
    stop(kubelet, id, left).await;
}

/// Stops a container; one that is gone is stopped. Tries again for a while: asking the worker anew would run the
/// preStop hook once more.
pub async fn stop(kubelet: &Kubelet, id: &str, grace: i64) {
    let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
    let mut pause = Duration::from_secs(1);
    for _ in 0..TRIES {
        match kubelet.runtime.stop_container(id, grace).await {
            Ok(()) => return,
            Err(error) if error.is_not_found() => return,
            Err(error) => tracing::warn!(container = id, %error, "stop a container"),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}
