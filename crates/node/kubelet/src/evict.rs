//! Node-pressure eviction (`pkg/kubelet/eviction`): when memory, disk or process ids run short, unused images go first
//! where that helps, then one pod at a time.
//!
//! ```text
//! measure ─▶ rank::crossed ─▶ Pressure (what the node's conditions and admission read)
//!                 └─▶ disk: remove what is unused ─▶ still crossed? ─▶ rank::first ─▶ its worker ends it: Evicted
//! ```

pub mod measure;
pub mod rank;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, Taint};
use kinit_component_base::Shutdown;
use kinit_component_helpers::pod::is_active;
use kinit_component_helpers::qos::{self, Qos};
use kinit_component_helpers::taints::is_tolerated;
use parking_lot::Mutex;

use crate::kubelet::Kubelet;
use crate::pod::manager::Manager;
use crate::pod::worker::Eviction;
use rank::{Crossed, Signal};

/// Levels are looked at this often, as upstream does.
const EVERY: Duration = Duration::from_secs(10);
/// A pod that was told to go gets this long to be gone before the next is told.
const PATIENCE: Duration = Duration::from_secs(30);
/// From this priority on a pod is critical (`scheduling.SystemCriticalPriority`).
const CRITICAL: i32 = 2_000_000_000;

/// Conditions of the node and when their signals were last seen crossed.
#[derive(Debug, Default)]
pub struct Pressure(Mutex<BTreeMap<&'static str, Instant>>);

impl Pressure {
    fn note(&self, crossed: &[Crossed]) {
        let now = Instant::now();
        self.0.lock().extend(crossed.iter().map(|(signal, ..)| (signal.condition(), now)));
    }

    /// Conditions that hold: they go `lasting` after the last time their signal was crossed, so that they do not flap.
    pub fn conditions(&self, lasting: Duration) -> Vec<&'static str> {
        self.0.lock().iter().filter(|(_, seen)| seen.elapsed() < lasting).map(|(condition, _)| *condition).collect()
    }
}

/// Critical pods are neither evicted nor refused (`types.IsCriticalPod`).
pub fn is_critical(pod: &Pod) -> bool {
    let annotation = |name: &str| pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(name));
    let from_file =
        pod.metadata.annotations.as_ref().and_then(|a| a.get(crate::names::CONFIG_SOURCE)).is_some_and(|s| s != "api");
    let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    from_file || annotation(crate::names::CONFIG_MIRROR) || priority >= CRITICAL
}

