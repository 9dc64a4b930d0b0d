//! Whether a pod may run here. What this kubelet will not run is refused at once instead of half-done ([`admit`]); the
//! rest has to fit beside the pods that were admitted before it (`fit`, decided under the ledger's lock).

use k8s_openapi::api::core::v1::{Pod, PodSpec, VolumeMount};
use kinit_cri::Runtime;
use kinit_cri::v1::StatusRequest;

use crate::volumes;

pub mod claim;
pub mod fit;
pub mod placement;
pub mod preempt;

/// What the host and its runtime can do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host {
    /// The kernel enforces AppArmor profiles.
    pub apparmor: bool,
    /// The runtime honours `supplementalGroupsPolicy: Strict`.
    pub strict_groups: bool,
    /// The runtime makes mounts read-only with all below them.
    pub recursive_read_only: bool,
}

impl Host {
    /// Asks both; a runtime that does not answer can do nothing special.
    pub async fn look(runtime: &Runtime) -> Self {
        let answer = runtime.status(StatusRequest { verbose: false }).await.unwrap_or_default();
        // What a runtime calls "" is its default handler.
        let handler = answer.runtime_handlers.iter().find(|h| h.name.is_empty());
        let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        Self {
            apparmor: enabled.is_ok_and(|t| t.starts_with('Y')),
            strict_groups: answer.features.is_some_and(|f| f.supplemental_groups_policy),
            recursive_read_only: handler.and_then(|h| h.features).is_some_and(|f| f.recursive_read_only_mounts),
        }
    }
}

/// Refuses a pod: (reason, message) of its Failed status.
pub fn admit(pod: &Pod, host: &Host) -> Result<(), (String, String)> {
    let Some(spec) = &pod.spec else { return refuse("InvalidPod", "the pod has no spec") };
    if let Some(message) = volumes::unsupported(pod) {
        return refuse("UnsupportedVolume", &message);
    }
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return refuse("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS");
    }
    let os = pod.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/os"));
    if os.is_some_and(|os| os != "linux") {
        return refuse(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        );
    }
    let unsupported = [
        (spec.host_users == Some(false), "hostUsers: false (user namespaces)"),
        (spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty()), "resourceClaims"),
    ];
    if let Some((_, what)) = unsupported.iter().find(|(asked, _)| *asked) {
        return refuse("UnsupportedFeature", &format!("{what} is not supported by this kubelet"));
    }
    security(spec, host)?;
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        if container.restart_policy_rules.iter().flatten().any(|rule| rule.action != "Restart") {
            let message = format!(
                "restartPolicyRules of container {}: only the action Restart is supported by this kubelet",
                container.name
            );
            return refuse("UnsupportedFeature", &message);
        }
        if container.volume_devices.as_ref().is_some_and(|d| !d.is_empty()) {
            return refuse(
                "UnsupportedFeature",
                &format!("volumeDevices of container {} are not supported by this kubelet", container.name),
            );
        }
        let wants_all = |m: &VolumeMount| m.recursive_read_only.as_deref() == Some("Enabled");
        if !host.recursive_read_only && container.volume_mounts.iter().flatten().any(wants_all) {
            return refuse(
                "UnsupportedFeature",
                &format!("recursiveReadOnly of container {} is not supported by the container runtime", container.name),
            );
        }
    }
    Ok(())
}

/// What only some hosts enforce must not be passed over (`pkg/security/apparmor`, `kuberuntime:
/// supplementalGroupsPolicy`, `pkg/kubelet/sysctl`).
fn security(spec: &PodSpec, host: &Host) -> Result<(), (String, String)> {
    let context = spec.security_context.clone().unwrap_or_default();
    let profiles = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .filter_map(|c| c.security_context.as_ref()?.app_armor_profile.as_ref())
        .chain(&context.app_armor_profile);
    if !host.apparmor && profiles.into_iter().any(|p| p.type_ != "Unconfined") {
        return refuse("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host");
    }
    if !host.strict_groups && context.supplemental_groups_policy.as_deref() == Some("Strict") {
        return refuse(
            "SupplementalGroupsPolicyNotSupported",
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        );
    }
    let on_host = (spec.host_network == Some(true), spec.host_ipc == Some(true));
    match context.sysctls.iter().flatten().find(|s| !sysctl_allowed(&s.name, on_host)) {
        Some(sysctl) => refuse("SysctlForbidden", &format!("forbidden sysctl: {:?} not allowlisted", sysctl.name)),
        None => Ok(()),
    }
}

/// The safe ones, as far as the pod has the namespace they belong to (`pkg/kubelet/sysctl/safe_sysctls.go`).
fn sysctl_allowed(name: &str, (host_network, host_ipc): (bool, bool)) -> bool {
    const NETWORK: [&str; 11] = [
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
    ];
    let name = name.replace('/', ".");
    (name == "kernel.shm_rmid_forced" && !host_ipc) || (NETWORK.contains(&name.as_str()) && !host_network)
}

fn refuse(reason: &str, message: &str) -> Result<(), (String, String)> {
    Err((reason.to_owned(), message.to_owned()))
}

#[cfg(test)]
mod fit_tests;
#[cfg(test)]
mod tests;
