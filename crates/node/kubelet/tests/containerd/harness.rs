//! A node for a test: etcd and containerd as processes, API server and kubelet in this one.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kinit_component_base::Shutdown;
use kinit_test_support::{TestApiServer, free_port, kube_client};
use kube::api::{Api, AttachParams, DeleteParams, LogParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;

use crate::containerd::Containerd;
use crate::image::IMAGE;

/// How long a test waits for anything; machines that build meanwhile are slow.
const PATIENCE: Duration = Duration::from_secs(90);

/// A kubelet that runs beside the test.
struct Process {
    runtime: Option<Runtime>,
    shutdown: Shutdown,
}

impl Process {
    fn start(args: kinit_kubelet::Args) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let shutdown = Shutdown::new();
        let running = kinit_kubelet::run(args, shutdown.clone());
        runtime.spawn(async move {
            if let Err(error) = running.await {
                eprintln!("the kubelet ended: {error:#}");
            }
        });
        Self { runtime: Some(runtime), shutdown }
    }
}

impl Drop for Process {
    /// As SIGKILL would: every task stops where it waits.
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The node n1.
pub struct Node {
    kubelet: Option<Process>,
    /// An administrator.
    pub client: Client,
    /// The runtime.
    pub containerd: Containerd,
    /// The API server.
    pub server: TestApiServer,
    /// Below which the pods' cgroups are.
    pub cgroup: String,
    // The last to go: all the others have files in it.
    dir: tempfile::TempDir,
}

impl Node {
    /// A node that is registered.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cgroup =
            format!("kinit-test-{}", dir.path().file_name().unwrap().to_string_lossy().trim_start_matches('.'));
        let containerd = Containerd::start(&dir.path().join("c"), &cgroup);
        let server = TestApiServer::start().await.unwrap();
        let client = kube_client(&server.kubeconfig_for("admin", &["system:masters"]).unwrap()).await.unwrap();
        let account: k8s_openapi::api::core::v1::ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "default"}, "automountServiceAccountToken": false}))
                .unwrap();
        Api::default_namespaced(client.clone()).create(&PostParams::default(), &account).await.unwrap();
        server.pki.server("kubelet", "system:node:n1", &[[127, 0, 0, 1].into()], &["n1"]).unwrap();
        server
            .pki
            .write_kubeconfig(
                &dir.path().join("kubelet.conf"),
                &server.plane.url(),
                "system:node:n1",
                &["system:nodes"],
            )
            .unwrap();
        let mut node = Self { kubelet: None, client, containerd, server, cgroup, dir };
        node.configure();
        node.start_kubelet();
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(node.client.clone());
        eventually("the node's status", async || {
            let status = nodes.get_opt("n1").await.unwrap()?.status?;
            (status.allocatable.is_some() && status.daemon_endpoints.is_some()).then_some(())
        })
        .await;
        node
    }

    /// The kubelet's directory.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("kubelet")
    }

    fn configure(&self) {
        let file = |name: &str| self.server.pki.file(name).display().to_string();
        let resolver = self.dir.path().join("resolv.conf");
        std::fs::write(&resolver, "nameserver 192.0.2.53\n").unwrap();
        let config = json!({"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": false}, "x509": {"clientCAFile": file("ca.crt")}},
            "tlsCertFile": file("kubelet.crt"), "tlsPrivateKeyFile": file("kubelet.key"),
            "port": free_port().unwrap(), "healthzPort": free_port().unwrap(),
            "containerRuntimeEndpoint": self.containerd.endpoint(), "cgroupDriver": "cgroupfs", "cgroupRoot": self.cgroup,
            "resolvConf": resolver, "podLogsDir": self.dir.path().join("logs"), "failCgroupV1": false, "failSwapOn": false,
            "oomScoreAdj": 0, "maxOpenFiles": 65536, "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
            // The machine's disk is not the test's affair.
            "evictionHard": {"memory.available": "1Mi"}, "imageGCHighThresholdPercent": 100});
        std::fs::write(self.dir.path().join("config.json"), config.to_string()).unwrap();
    }

    /// Starts the kubelet, or another one in its place.
    pub fn start_kubelet(&mut self) {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let args = kinit_kubelet::Args::parse_from([
            "kubelet".to_owned(),
            format!("--config={}", path("config.json")),
            format!("--kubeconfig={}", path("kubelet.conf")),
            "--hostname-override=n1".into(),
            "--node-ip=127.0.0.1".into(),
            format!("--root-dir={}", path("kubelet")),
        ]);
        self.kubelet = Some(Process::start(args));
    }

    /// Kills the kubelet, as suddenly as SIGKILL.
    pub fn kill_kubelet(&mut self) {
        self.kubelet = None;
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    /// Creates a pod on the node. `spec` is completed: the host's network, the test's image, no restarts.
    pub async fn pod(&self, name: &str, spec: Value) -> Pod {
        let mut full = json!({"nodeName": "n1", "hostNetwork": true, "restartPolicy": "Never", "terminationGracePeriodSeconds": 2});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        for list in ["containers", "initContainers"] {
            for container in full.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                container["image"] = IMAGE.into();
                container["imagePullPolicy"] = "Never".into();
            }
        }
        let pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": full})).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap()
    }

    /// Waits until a pod is as wanted.
    pub async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        eventually(&format!("{name}: {what}"), async || {
            let pod = self.pods().get(name).await.unwrap();
            if wanted(&pod) { Ok(pod) } else { Err(pod.status) }
        })
        .await
    }

    pub async fn running(&self, name: &str) -> Pod {
        self.until(name, "is ready", |pod| is(pod, "Ready")).await
    }

    /// What a command in a pod's first container prints.
    pub async fn exec(&self, name: &str, script: &str) -> String {
        let params = AttachParams::default().stderr(false);
        let mut attached = self.pods().exec(name, ["/bin/sh", "-c", script], &params).await.unwrap();
        let mut text = String::new();
        attached.stdout().unwrap().read_to_string(&mut text).await.unwrap();
        text.trim().to_owned()
    }

    pub async fn log(&self, name: &str, container: &str) -> String {
        let params = LogParams { container: Some(container.to_owned()), ..LogParams::default() };
        self.pods().logs(name, &params).await.unwrap()
    }

    /// Deletes a pod and waits until the API has it no more.
    pub async fn delete(&self, name: &str) {
        self.pods().delete(name, &DeleteParams::default()).await.unwrap();
        eventually("the pod is gone", async || match self.pods().get_opt(name).await.unwrap() {
            None => Ok(()),
            Some(pod) => Err(pod.status),
        })
        .await;
    }
}

