//! Security contexts: a container's over its pod's (`pkg/securitycontext`, `kuberuntime/security_context.go`).

use std::path::Path;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext,
};
use kinit_cri::v1::{
    self, Capability, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, SeLinuxOption, SecurityProfile, SupplementalGroupsPolicy, security_profile::ProfileType,
};

const MASKED: [&str; 13] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What an image says about its user.
#[derive(Debug, Clone, Default)]
pub struct ImageUser {
    /// Numeric user, if the image names one.
    pub uid: Option<i64>,
    /// User by name.
    pub name: String,
}

/// Namespaces a pod shares with its host.
pub fn namespaces(pod: &Pod) -> NamespaceOption {
    let spec = pod.spec.as_ref();
    let on = |flag: Option<bool>| flag == Some(true);
    let node = |flag: Option<bool>| if on(flag) { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = if on(spec.and_then(|s| s.host_pid)) {
        NamespaceMode::Node
    } else if on(spec.and_then(|s| s.share_process_namespace)) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    NamespaceOption {
        network: node(spec.and_then(|s| s.host_network)) as i32,
        ipc: node(spec.and_then(|s| s.host_ipc)) as i32,
        pid: pid as i32,
        ..Default::default()
    }
}

/// The sandbox's part.
pub fn sandbox(pod: &Pod, seccomp_default: bool, seccomp_root: &Path) -> LinuxSandboxSecurityContext {
    let spec = pod.spec.as_ref();
    let context = spec.and_then(|s| s.security_context.clone()).unwrap_or_default();
    let privileged = spec
        .iter()
        .flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()))
        .any(|c| c.security_context.as_ref().and_then(|c| c.privileged) == Some(true));
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        selinux_options: context.se_linux_options.as_ref().map(selinux),
        run_as_user: context.run_as_user.map(|value| Int64Value { value }),
        run_as_group: context.run_as_group.filter(|_| context.run_as_user.is_some()).map(|value| Int64Value { value }),
        supplemental_groups: groups(&context),
        supplemental_groups_policy: groups_policy(&context),
        privileged,
        seccomp: Some(seccomp(
            context.seccomp_profile.as_ref(),
            privileged,
            seccomp_default || !privileged,
            seccomp_root,
        )),
        ..Default::default()
    }
}

fn groups(context: &PodSecurityContext) -> Vec<i64> {
    context.supplemental_groups.iter().flatten().copied().chain(context.fs_group).collect()
}

fn groups_policy(context: &PodSecurityContext) -> i32 {
    match context.supplemental_groups_policy.as_deref() {
        Some("Strict") => SupplementalGroupsPolicy::Strict as i32,
        _ => SupplementalGroupsPolicy::Merge as i32,
    }
}

/// A container's part; an error says why the container may not run as it asks to.
pub fn container(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
    seccomp_default: bool,
    seccomp_root: &Path,
) -> Result<LinuxContainerSecurityContext, String> {
    let over = pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(over.run_as_user);
    if own.run_as_non_root.or(over.run_as_non_root) == Some(true) {
        check_non_root(user, image, container)?;
    }
    let privileged = own.privileged == Some(true);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let list = |paths: &[&str]| if unmasked { Vec::new() } else { paths.iter().map(|p| (*p).to_owned()).collect() };
    let app_armor = own.app_armor_profile.as_ref().or(over.app_armor_profile.as_ref());
    Ok(LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(capabilities),
        privileged,
        namespace_options: Some(namespaces(pod)),
        selinux_options: own.se_linux_options.as_ref().or(over.se_linux_options.as_ref()).map(selinux),
        run_as_user: user.or_else(|| image.uid.filter(|_| image.name.is_empty())).map(|value| Int64Value { value }),
        run_as_group: own.run_as_group.or(over.run_as_group).map(|value| Int64Value { value }),
        run_as_username: if user.is_none() { image.name.clone() } else { String::new() },
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&over),
        supplemental_groups_policy: groups_policy(&over),
        no_new_privs: no_new_privileges(&own),
        masked_paths: list(&MASKED),
        readonly_paths: list(&READ_ONLY),
        seccomp: Some(seccomp(
            own.seccomp_profile.as_ref().or(over.seccomp_profile.as_ref()),
            privileged,
            seccomp_default,
            seccomp_root,
        )),
        apparmor: app_armor.map(apparmor),
        ..Default::default()
    })
}

fn no_new_privileges(context: &SecurityContext) -> bool {
    context.allow_privilege_escalation == Some(false)
}

fn check_non_root(user: Option<i64>, image: &ImageUser, container: &Container) -> Result<(), String> {
    let name = &container.name;
    match (user, image.uid) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy (container: {name})")),
        (Some(_), _) => Ok(()),
        (None, _) if !image.name.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root (container: {name})",
            image.name
        )),
        (None, Some(0) | None) => {
            Err(format!("container has runAsNonRoot and image will run as root (container: {name})"))
        }
        (None, Some(_)) => Ok(()),
    }
}

fn capabilities(from: &k8s_openapi::api::core::v1::Capabilities) -> Capability {
    Capability {
        add_capabilities: from.add.clone().unwrap_or_default(),
        drop_capabilities: from.drop.clone().unwrap_or_default(),
        ..Default::default()
    }
}

fn selinux(from: &k8s_openapi::api::core::v1::SELinuxOptions) -> SeLinuxOption {
    let text = |f: &Option<String>| f.clone().unwrap_or_default();
    SeLinuxOption {
        user: text(&from.user),
        role: text(&from.role),
        r#type: text(&from.type_),
        level: text(&from.level),
    }
}

fn profile(kind: ProfileType, localhost_ref: String) -> SecurityProfile {
    SecurityProfile { profile_type: kind as i32, localhost_ref }
}

fn seccomp(from: Option<&SeccompProfile>, privileged: bool, default_on: bool, root: &Path) -> SecurityProfile {
    if privileged {
        return profile(ProfileType::Unconfined, String::new());
    }
    match from.map(|p| p.type_.as_str()) {
        Some("RuntimeDefault") => profile(ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let name = from.and_then(|p| p.localhost_profile.clone()).unwrap_or_default();
            profile(ProfileType::Localhost, root.join(name).display().to_string())
        }
        Some(_) => profile(ProfileType::Unconfined, String::new()),
        None if default_on => profile(ProfileType::RuntimeDefault, String::new()),
        None => profile(ProfileType::Unconfined, String::new()),
    }
}

fn apparmor(from: &AppArmorProfile) -> SecurityProfile {
    match from.type_.as_str() {
        "RuntimeDefault" => profile(ProfileType::RuntimeDefault, String::new()),
        "Localhost" => profile(ProfileType::Localhost, from.localhost_profile.clone().unwrap_or_default()),
        _ => profile(ProfileType::Unconfined, String::new()),
    }
}

/// A runtime's answer about an image, as far as the user goes.
pub fn image_user(image: &v1::Image) -> ImageUser {
    ImageUser { uid: image.uid.as_ref().map(|u| u.value), name: image.username.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_root_is_checked() {
        let c = Container { name: "c".into(), ..Default::default() };
        let image = |uid, name: &str| ImageUser { uid, name: name.into() };
        for (user, image, ok) in [
            (Some(0), image(None, ""), false),
            (Some(1), image(None, ""), true),
            (None, image(Some(0), ""), false),
            (None, image(Some(7), ""), true),
            (None, image(None, "nobody"), false),
        ] {
            assert_eq!(check_non_root(user, &image, &c).is_ok(), ok, "{user:?} {image:?}");
        }
    }
}