/// Whether a pod may come to a node under pressure: (reason, message) of its Failed status (`managerImpl.Admit`).
pub fn admit(pod: &Pod, conditions: &[&str]) -> Result<(), (String, String)> {
    if conditions.is_empty() || is_critical(pod) {
        return Ok(());
    }
    let only_memory = conditions.iter().all(|c| *c == "MemoryPressure");
    let pressure = Taint {
        key: "node.kubernetes.io/memory-pressure".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let tolerates = || is_tolerated(&pressure, tolerations);
    if only_memory && (qos::of_pod(pod) != Qos::BestEffort || tolerates()) {
        return Ok(());
    }
    Err(("Evicted".to_owned(), format!("The node had condition: [{}]. ", conditions.join(" "))))
}

/// Watches over the node for ever.
pub async fn run(kubelet: Arc<Kubelet>, manager: Manager, shutdown: Shutdown) {
    loop {
        tokio::select! { () = shutdown.cancelled() => return, () = tokio::time::sleep(EVERY) => {} }
        let reported = match once(&kubelet, &manager).await {
            Ok(reported) => reported,
            Err(error) => {
                tracing::warn!(error, "look for pressure on the node");
                None
            }
        };
        let Some(uid) = reported else { continue };
        tokio::select! { () = shutdown.cancelled() => return, _ = tokio::time::timeout(PATIENCE, kubelet.ledger.gone(&uid)) => {} }
    }
}

/// One look; the pod that was told to go.
async fn once(kubelet: &Arc<Kubelet>, manager: &Manager) -> Result<Option<String>, String> {
    let thresholds = &kubelet.config.eviction_hard;
    let crossed = rank::crossed(&measure::levels(kubelet).await, thresholds);
    kubelet.pressure.note(&crossed);
    if crossed.is_empty() {
        return Ok(None);
    }
    for (signal, limit, level) in &crossed {
        let (signal, available) = (signal.name(), level.available);
        tracing::warn!(signal, limit, available, "the node runs short");
    }
    kubelet.events.node(&kubelet.node_name, true, "EvictionThresholdMet", attempt(&crossed));
    let crossed = if crossed.iter().any(|(signal, ..)| signal.condition() == "DiskPressure") {
        let freed = kubelet.images.remove_unused(&kubelet.runtime).await?;
        tracing::info!(freed, "removed unused images");
        rank::crossed(&measure::levels(kubelet).await, thresholds)
    } else {
        crossed
    };
    let Some(worst) = crossed.first() else { return Ok(None) };
    evict(kubelet, manager, worst).await
}

fn attempt(crossed: &[Crossed]) -> String {
    let resource = crossed.first().map_or("", |(signal, ..)| signal.resource());
    format!("Attempting to reclaim {resource}")
}

async fn evict(kubelet: &Arc<Kubelet>, manager: &Manager, worst: &Crossed) -> Result<Option<String>, String> {
    let pods: Vec<Pod> = manager.pods().into_iter().filter(|p| is_active(p) && !is_critical(p)).collect();
    let candidates = measure::candidates(kubelet, worst.0, pods).await?;
    let Some(chosen) = rank::first(worst.0, &candidates) else {
        tracing::warn!(signal = worst.0.name(), "no pod can be evicted");
        return Ok(None);
    };
    let message = rank::message(worst, chosen);
    tracing::info!(uid = chosen.uid, message, "evict a pod");
    kubelet.metrics.evicted(worst.0.name());
    // Upstream's immediateEvictionGracePeriodSeconds: what is short cannot wait for preStop hooks.
    let disruption = message.clone();
    manager.evict(&chosen.uid, Eviction { reason: "Evicted", message, disruption, grace: Some(1) });
    Ok(Some(chosen.uid.clone()))
}

/// Refuses thresholds that nobody would look at.
pub fn check(thresholds: &BTreeMap<String, String>) -> Result<(), String> {
    for (name, text) in thresholds {
        if !Signal::ALL.iter().any(|s| s.name() == name) {
            return Err(format!("evictionHard: {name:?} is not a signal of this kubelet"));
        }
        if rank::threshold(text, 100).is_none_or(|limit| limit < 0) {
            return Err(format!("evictionHard: {name}: {text:?} is neither an amount nor a share"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_may_come_under_pressure() {
        let pod = |spec: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
        };
        let best_effort = json!({"containers": [{"name": "c"}]});
        let burstable = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
        let critical = json!({"priority": 2_000_001_000, "containers": [{"name": "c"}]});
        let tolerant = json!({"containers": [{"name": "c"}],
            "tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"}]});
        for (spec, conditions, ok) in [
            (&best_effort, &[][..], true),
            (&best_effort, &["MemoryPressure"], false),
            (&burstable, &["MemoryPressure"], true),
            (&tolerant, &["MemoryPressure"], true),
            (&burstable, &["DiskPressure"], false),
            (&burstable, &["DiskPressure", "MemoryPressure"], false),
            (&tolerant, &["PIDPressure"], false),
            (&critical, &["DiskPressure"], true),
        ] {
            assert_eq!(admit(&pod(spec.clone()), conditions).is_ok(), ok, "{spec} {conditions:?}");
        }
    }

    #[test]
    fn thresholds_are_checked() {
        for (name, text, ok) in [
            ("memory.available", "100Mi", true),
            ("nodefs.available", "10%", true),
            ("memory.free", "1Mi", false),
            ("memory.available", "much", false),
        ] {
            assert_eq!(check(&[(name.to_owned(), text.to_owned())].into()).is_ok(), ok, "{name} {text}");
        }
    }
}
