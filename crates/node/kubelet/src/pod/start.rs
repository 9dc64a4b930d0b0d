//! The actions that bring a pod up: volumes, sandbox, containers.

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use kinit_cri::v1::{
    ContainerStatusRequest, CreateContainerRequest, Image, RemoveContainerRequest, RunPodSandboxRequest,
    StartContainerRequest,
};

use kube::Api;
use tokio_util::sync::CancellationToken;

use super::admit::Host;
use super::hooks;
use crate::downward::Place;
use crate::image;
use crate::kubelet::Kubelet;
use crate::make::{self, container::Inputs, security};
use crate::names::PodKey;
use crate::node::capacity;
use crate::volumes::{self, Volumes, payload::Tokens};

/// Why a container could not be started, as its waiting state shows it.
#[derive(Debug, Clone)]
pub struct StartError {
    /// `ErrImagePull`, `CreateContainerConfigError` and so on.
    pub reason: &'static str,
    /// What happened.
    pub message: String,
    /// The container exists (and has ended): the runtime's state says the rest.
    pub created: bool,
}

/// Volumes, cgroup and directories.
pub async fn mount(
    kubelet: &Kubelet,
    pod: &Pod,
    key: &PodKey,
    pod_ips: &[String],
    mut tokens: Tokens,
) -> Result<(Volumes, Tokens), String> {
    let place = place(kubelet, pod_ips);
    let volumes = volumes::set_up(kubelet, pod, key, &place, &mut tokens).await?;
    volumes::make_directory(&kubelet.paths.log_directory(key), 0o755)?;
    kubelet.cgroups.create(pod, key).await.map_err(|e| format!("make the pod's cgroup: {e:#}"))?;
    Ok((volumes, tokens))
}

/// What the downward API tells beside the pod itself.
pub fn place(kubelet: &Kubelet, pod_ips: &[String]) -> Place {
    let allocatable = capacity::allocatable_of(&kubelet.config, &kubelet.machine);
    Place {
        pod_ips: pod_ips.to_vec(),
        host_ips: kubelet.host_ips.clone(),
        node_cpu: allocatable.cpu,
        node_memory: allocatable.memory,
        node_storage: capacity::allocatable_storage(&kubelet.config, kubelet.disk()),
    }
}

/// Makes a sandbox.
pub async fn sandbox(kubelet: &Kubelet, pod: &Pod, key: &PodKey, attempt: u32) -> Result<(), String> {
    let config = make::sandbox::config(kubelet, pod, key, attempt)?;
    volumes::make_directory(&kubelet.paths.log_directory(key), 0o755)?;
    let failed = |text: &str| format!("Failed to create pod sandbox: {text}");
    let runtime_handler = runtime_handler(kubelet, pod).await.map_err(|text| failed(&text))?;
    let request = RunPodSandboxRequest { config: Some(config), runtime_handler };
    kubelet.runtime.run_pod_sandbox(request).await.map(drop).map_err(|e| failed(e.message()))
}

/// The runtime's name of what the pod's RuntimeClass stands for; empty for the default
/// (`runtimeclass.LookupRuntimeHandler`).
async fn runtime_handler(kubelet: &Kubelet, pod: &Pod) -> Result<String, String> {
    let name = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref()).unwrap_or_default();
    if name.is_empty() {
        return Ok(String::new());
    }
    let fail = |cause: String| format!("failed to get sandbox runtime: {cause}");
    let client = kubelet.client.clone().ok_or_else(|| fail("there is no API server to ask".to_owned()))?;
    let class = Api::<RuntimeClass>::all(client).get_opt(name).await.map_err(|e| fail(e.to_string()))?;
    let class = class.ok_or_else(|| fail(format!("runtimeclass.node.k8s.io \"{name}\" not found")))?;
    Ok(class.handler)
}

