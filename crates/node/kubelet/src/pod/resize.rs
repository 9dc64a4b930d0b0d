//! In-place resize: from what a pod's spec asks for, over what the node grants, to what the kernel enforces. No IO.
//!
//! ```text
//! spec.resources ─ grant (does it fit?) ─▶ allocated ─ enforce ─▶ the pod's cgroup, containers that run
//! ```
//!
//! Follows KEP-1287 (`pkg/kubelet/allocation`, `kuberuntime_manager.doPodResizeAction`). The allocation is kept in the
//! pod's directory; everything else of the kubelet sees pods with their allocated resources only.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container as Spec, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::jiff::Timestamp;

use super::memory::{Memory, RESIZE};
use super::observe::{Container, Life, Observed};
use super::policy::is_sidecar;
use super::step::{Action, Step};
use crate::quantity::milli_of;
use crate::resources::{self, Kernel, PodLimits};

/// Resources by container name; `""` stands for the pod's own.
pub type Allocation = BTreeMap<String, ResourceRequirements>;

fn each(spec: &mut PodSpec) -> impl Iterator<Item = &mut Spec> {
    spec.init_containers.iter_mut().flatten().chain(&mut spec.containers)
}

/// What a pod's spec asks for.
pub fn of(pod: &Pod) -> Allocation {
    let Some(spec) = &pod.spec else { return Allocation::new() };
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut out: Allocation = containers.map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default())).collect();
    out.extend(spec.resources.clone().map(|r| (String::new(), r)));
    out
}

/// The pod as it would be had it always asked for what it was granted.
pub fn with(pod: &Pod, allocation: &Allocation) -> Pod {
    let mut pod = pod.clone();
    let Some(spec) = &mut pod.spec else { return pod };
    for container in each(spec) {
        if let Some(resources) = allocation.get(&container.name) {
            container.resources = Some(resources.clone());
        }
    }
    if let Some(resources) = allocation.get("") {
        spec.resources = Some(resources.clone());
    }
    pod
}

/// A change of limits, in the order in which it is made: `lift`, `changes`, `settle`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resize {
    /// The pod's cgroup gets room for what was and what is to be.
    pub lift: PodLimits,
    /// Containers that run.
    pub changes: Vec<Change>,
    /// The pod's cgroup gets what it is to have; not while a container with more waits for its restart.
    pub settle: Option<PodLimits>,
}

/// One container's change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it is to have.
    pub to: Kernel,
    /// Its memory gets less: not below what it uses.
    pub lowers_memory: bool,
}

/// What a running container has and is to have, when they differ.
fn difference(container: &Spec, status: &Container, memory: &Memory) -> Option<(Kernel, Kernel)> {
    let (has, to) = (status.kernel?, Kernel::wanted(container));
    let given = memory.given.get(&status.id);
    (has != to && given != Some(&to)).then_some((has, to))
}

/// Whether a difference needs a restart by the container's `resizePolicy`.
pub fn needs_restart(container: &Spec, status: &Container, memory: &Memory) -> bool {
    let Some((has, to)) = difference(container, status, memory) else { return false };
    let cpu = has.shares != to.shares || has.quota != to.quota;
    let touches = |resource: &str| match resource {
        "cpu" => cpu,
        "memory" => has.memory != to.memory,
        _ => false,
    };
    let policies = container.resize_policy.iter().flatten();
    policies.filter(|p| p.restart_policy == "RestartContainer").any(|p| touches(&p.resource_name))
}

/// Containers whose limits follow the pod's: those that run beside each other.
fn resizable(pod: &Pod) -> impl Iterator<Item = &Spec> {
    let spec = pod.spec.as_ref();
    let sidecars = spec.into_iter().flat_map(|s| s.init_containers.iter().flatten()).filter(|c| is_sidecar(c));
    sidecars.chain(spec.into_iter().flat_map(|s| &s.containers))
}

/// Running containers with their specs.
fn running<'a>(pod: &'a Pod, seen: &'a Observed) -> impl Iterator<Item = (&'a Spec, &'a Container)> {
    resizable(pod).filter_map(|c| Some((c, seen.latest(&c.name).filter(|s| s.life == Life::Running)?)))
}

/// Whether anything is still to be enforced.
pub fn in_progress(pod: &Pod, seen: &Observed, memory: &Memory) -> bool {
    memory.resizing || running(pod, seen).any(|(c, s)| difference(c, s, memory).is_some())
}

/// Asks for the change of limits that is due.
pub fn enforce(pod: &Pod, seen: &Observed, memory: &Memory, now: Timestamp, out: &mut Step) {
    if memory.resizing {
        return;
    }
    let Some(have) = memory.limits else { return };
    let target = resources::pod(pod);
    let (mut changes, mut restarting) = (Vec::new(), false);
    for (container, status) in running(pod, seen) {
        let Some((has, to)) = difference(container, status, memory) else { continue };
        if needs_restart(container, status, memory) {
            restarting = true;
            continue;
        }
        let lowers_memory = to.memory.is_some_and(|m| has.memory.is_none_or(|h| m < h));
        changes.push(Change { id: status.id.clone(), name: container.name.clone(), to, lowers_memory });
    }
    let lift = have.with(target);
    let settle = (!restarting).then_some(target);
    if changes.is_empty() && lift == have && settle.is_none_or(|s| s == have) {
        return;
    }
    match memory.failures.get(RESIZE) {
        Some(failure) if failure.until > now => out.wake_at(failure.until),
        _ => out.actions.push(Action::Resize(Resize { lift, changes, settle })),
    }
}

/// What a container has, as its status shows it: the allocation, with what the kernel enforces where that differs
/// (`kubelet_pods.go: convertContainerStatusResources`).
pub fn shown(container: &Spec, kernel: Option<Kernel>) -> ResourceRequirements {
    let mut out = container.resources.clone().unwrap_or_default();
    out.claims = None;
    let Some(has) = kernel else { return out };
    let wanted = Kernel::wanted(container);
    let quantity = |text: String| k8s_openapi::apimachinery::pkg::api::resource::Quantity(text);
    let cpu = |milli: i64| quantity(if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") });
    if has.quota != wanted.quota {
        let limits = out.limits.get_or_insert_default();
        match has.quota {
            Some(quota) => limits.insert("cpu".into(), cpu(quota / 100)),
            None => limits.remove("cpu"),
        };
    }
    if has.memory != wanted.memory {
        let limits = out.limits.get_or_insert_default();
        match has.memory {
            Some(bytes) => limits.insert("memory".into(), quantity(bytes.to_string())),
            None => limits.remove("memory"),
        };
    }
    if has.shares != wanted.shares && milli_of(out.requests.as_ref(), "cpu").is_some() {
        let milli = (has.shares * 1000 + 1023) / 1024;
        out.requests.get_or_insert_default().insert("cpu".into(), cpu(milli));
    }
    out
}

#[cfg(test)]
mod tests;
