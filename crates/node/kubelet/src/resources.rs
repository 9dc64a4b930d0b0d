//! From a pod's requests and limits to what the kernel gets: QoS class, CPU shares and quota, memory, OOM score.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use kinit_component_helpers::qos::{self, Qos};
use kinit_cri::v1::LinuxContainerResources;

use crate::quantity::{milli_of, units_of};

/// The fewest CPU shares the kernel takes.
pub const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const PERIOD: i64 = 100_000;
const MIN_QUOTA: i64 = 1000;

/// All containers that count for resources.
fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

type List<'a> = Option<&'a std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>;

fn lists(resources: Option<&ResourceRequirements>) -> (List<'_>, List<'_>) {
    (resources.and_then(|r| r.requests.as_ref()), resources.and_then(|r| r.limits.as_ref()))
}

/// CPU shares of a request in thousandths of a core (`cm.MilliCPUToShares`).
pub fn shares(milli: i128) -> i64 {
    if milli == 0 {
        return MIN_SHARES;
    }
    i64::try_from(milli * 1024 / 1000).unwrap_or(MAX_SHARES).clamp(MIN_SHARES, MAX_SHARES)
}

/// CPU quota per 100 ms of a limit in thousandths of a core (`cm.MilliCPUToQuota`); 0 means none.
pub fn quota(milli: i128) -> i64 {
    if milli == 0 {
        return 0;
    }
    i64::try_from(milli * i128::from(PERIOD) / 1000).unwrap_or(i64::MAX).max(MIN_QUOTA)
}

/// What the kernel enforces on a container, `None` where it has no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// CPU shares.
    pub shares: i64,
    /// CPU quota per 100 ms in microseconds.
    pub quota: Option<i64>,
    /// Memory in bytes.
    pub memory: Option<i64>,
}

impl Kernel {
    /// What a container is to have.
    pub fn wanted(container: &Container) -> Self {
        let (requests, limits) = lists(container.resources.as_ref());
        let cpu_limit = milli_of(limits, "cpu").filter(|m| *m > 0);
        // Without a request the limit stands in for it.
        let cpu_request = milli_of(requests, "cpu").or(cpu_limit).unwrap_or(0);
        Self {
            shares: shares(cpu_request),
            quota: cpu_limit.map(quota),
            memory: units_of(limits, "memory").filter(|m| *m > 0),
        }
    }

    /// What the runtime says a container has; `None` when it says nothing.
    pub fn reported(linux: &LinuxContainerResources) -> Option<Self> {
        let some = |v: i64| Some(v).filter(|v| *v > 0);
        let quota = some(linux.cpu_quota).map(|q| q * PERIOD / some(linux.cpu_period).unwrap_or(PERIOD));
        (linux.cpu_shares > 0).then(|| Self {
            shares: linux.cpu_shares,
            quota,
            memory: some(linux.memory_limit_in_bytes),
        })
    }

    /// The message that changes a container that runs; what has no limit any more is told so.
    pub fn message(self) -> LinuxContainerResources {
        LinuxContainerResources {
            cpu_period: PERIOD,
            cpu_quota: self.quota.unwrap_or(-1),
            cpu_shares: self.shares,
            memory_limit_in_bytes: self.memory.unwrap_or(-1),
            memory_swap_limit_in_bytes: self.memory.unwrap_or(-1),
            ..Default::default()
        }
    }
}

/// A container's share of the kernel.
pub fn container(pod: &Pod, container: &Container, node_memory: i64) -> LinuxContainerResources {
    let wanted = Kernel::wanted(container);
    LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: wanted.quota.unwrap_or(0),
        cpu_shares: wanted.shares,
        memory_limit_in_bytes: wanted.memory.unwrap_or(0),
        memory_swap_limit_in_bytes: wanted.memory.unwrap_or(0),
        oom_score_adj: oom_score(pod, container, node_memory),
        ..Default::default()
    }
}

/// `pkg/kubelet/qos.GetContainerOOMScoreAdjust`.
pub fn oom_score(pod: &Pod, container: &Container, node_memory: i64) -> i64 {
    let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    if priority >= 2_000_000_000 {
        return -997;
    }
    match qos::of_pod(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let (requests, limits) = lists(container.resources.as_ref());
            let request = units_of(requests, "memory").or_else(|| units_of(limits, "memory")).unwrap_or(0);
            let score = 1000 - (1000i128 * i128::from(request) / i128::from(node_memory.max(1)));
            i64::try_from(score).unwrap_or(0).clamp(3, 999)
        }
    }
}