/// Everything a start needs to know.
#[derive(Debug, Clone)]
pub struct Start {
    /// The sandbox to start in.
    pub sandbox: String,
    /// Attempt of the sandbox.
    pub sandbox_attempt: u32,
    /// How often the container was started before.
    pub attempt: u32,
    /// The pod's volumes.
    pub volumes: Volumes,
    /// The pod's addresses.
    pub pod_ips: Vec<String>,
    /// Id of the container whose processes this one is to see.
    pub target: Option<String>,
    /// The pod is to end: whatever takes long is given up.
    pub ending: CancellationToken,
}

/// Pulls, creates and starts a container, and runs its postStart hook.
pub async fn container(
    kubelet: &Kubelet,
    pod: &Pod,
    key: &PodKey,
    spec: &Container,
    start: &Start,
) -> Result<(), StartError> {
    let one = One { kubelet, pod, key, spec, start };
    let image = one.pull().await?;
    let request = one.request(&image).await?;
    let log_path = kubelet.paths.log_directory(key).join(request.config.as_ref().map_or("", |c| c.log_path.as_str()));
    if let Some(parent) = log_path.parent() {
        volumes::make_directory(parent, 0o755).map_err(|m| failed("CreateContainerError", m))?;
    }
    if start.ending.is_cancelled() {
        return Err(ended());
    }
    let id = one.create(request).await?;
    kubelet.runtime.start_container(StartContainerRequest { container_id: id.clone() }).await.map_err(|e| {
        one.error(e.message());
        StartError { reason: "RunContainerError", message: e.message().to_owned(), created: true }
    })?;
    one.event(false, "Started", format!("Started container {}", spec.name));
    link_log(kubelet, key, &spec.name, &id, &log_path);
    one.post_start(&id).await
}

fn failed(reason: &'static str, message: String) -> StartError {
    StartError { reason, message, created: false }
}

fn ended() -> StartError {
    failed("ContainerCreating", "the pod is to end".to_owned())
}

/// One start of one container.
struct One<'a> {
    kubelet: &'a Kubelet,
    pod: &'a Pod,
    key: &'a PodKey,
    spec: &'a Container,
    start: &'a Start,
}

impl One<'_> {
    fn event(&self, warning: bool, reason: &str, note: String) {
        self.kubelet.events.pod(self.pod, Some(&self.spec.name), warning, reason, note);
    }

    fn error(&self, text: &str) {
        self.event(true, "Failed", format!("Error: {text}"));
    }

    async fn pull(&self) -> Result<Image, StartError> {
        let pulled = tokio::select! {
            biased;
            () = self.start.ending.cancelled() => return Err(ended()),
            pulled = image::ensure(self.kubelet, self.pod, self.key, self.spec) => pulled,
        };
        pulled.map_err(|e| {
            if e.reason == "ErrImagePull" {
                self.error("ErrImagePull");
            }
            failed(e.reason, e.message)
        })
    }

    /// What the runtime is asked to create.
    async fn request(&self, image: &Image) -> Result<CreateContainerRequest, StartError> {
        let Self { kubelet, pod, key, spec, start } = *self;
        let asks = spec.volume_mounts.iter().flatten().any(|m| m.recursive_read_only.is_some());
        let host = if asks { Host::look(&kubelet.runtime).await } else { Host::default() };
        let inputs = Inputs {
            pod,
            key,
            spec,
            attempt: start.attempt,
            image_ref: &image.id,
            image_user: security::image_user(image),
            volumes: &start.volumes,
            pod_ips: &start.pod_ips,
            host,
            target: start.target.as_deref(),
        };
        let config = make::container::config(kubelet, &inputs).await.map_err(|message| {
            self.error(&message);
            failed("CreateContainerConfigError", message)
        })?;
        let sandbox_config = make::sandbox::config(kubelet, pod, key, start.sandbox_attempt)
            .map_err(|m| failed("CreateContainerConfigError", m))?;
        Ok(CreateContainerRequest {
            pod_sandbox_id: start.sandbox.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        })
    }

    /// Returns the container's id.
    async fn create(&self, request: CreateContainerRequest) -> Result<String, StartError> {
        let created = self.kubelet.runtime.create_container(request).await.map_err(|e| {
            self.error(e.message());
            failed("CreateContainerError", e.message().to_owned())
        })?;
        let id = created.container_id;
        check_stop_signal(self.kubelet, self.spec, &id).await.map_err(|message| {
            self.error(&message);
            failed("CreateContainerConfigError", message)
        })?;
        self.event(false, "Created", format!("Created container: {}", self.spec.name));
        Ok(id)
    }

    async fn post_start(&self, id: &str) -> Result<(), StartError> {
        let Self { kubelet, pod, spec, start, .. } = *self;
        let hook = spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
        let Some(hook) = hook else { return Ok(()) };
        let hooked = tokio::select! {
            // The container runs: it is ended like all others.
            () = start.ending.cancelled() => return Ok(()),
            hooked = hooks::run(kubelet, hook, spec, id, start.pod_ips.first().map(String::as_str)) => hooked,
        };
        if let Err(error) = hooked {
            self.event(true, "FailedPostStartHook", format!("PostStartHook failed: {error}"));
            super::kill::stop(kubelet, id, super::policy::grace_of(pod)).await;
            return Err(StartError { reason: "PostStartHookError", message: error, created: true });
        }
        Ok(())
    }
}

