//! A container as the runtime wants it described (`kuberuntime_container.go: generateContainerConfig`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use kinit_cri::v1::{
    ContainerConfig, ContainerMetadata, Device, ImageSpec, KeyValue, LinuxContainerConfig, Mount, MountPropagation,
    NamespaceMode, Signal,
};

use super::{env, security, service_env};
use crate::expand::expand;
use crate::kubelet::Kubelet;
use crate::names::{self, PodKey};
use crate::pod::admit::Host;
use crate::pod::{policy, start};
use crate::resources;
use crate::volumes::Volumes;

/// Everything a container is made from, beside its spec.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its key.
    pub key: &'a PodKey,
    /// The container.
    pub spec: &'a Container,
    /// How often it was started before.
    pub attempt: u32,
    /// Image as the runtime resolved it.
    pub image_ref: &'a str,
    /// The image's user.
    pub image_user: security::ImageUser,
    /// The pod's volumes.
    pub volumes: &'a Volumes,
    /// The pod's addresses.
    pub pod_ips: &'a [String],
    /// What the runtime can do.
    pub host: Host,
    /// Id of the container whose processes this one is to see.
    pub target: Option<&'a str>,
}

/// Describes it; an error is a `CreateContainerConfigError`.
pub async fn config(kubelet: &Kubelet, from: &Inputs<'_>) -> Result<ContainerConfig, String> {
    let (pod, spec) = (from.pod, from.spec);
    let place = start::place(kubelet, from.pod_ips);
    let namespace = &from.key.namespace;
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let services = kubelet.services();
    let services = service_env::variables(services.iter().map(AsRef::as_ref), namespace, links);
    let envs = env::resolve(pod, spec, &kubelet.objects, &place, &services, from.volumes).await?;
    let words = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|word| expand(word, |name| envs.get(name).cloned())).collect()
    };
    let seccomp_root = kubelet.paths.root.join("seccomp");
    let mut context = security::container(pod, spec, &from.image_user, kubelet.config.seccomp_default, &seccomp_root)?;
    if let Some((namespaces, target)) = context.namespace_options.as_mut().zip(from.target) {
        namespaces.pid = NamespaceMode::Target as i32;
        namespaces.target_id = target.to_owned();
    }
    let mounts = mounts(kubelet, from, &envs)?;
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: spec.name.clone(), attempt: from.attempt }),
        image: Some(ImageSpec {
            image: from.image_ref.to_owned(),
            user_specified_image: spec.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: words(&spec.command),
        args: words(&spec.args),
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        mounts,
        devices: Vec::<Device>::new(),
        labels: labels(from),
        annotations: annotations(from),
        log_path: names::log_file(&spec.name, from.attempt),
        stdin: spec.stdin == Some(true),
        stdin_once: spec.stdin_once == Some(true),
        tty: spec.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources::container(pod, spec, kubelet.node_memory)),
            security_context: Some(context),
        }),
        stop_signal: stop_signal(spec) as i32,
        envs: envs.into_iter().map(|(key, value)| KeyValue { key, value: value.into_bytes() }).collect(),
        ..Default::default()
    })
}

/// The signal a container asks to be stopped with.
pub fn stop_signal(spec: &Container) -> Signal {
    let name = spec.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref());
    name.and_then(Signal::from_str_name).unwrap_or_default()
}

