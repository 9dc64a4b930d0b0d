//! What this kubelet will not run, said at once instead of half-done.

use k8s_openapi::api::core::v1::Pod;

use crate::volumes;

/// Refuses a pod: (reason, message) of its Failed status.
pub fn admit(pod: &Pod) -> Result<(), (String, String)> {
    let Some(spec) = &pod.spec else { return refuse("InvalidPod", "the pod has no spec") };
    if let Some(message) = volumes::unsupported(pod) {
        return refuse("UnsupportedVolume", &message);
    }
    if let Some(os) = spec.os.as_ref().filter(|os| os.name != "linux") {
        return refuse(
            "PodOSNotSupported",
            &format!("Failed to admit pod as the OS field doesn't match node OS: {}", os.name),
        );
    }
    let unsupported = [
        (spec.host_users == Some(false), "hostUsers: false (user namespaces)"),
        (spec.runtime_class_name.as_deref().is_some_and(|n| !n.is_empty()), "runtimeClassName"),
        (spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty()), "resourceClaims"),
    ];
    if let Some((_, what)) = unsupported.iter().find(|(asked, _)| *asked) {
        return refuse("UnsupportedFeature", &format!("{what} is not supported by this kubelet"));
    }
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
    }
    Ok(())
}

fn refuse(reason: &str, message: &str) -> Result<(), (String, String)> {
    Err((reason.to_owned(), message.to_owned()))
}
