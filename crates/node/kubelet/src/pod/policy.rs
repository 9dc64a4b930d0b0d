//! Which containers are started again, and when a pod's work is done.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container as Spec, Pod};

use super::observe::{Life, Observed};

/// Whether an init container stays up beside the pod (a sidecar).
pub fn is_sidecar(container: &Spec) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Digest of the fields whose change replaces a running container (upstream: name and image).
pub fn hash(container: &Spec) -> String {
    let text = format!("{}\0{}", container.name, container.image.as_deref().unwrap_or(""));
    let digest = text.bytes().fold(0x811c_9dc5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    format!("{digest:x}")
}

/// Whether a container that ended is started again.
pub fn restarts(pod: &Pod, container: &Spec, exit_code: i32) -> bool {
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|v| *v == exit_code);
        let matches = if codes.operator == "In" { listed } else { !listed };
        if matches {
            return rule.action == "Restart";
        }
    }
    let pod_policy = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    match container.restart_policy.as_deref().or(pod_policy).unwrap_or("Always") {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// An ordinary init container is started again after a failure unless the pod never restarts.
pub fn init_restarts(pod: &Pod, container: &Spec) -> bool {
    let pod_policy = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    container.restart_policy.as_deref().or(pod_policy) != Some("Never")
}

/// Whether the pod's work is done for good: every container has ended and none is started again, or initialization
/// failed.
pub fn is_done(pod: &Pod, seen: &Observed, renewed: &BTreeSet<String>) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let failed_init = spec.init_containers.iter().flatten().filter(|c| !is_sidecar(c)).any(|c| {
        seen.latest(&c.name).is_some_and(|s| s.life == Life::Exited && s.exit_code != 0 && !init_restarts(pod, c))
    });
    let over = |c: &Spec| {
        seen.latest(&c.name)
            .is_some_and(|s| s.life == Life::Exited && !renewed.contains(&s.id) && !restarts(pod, c, s.exit_code))
    };
    let regular_running = spec.containers.iter().any(|c| seen.latest(&c.name).is_some_and(|s| s.life == Life::Running));
    (failed_init && !regular_running) || (!spec.containers.is_empty() && spec.containers.iter().all(over))
}

/// The pod's own grace period.
pub fn grace_of(pod: &Pod) -> i64 {
    pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30)
}