fn labels(from: &Inputs<'_>) -> BTreeMap<String, String> {
    [
        (names::POD_NAME, from.key.name.as_str()),
        (names::POD_NAMESPACE, &from.key.namespace),
        (names::POD_UID, &from.key.uid),
        (names::CONTAINER_NAME, &from.spec.name),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect()
}

fn annotations(from: &Inputs<'_>) -> BTreeMap<String, String> {
    let spec = from.spec;
    let text =
        |f: &Option<String>, default: &str| f.clone().filter(|v| !v.is_empty()).unwrap_or_else(|| default.to_owned());
    let mut out: BTreeMap<String, String> = [
        (names::CONTAINER_HASH, policy::hash(spec)),
        (names::RESTART_COUNT, from.attempt.to_string()),
        (names::TERMINATION_PATH, text(&spec.termination_message_path, "/dev/termination-log")),
        (names::TERMINATION_POLICY, text(&spec.termination_message_policy, "File")),
        (names::POD_GRACE, policy::grace_of(from.pod).to_string()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect();
    if let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
        && let Ok(json) = serde_json::to_string(hook)
    {
        out.insert(names::PRE_STOP.into(), json);
    }
    out
}

fn mounts(
    kubelet: &Kubelet,
    from: &Inputs<'_>,
    envs: &indexmap::IndexMap<String, String>,
) -> Result<Vec<Mount>, String> {
    let (spec, uid) = (from.spec, &from.key.uid);
    let mut out = Vec::new();
    let mut has_hosts = false;
    for (index, mount) in spec.volume_mounts.iter().flatten().enumerate() {
        let volume = from
            .volumes
            .get(&mount.name)
            .ok_or_else(|| format!("volume {:?} of container {} is not mounted", mount.name, spec.name))?;
        has_hosts |= mount.mount_path.trim_end_matches('/') == "/etc/hosts";
        let sub = match (&mount.sub_path, &mount.sub_path_expr) {
            (_, Some(expr)) if !expr.is_empty() => Some(expand_strictly(expr, envs)?),
            (Some(path), _) if !path.is_empty() => Some(path.clone()),
            _ => None,
        };
        let host_path = match sub {
            Some(sub) => {
                let target = kubelet.paths.subpaths(uid).join(&mount.name).join(&spec.name).join(index.to_string());
                crate::volumes::subpath::bind(&volume.path, &sub, &target).map_err(|e| {
                    format!(
                        "failed to prepare subPath for volumeMount {:?} of container {:?}: {e}",
                        mount.name, spec.name
                    )
                })?
            }
            None => volume.path.clone(),
        };
        // "IfPossible" where it is not: read-only as ever. "Enabled" was refused when the pod arrived.
        let all_below = matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"))
            && from.host.recursive_read_only;
        let container_path =
            if mount.mount_path.starts_with('/') { mount.mount_path.clone() } else { format!("/{}", mount.mount_path) };
        out.push(Mount {
            container_path,
            host_path: host_path.display().to_string(),
            readonly: mount.read_only == Some(true) || volume.read_only,
            propagation: match mount.mount_propagation.as_deref() {
                Some("Bidirectional") => MountPropagation::PropagationBidirectional,
                Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
                _ => MountPropagation::PropagationPrivate,
            } as i32,
            recursive_read_only: all_below,
            ..Default::default()
        });
    }
    if !has_hosts && let Some(file) = crate::volumes::files::write_hosts(kubelet, from.pod, from.key, from.pod_ips)? {
        out.push(Mount { container_path: "/etc/hosts".into(), host_path: file, ..Default::default() });
    }
    let log = crate::volumes::files::termination_log(&kubelet.paths, uid, &spec.name, from.attempt)?;
    let path = spec.termination_message_path.clone().filter(|p| !p.is_empty());
    let path = path.unwrap_or_else(|| "/dev/termination-log".to_owned());
    out.push(Mount { container_path: path, host_path: log, ..Default::default() });
    Ok(out)
}

/// `subPathExpr`: unlike elsewhere, an unknown name is an error.
fn expand_strictly(expr: &str, envs: &indexmap::IndexMap<String, String>) -> Result<String, String> {
    let missing = std::cell::Cell::new(false);
    let out = expand(expr, |name| {
        let found = envs.get(name).cloned();
        missing.set(missing.get() || found.is_none());
        found
    });
    if missing.get() { Err(format!("missing value for {expr:?}")) } else { Ok(out) }
}
