//! Names by which pods and containers are found again in the runtime and on disk: upstream's labels, annotations and
//! paths (`k8s.io/kubelet/pkg/types`, `pkg/kubelet/kuberuntime/labels.go`).

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

/// Label: the pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label: the pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label: the pod's uid.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label: the container's name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation: digest of what makes a running container outdated.
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
/// Annotation: how often the container was started before.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation: where the container writes its last words.
pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation: whether its log may stand in for them.
pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation: grace period of the pod at the container's creation.
pub const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Annotation: the container's preStop hook, to be found after the pod's object is gone.
pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
/// Pod annotation: where a pod comes from (`api` or `file`).
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Pod annotation: digest of a static pod's file.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Pod annotation: marks the API's copy of a static pod.
pub use kinit_apimachinery::well_known::MIRROR_POD as CONFIG_MIRROR;
/// Pod annotation: when the kubelet saw the pod.
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";

/// What identifies a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid; for static pods the digest of their file.
    pub uid: String,
}

impl PodKey {
    /// The key of an object as the API or a file gave it.
    pub fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self { namespace: text(&meta.namespace), name: text(&meta.name), uid: text(&meta.uid) }
    }
}

impl std::fmt::Display for PodKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Directories of the kubelet.
#[derive(Debug, Clone)]
pub struct Paths {
    /// `/var/lib/kubelet`.
    pub root: PathBuf,
    /// `/var/log/pods`.
    pub pod_logs: PathBuf,
    /// `/var/log/containers`.
    pub container_logs: PathBuf,
    /// `/var/lib/kinit/local-path`: folders that are volumes.
    pub local_path: PathBuf,
}

impl Paths {
    /// `ROOT/pods`.
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }
    /// `ROOT/pods/UID`.
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }
    /// `ROOT/pods/UID/volumes/PLUGIN/NAME`, slashes of the plugin's name escaped as upstream does.
    pub fn volume(&self, uid: &str, plugin: &str, name: &str) -> PathBuf {
        self.pod(uid).join("volumes").join(plugin.replace('/', "~")).join(name)
    }
    /// The managed hosts file.
    pub fn etc_hosts(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("etc-hosts")
    }
    /// Directory of a container's own files (its termination log).
    pub fn container(&self, uid: &str, container: &str) -> PathBuf {
        self.pod(uid).join("containers").join(container)
    }
    /// Where subPath mounts of a container are bound.
    pub fn subpaths(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("volume-subpaths")
    }
    /// `/var/log/pods/NAMESPACE_NAME_UID`.
    pub fn log_directory(&self, key: &PodKey) -> PathBuf {
        self.pod_logs.join(format!("{}_{}_{}", key.namespace, key.name, key.uid))
    }
    /// `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log` (`kuberuntime.legacyLogSymlink`).
    pub fn container_log_link(&self, key: &PodKey, container: &str, id: &str) -> PathBuf {
        let mut stem = format!("{}_{}_{container}-{id}", key.name, key.namespace);
        stem.truncate(251);
        self.container_logs.join(format!("{stem}.log"))
    }
}

/// A container's log inside the pod's log directory.
pub fn log_file(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// Whether `path` stays inside `base` by its words (no `..`).
pub fn is_within(path: &Path) -> bool {
    !path.is_absolute()
        && path.components().all(|c| matches!(c, std::path::Component::Normal(_) | std::path::Component::CurDir))
}
