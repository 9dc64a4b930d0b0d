//! What the runtime holds of one pod.

use k8s_openapi::jiff::Timestamp;
use kinit_cri::v1::{
    self, ContainerFilter, ContainerState, ListContainersRequest, ListPodSandboxRequest, NamespaceMode,
    PodSandboxFilter, PodSandboxState,
};
use kinit_cri::{CriError, Runtime};

use crate::names;
use crate::resources::Kernel;

/// A sandbox of the pod, of now or of before.
#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// 0 for the pod's first.
    pub attempt: u32,
    /// Whether it holds namespaces containers can join.
    pub ready: bool,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// The pod's addresses; empty on the host's network.
    pub ips: Vec<String>,
}

/// Where a container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Made, never started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime lost track of it.
    Unknown,
}

/// One container, one attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// The runtime's id.
    pub id: String,
    /// Sandbox it was made in.
    pub sandbox: String,
    /// Name in the pod.
    pub name: String,
    /// How often it was started before.
    pub attempt: u32,
    /// Where it stands.
    pub life: Life,
    /// Times in nanoseconds since 1970, 0 when it did not happen.
    pub created_at: i64,
    /// Start.
    pub started_at: i64,
    /// End.
    pub finished_at: i64,
    /// Exit code.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`.
    pub reason: String,
    /// The runtime's message or the container's last words.
    pub message: String,
    /// Image as the pod names it.
    pub image: String,
    /// Image as the runtime found it.
    pub image_ref: String,
    /// What the kernel enforces on it, as far as the runtime tells.
    pub kernel: Option<Kernel>,
    /// Digest of what it was made from.
    pub hash: String,
    /// Log file.
    pub log_path: String,
    /// Termination message policy, and whether there is room for the log's end.
    pub log_is_last_word: bool,
}

/// Everything of a pod; newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Sandboxes.
    pub sandboxes: Vec<Sandbox>,
    /// Containers of all attempts.
    pub containers: Vec<Container>,
}

impl Observed {
    /// The newest sandbox if it is ready.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    /// The newest container of a name.
    pub fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The one before [`Observed::latest`].
    pub fn previous(&self, name: &str) -> Option<&Container> {
        self.containers.iter().filter(|c| c.name == name).nth(1)
    }

    /// Containers with processes.
    pub fn running(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|c| matches!(c.life, Life::Running | Life::Unknown))
    }
}

/// Asks the runtime about a pod.
pub async fn observe(runtime: &Runtime, uid: &str) -> Result<Observed, CriError> {
    let selector = || [(names::POD_UID.to_owned(), uid.to_owned())].into_iter().collect();
    let filter = PodSandboxFilter { label_selector: selector(), ..Default::default() };
    let listed = runtime.list_pod_sandbox(ListPodSandboxRequest { filter: Some(filter) }).await?.items;
    let mut sandboxes = Vec::with_capacity(listed.len());
    for item in listed {
        let ready = item.state == PodSandboxState::SandboxReady as i32;
        let ips = if ready { sandbox_ips(runtime, &item.id).await? } else { Vec::new() };
        let attempt = item.metadata.map_or(0, |m| m.attempt);
        sandboxes.push(Sandbox { id: item.id, attempt, ready, created_at: item.created_at, ips });
    }
    sandboxes.sort_by_key(|s| std::cmp::Reverse((s.created_at, s.attempt)));
    let filter = ContainerFilter { label_selector: selector(), ..Default::default() };
    let listed = runtime.list_containers(ListContainersRequest { filter: Some(filter) }).await?.containers;
    let mut containers = Vec::with_capacity(listed.len());
    for item in listed {
        let request = v1::ContainerStatusRequest { container_id: item.id.clone(), verbose: false };
        match runtime.container_status(request).await {
            Ok(answer) => containers.extend(answer.status.map(|s| container(s, &item.pod_sandbox_id))),
            // Removed between the list and the question.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    containers.sort_by_key(|c| std::cmp::Reverse((c.created_at, c.attempt)));
    Ok(Observed { sandboxes, containers })
}

async fn sandbox_ips(runtime: &Runtime, id: &str) -> Result<Vec<String>, CriError> {
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
    let status = match runtime.pod_sandbox_status(request).await {
        Ok(answer) => answer.status,
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    let Some(status) = status else { return Ok(Vec::new()) };
    let namespaces = status.linux.and_then(|l| l.namespaces).and_then(|n| n.options);
    if namespaces.is_some_and(|o| o.network == NamespaceMode::Node as i32) {
        return Ok(Vec::new());
    }
    let Some(network) = status.network else { return Ok(Vec::new()) };
    let more = network.additional_ips.into_iter().map(|ip| ip.ip);
    Ok(std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect())
}

fn container(status: v1::ContainerStatus, sandbox: &str) -> Container {
    let life = match ContainerState::try_from(status.state) {
        Ok(ContainerState::ContainerCreated) => Life::Created,
        Ok(ContainerState::ContainerRunning) => Life::Running,
        Ok(ContainerState::ContainerExited) => Life::Exited,
        _ => Life::Unknown,
    };
    let annotation = |name: &str| status.annotations.get(name).cloned().unwrap_or_default();
    let meta = status.metadata.clone().unwrap_or_default();
    let (message, log_is_last_word) = if life == Life::Exited { last_words(&status) } else { (String::new(), false) };
    Container {
        sandbox: sandbox.to_owned(),
        attempt: annotation(names::RESTART_COUNT).parse().unwrap_or(meta.attempt),
        name: meta.name,
        life,
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        reason: status.reason.clone(),
        message: if message.is_empty() { status.message.clone() } else { message },
        image: status
            .image
            .clone()
            .map(|i| if i.user_specified_image.is_empty() { i.image } else { i.user_specified_image })
            .unwrap_or_default(),
        image_ref: status.image_ref.clone(),
        kernel: status.resources.as_ref().and_then(|r| r.linux.as_ref()).and_then(Kernel::reported),
        hash: annotation(names::CONTAINER_HASH),
        log_path: status.log_path.clone(),
        log_is_last_word,
        id: status.id,
    }
}

const MAX_WORDS: u64 = 4096;
const MAX_LOG_WORDS: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// What a container left in its termination log, or the end of its log where the policy says so
/// (`kuberuntime.getTerminationMessage`).
fn last_words(status: &v1::ContainerStatus) -> (String, bool) {
    let path = status.annotations.get(names::TERMINATION_PATH).map_or("", String::as_str);
    let host =
        status.mounts.iter().find(|m| !path.is_empty() && m.container_path == path).map(|m| m.host_path.as_str());
    let words = host.and_then(|p| read_at_most(p, MAX_WORDS)).unwrap_or_default();
    let from_log = status.annotations.get(names::TERMINATION_POLICY).is_some_and(|p| p == "FallbackToLogsOnError")
        && status.exit_code != 0;
    if !words.is_empty() || !from_log {
        return (words, false);
    }
    (crate::server::logs::tail_text(&status.log_path, MAX_LOG_LINES, MAX_LOG_WORDS), true)
}

fn read_at_most(path: &str, most: u64) -> Option<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(most).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A runtime's nanoseconds as a time, `None` for 0.
pub fn time(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()).flatten()
}