/// Limits of the cgroup that holds all of a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PodLimits {
    /// CPU shares.
    pub shares: i64,
    /// CPU quota per 100 ms; none when any container has none.
    pub quota: Option<i64>,
    /// Memory; none when any container has none.
    pub memory: Option<i64>,
}

impl PodLimits {
    /// Room for both: the larger of each.
    pub fn with(self, other: Self) -> Self {
        Self {
            shares: self.shares.max(other.shares),
            quota: self.quota.zip(other.quota).map(|(a, b)| a.max(b)),
            memory: self.memory.zip(other.memory).map(|(a, b)| a.max(b)),
        }
    }
}

/// CPU in thousandths and memory in bytes that a pod asks for (`resourcehelper.PodRequests`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// CPU in thousandths.
    pub cpu: i128,
    /// Memory in bytes.
    pub memory: i128,
}

/// What a pod asks for.
pub fn asked(pod: &Pod) -> Asked {
    Asked { cpu: asked_of(pod, "cpu"), memory: asked_of(pod, "memory") / 1000 }
}

/// What a pod asks for of one resource, in thousandths. A limit stands in for a request that is not given, as the API
/// defaults it.
pub fn asked_of(pod: &Pod, resource: &str) -> i128 {
    let Some(spec) = &pod.spec else { return 0 };
    let request = |resources: Option<&ResourceRequirements>| {
        let (requests, limits) = lists(resources);
        milli_of(requests, resource).or_else(|| milli_of(limits, resource))
    };
    let sum = || total(spec, |c| Some(request(c.resources.as_ref()).unwrap_or(0)));
    let own = milli_of(lists(spec.resources.as_ref()).0, resource).or_else(sum).unwrap_or(0);
    own.saturating_add(milli_of(spec.overhead.as_ref(), resource).unwrap_or(0))
}

/// Names of all resources that a pod asks for.
pub fn names(spec: &PodSpec) -> BTreeSet<String> {
    let all = containers(spec).map(|c| c.resources.as_ref()).chain([spec.resources.as_ref()]);
    let lists = all.flat_map(|resources| {
        let (requests, limits) = lists(resources);
        [requests, limits]
    });
    lists.chain([spec.overhead.as_ref()]).flatten().flat_map(|list| list.keys().cloned()).collect()
}

/// `cm.ResourceConfigForPod`: sums over containers and sidecars, at least what any init container needs, plus overhead.
pub fn pod(pod: &Pod) -> PodLimits {
    let Some(spec) = &pod.spec else { return PodLimits { shares: MIN_SHARES, ..PodLimits::default() } };
    let cpu_request = total(spec, |c| {
        let (requests, limits) = lists(c.resources.as_ref());
        Some(milli_of(requests, "cpu").or_else(|| milli_of(limits, "cpu")).unwrap_or(0))
    });
    let limit = |resource: &str| {
        let level = milli_of(lists(spec.resources.as_ref()).1, resource);
        level.or_else(|| total(spec, |c| milli_of(lists(c.resources.as_ref()).1, resource).filter(|v| *v > 0)))
    };
    let overhead = |resource: &str| milli_of(spec.overhead.as_ref(), resource).unwrap_or(0);
    let request = milli_of(lists(spec.resources.as_ref()).0, "cpu").or(cpu_request).unwrap_or(0) + overhead("cpu");
    PodLimits {
        shares: shares(request),
        quota: limit("cpu").map(|m| quota(m + overhead("cpu"))),
        memory: limit("memory").and_then(|m| i64::try_from((m + overhead("memory")) / 1000).ok()),
    }
}

/// Total of a figure; `None` as soon as one container has none.
fn total(spec: &PodSpec, figure: impl Fn(&Container) -> Option<i128>) -> Option<i128> {
    let mut steady = 0;
    for container in &spec.containers {
        steady += figure(container)?;
    }
    let (mut sidecars, mut peak) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        let value = figure(container)?;
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars += value;
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + value);
        }
    }
    Some(peak.max(steady + sidecars))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(containers: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p"}, "spec": {"containers": containers}}))
            .unwrap()
    }

    #[test]
    fn figures_for_the_kernel() {
        assert_eq!((shares(100), shares(0), shares(1_000_000_000)), (102, 2, 262_144));
        assert_eq!((quota(500), quota(1), quota(0)), (50_000, 1000, 0));
        let pod = made(serde_json::json!([
            {"name": "a", "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "64Mi"}}},
            {"name": "b", "resources": {"requests": {"cpu": "200m"}}}]));
        let limits = super::pod(&pod);
        assert_eq!((limits.shares, limits.quota, limits.memory), (307, None, None));
    }
}