/// Calls `look` until it answers; the last that it saw is told when it never does.
pub async fn eventually<T, R: Answer<T>>(what: &str, mut look: impl AsyncFnMut() -> R) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await.answer() {
            Ok(seen) => return seen,
            Err(seen) => assert!(Instant::now() < deadline, "{what}: {seen}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Something that is there, or what is there instead.
pub trait Answer<T> {
    fn answer(self) -> Result<T, String>;
}

impl<T> Answer<T> for Option<T> {
    fn answer(self) -> Result<T, String> {
        self.ok_or_else(|| "it is not so".to_owned())
    }
}

impl<T, E: Debug> Answer<T> for Result<T, E> {
    fn answer(self) -> Result<T, String> {
        self.map_err(|seen| format!("{seen:?}"))
    }
}

/// Whether a condition holds.
pub fn is(pod: &Pod, condition: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == condition && c.status == "True")
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The status of a pod's container.
pub fn container<'a>(pod: &'a Pod, name: &str) -> &'a ContainerStatus {
    let status = pod.status.as_ref().unwrap();
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.into_iter()
        .find(|c| c.name == name)
        .unwrap_or_else(|| panic!("{}: no status of {name}: {status:?}", pod.name_any()))
}

/// The content of a file of a cgroup, by controller: of version 1, or the name that version 2 has for it.
pub fn cgroup_file(cgroup: &str, controller: &str, v1: &str, v2: &str) -> String {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let (root, file) = if unified { (PathBuf::new(), v2) } else { (PathBuf::from(controller), v1) };
    let path = Path::new("/sys/fs/cgroup").join(root).join(cgroup.trim_start_matches('/')).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}
