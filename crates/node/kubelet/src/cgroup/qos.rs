//! What all pods get together, and what the burstable ones get of it (`pkg/kubelet/cm: enforceNodeAllocatableCgroups`,
//! `qos_container_manager_linux.go`).
//!
//! ```text
//! kubepods             memory, CPU shares and process ids that are not reserved (enforceNodeAllocatable: pods)
//!   burstable          CPU shares: the requests of all burstable pods, as they come and go
//!   besteffort         the fewest shares there are
//! ```

use std::sync::Arc;
use std::time::Duration;

use kinit_component_base::Shutdown;
use kinit_component_helpers::qos::Qos;

use crate::config::KubeletConfig;
use crate::kubelet::Kubelet;
use crate::node::capacity;
use crate::node::facts::{self, Machine};
use crate::pod::admit::claim::Claim;
use crate::quantity;
use crate::resources::{self, PodLimits};

/// Limits that the kernel refuses are tried again after this; the classes are set anew as often, should somebody have
/// changed them.
const EVERY: Duration = Duration::from_secs(60);

/// Limits of the cgroup of all pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Top {
    /// CPU shares and memory.
    pub limits: PodLimits,
    /// Process ids.
    pub pids: Option<i64>,
}

/// The limits of `kubepods`: what is not reserved, or all there is when nothing is to be enforced. `pids` is the most
/// process ids the kernel gives.
pub fn top(config: &KubeletConfig, machine: &Machine, pids: Option<i64>) -> Top {
    let enforced = config.enforces_pods();
    let nothing = KubeletConfig::default();
    let have = capacity::unreserved(if enforced { config } else { &nothing }, machine);
    let reserved = || {
        let lists = [&config.system_reserved, &config.kube_reserved];
        lists.iter().filter_map(|l| l.get("pid").and_then(|q| quantity::units(q))).sum::<i64>()
    };
    Top {
        limits: PodLimits { shares: resources::shares(have.cpu), quota: None, memory: i64::try_from(have.memory).ok() },
        pids: pids.map(|most| if enforced { (most - reserved()).max(1) } else { most }),
    }
}

/// CPU shares of the class of burstable pods.
pub fn burstable_shares(claims: &[Claim]) -> i64 {
    resources::shares(claims.iter().filter(|c| c.qos == Qos::Burstable).map(|c| c.asked.cpu).sum())
}

/// The limits of this node.
pub fn top_of(config: &KubeletConfig, machine: &Machine) -> Top {
    top(config, machine, facts::pids().map(|(_, most)| most))
}

/// Keeps the cgroups right for ever.
pub async fn run(kubelet: Arc<Kubelet>, shutdown: Shutdown) {
    let moved = kubelet.ledger.moved();
    let top = top_of(&kubelet.config, &kubelet.machine);
    let (mut limited, mut reported) = (false, false);
    loop {
        if !limited {
            limited = limit(&kubelet, &top, &mut reported).await;
        }
        let shares = burstable_shares(&kubelet.ledger.granted());
        for (class, shares) in [(Qos::Burstable, shares), (Qos::BestEffort, resources::MIN_SHARES)] {
            if let Err(error) = kubelet.cgroups.set_class(class, shares).await {
                tracing::warn!(class = class.name(), error = format!("{error:#}"), "set the shares of a class of pods");
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = moved.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Whether the limits of all pods hold now. Pods that use more have to be evicted first.
async fn limit(kubelet: &Kubelet, top: &Top, reported: &mut bool) -> bool {
    match kubelet.cgroups.set_top(top).await {
        Ok(()) => {
            let note = "Updated Node Allocatable limit across pods";
            kubelet.events.node(&kubelet.node_name, false, "NodeAllocatableEnforced", note);
            true
        }
        Err(error) => {
            let note = format!("Failed to update Node Allocatable Limits: {error:#}");
            if !std::mem::replace(reported, true) {
                kubelet.events.node(&kubelet.node_name, true, "FailedNodeAllocatableEnforcement", note);
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Cgroups;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn node(enforce: &[&str]) -> (KubeletConfig, Machine) {
        let mut config = KubeletConfig::defaults();
        config.kube_reserved = [("cpu".to_owned(), "500m".to_owned()), ("pid".to_owned(), "100".to_owned())].into();
        config.system_reserved = [("memory".to_owned(), "1Gi".to_owned())].into();
        config.enforce_node_allocatable = Some(enforce.iter().map(|s| (*s).to_owned()).collect());
        (config, Machine { cpus: 2, memory: 4 << 30, ..Machine::default() })
    }

    #[test]
    fn what_is_reserved_is_kept_from_pods() {
        // The eviction threshold is not taken off: the kubelet acts before the kernel.
        for (enforce, shares, memory, pids) in [(&["pods"][..], 1536, 3 << 30, 900), (&["none"], 2048, 4 << 30, 1000)] {
            let (config, machine) = node(enforce);
            let top = top(&config, &machine, Some(1000));
            assert_eq!((top.limits.shares, top.limits.memory, top.pids), (shares, Some(memory), Some(pids)));
            assert_eq!(top.limits.quota, None);
        }
    }

    fn claim(resources: serde_json::Value) -> Claim {
        let pod = json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": resources}]}});
        Claim::of(&serde_json::from_value::<Pod>(pod).unwrap())
    }

    #[test]
    fn burstable_pods_share_what_they_ask_for() {
        let burstable = || claim(json!({"requests": {"cpu": "500m"}}));
        let guaranteed = claim(json!({"limits": {"cpu": "1", "memory": "1Gi"}}));
        assert_eq!(burstable_shares(&[]), 2);
        assert_eq!(burstable_shares(&[guaranteed, burstable(), claim(json!({})), burstable()]), 1024);
    }

    /// Against the kernel, in a cgroup of the test's own.
    #[tokio::test]
    async fn the_kernel_has_them() {
        let root = format!("kinit-test-{}", std::process::id());
        let cgroups = Cgroups::new(false, &root, None);
        let (config, machine) = node(&["pods"]);
        cgroups.create_top(&top(&config, &machine, None)).await.unwrap();
        cgroups.set_class(Qos::Burstable, 1024).await.unwrap();
        let read = |v1: (&str, &str), v2: &str, path: &str| -> String {
            let base = std::path::Path::new("/sys/fs/cgroup");
            let base = if crate::cgroup::fs::is_v2() { base.to_owned() } else { base.join(v1.0) };
            let file = if crate::cgroup::fs::is_v2() { v2 } else { v1.1 };
            let file = base.join(format!("{root}/{path}/{file}"));
            std::fs::read_to_string(&file).unwrap_or_else(|e| format!("{}: {e}", file.display())).trim().to_owned()
        };
        let memory = read(("memory", "memory.limit_in_bytes"), "memory.max", "kubepods");
        let shares = |path: &str| read(("cpu", "cpu.shares"), "cpu.weight", path);
        let seen = (memory, shares("kubepods/burstable"), shares("kubepods/besteffort"));
        crate::cgroup::fs::remove(std::path::Path::new(&format!("/{root}"))).unwrap();
        let weight = |shares: i64| {
            if crate::cgroup::fs::is_v2() { crate::cgroup::fs::weight(shares).to_string() } else { shares.to_string() }
        };
        assert_eq!(seen, ((3u64 << 30).to_string(), weight(1024), weight(2)));
    }
}