/// Runtimes that do not know `lifecycle.stopSignal` pass it over in silence: what they made goes again.
async fn check_stop_signal(kubelet: &Kubelet, spec: &Container, id: &str) -> Result<(), String> {
    let Some(name) = spec.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref()) else { return Ok(()) };
    let wanted = make::container::stop_signal(spec) as i32;
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    let status = kubelet.runtime.container_status(request).await.map_err(|e| e.to_string())?.status;
    if status.is_some_and(|s| s.stop_signal == wanted) {
        return Ok(());
    }
    let request = RemoveContainerRequest { container_id: id.to_owned() };
    if let Err(error) = kubelet.runtime.remove_container(request).await {
        tracing::debug!(container = id, %error, "remove a container that cannot have its stop signal");
    }
    Err(format!("lifecycle.stopSignal {name}: the container runtime does not support it"))
}

/// `/var/log/containers/…` for log collectors; a missing link is no reason to fail.
fn link_log(kubelet: &Kubelet, key: &PodKey, container: &str, id: &str, target: &Path) {
    let link = kubelet.paths.container_log_link(key, container, id);
    if let Err(error) = std::os::unix::fs::symlink(target, &link)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        tracing::debug!(link = %link.display(), %error, "link a container's log");
    }
}

#[cfg(test)]
mod tests {
    use crate::downward::resource;
    use crate::kubelet::tests::kubelet;
    use crate::resources::Asked;
    use k8s_openapi::api::core::v1::{Pod, ResourceFieldSelector};
    use std::sync::Arc;

    /// A container without limits is shown what pods may have of its node, not what the node has.
    #[tokio::test]
    async fn limits_that_are_not_set_are_what_is_allocatable() {
        let root = tempfile::tempdir().unwrap();
        let mut kubelet = kubelet(root.path(), Asked::default());
        let own = Arc::get_mut(&mut kubelet).unwrap();
        own.config.system_reserved.insert("cpu".into(), "500m".into());
        own.config.kube_reserved.insert("memory".into(), "24Mi".into());
        own.config.eviction_hard.insert("memory.available".into(), "100Mi".into());
        let place = super::place(&kubelet, &[]);
        let pod = r#"{"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}}"#;
        let pod: Pod = serde_json::from_str(pod).unwrap();
        let of = |name: &str, divisor: &str| {
            let divisor = Some(k8s_openapi::apimachinery::pkg::api::resource::Quantity(divisor.into()));
            let selector = ResourceFieldSelector { resource: name.into(), divisor, container_name: None };
            resource(&pod, &selector, "c", &place).unwrap()
        };
        // The node has 2 CPUs and 1 GiB.
        assert_eq!(of("limits.cpu", "1m"), "1500");
        assert_eq!(of("limits.memory", "1Mi"), "900");
        assert_eq!(of("requests.cpu", "1"), "1", "requests are the container's own");
    }
}
