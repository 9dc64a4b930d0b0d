//! A control plane for a test: etcd as a process, API server, controllers and scheduler in this one.
//!
//! ```text
//! Cluster::start ─▶ etcd ◀─ API server ◀─┬─ controllers   each in a runtime of its own, so that killing it is sudden:
//!                                        ├─ scheduler     every task stops where it waits, nothing is released
//!                                        └─ Node          a hollow kubelet: what it says of a pod the test decides
//! ```

use std::fmt::Debug;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kinit_client::informer::{Change, Store, spawn};
use kinit_component_base::Shutdown;
use kinit_test_support::{TestApiServer, free_port, kube_client};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// How long a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// What every namespace needs before pods can be created in it.
const ALWAYS: &str = "serviceaccount-controller,root-ca-certificate-publisher-controller";

/// A running API server and an administrator's client.
pub struct Cluster {
    /// The API server, with its etcd.
    pub server: TestApiServer,
    /// An administrator.
    pub client: Client,
    controllers: Option<Process>,
    scheduler: Option<Process>,
    /// Secure ports of the components.
    ports: parking_lot::Mutex<Vec<u16>>,
    /// The audit log: who asked for what.
    logs: tempfile::TempDir,
}

/// A component that runs beside the test.
pub struct Process {
    runtime: Option<Runtime>,
    shutdown: Shutdown,
}

impl Process {
    fn start<F>(run: impl FnOnce(Shutdown) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let shutdown = Shutdown::new();
        let running = run(shutdown.clone());
        runtime.spawn(async move {
            if let Err(error) = running.await {
                eprintln!("a component ended: {error:#}");
            }
        });
        Self { runtime: Some(runtime), shutdown }
    }

    /// Ends it as SIGKILL would: no task runs on, and nothing is given back.
    pub fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Cluster {
    /// An API server, and these controllers (`--controllers`, separated by commas; none when empty).
    pub async fn start(controllers: &str) -> Self {
        let logs = tempfile::tempdir().unwrap();
        let policy = logs.path().join("policy.yaml");
        let rules = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata"}]});
        std::fs::write(&policy, rules.to_string()).unwrap();
        let flags = [
            format!("--audit-policy-file={}", policy.display()),
            format!("--audit-log-path={}", logs.path().join("audit.log").display()),
        ];
        let server = TestApiServer::start_with(&flags.each_ref().map(String::as_str)).await.unwrap();
        let client = kube_client(&server.kubeconfig_for("admin", &["system:masters"]).unwrap()).await.unwrap();
        let mut cluster =
            Self { server, client, controllers: None, scheduler: None, ports: parking_lot::Mutex::default(), logs };
        if !controllers.is_empty() {
            cluster.controllers = Some(cluster.controller_manager(controllers));
            let accounts = cluster.api::<k8s_openapi::api::core::v1::ServiceAccount>();
            eventually("the default service account", async || accounts.get_opt("default").await.unwrap()).await;
        }
        cluster
    }

    /// A controller manager with these controllers, each under its own service account.
    pub fn controller_manager(&self, controllers: &str) -> Process {
        let file = |name: &str| self.server.pki.file(name).display().to_string();
        let flags = [
            format!("--controllers={controllers},{ALWAYS}"),
            "--use-service-account-credentials=true".into(),
            "--horizontal-pod-autoscaler-sync-period=200ms".into(),
            "--horizontal-pod-autoscaler-downscale-stabilization=1s".into(),
            "--horizontal-pod-autoscaler-cpu-initialization-period=0s".into(),
            "--horizontal-pod-autoscaler-initial-readiness-delay=0s".into(),
            format!("--root-ca-file={}", file("ca.crt")),
        ];
        let args = kinit_controllers::Args::parse_from(self.flags("controller-manager.conf", &flags));
        Process::start(|shutdown| kinit_controllers::run(args, shutdown))
    }

    /// Kills the controllers that the cluster was started with.
    pub fn kill_controllers(&mut self) {
        self.controllers.take().unwrap().kill();
    }

    /// Starts controllers in the place of killed ones.
    pub fn restart_controllers(&mut self, controllers: &str) {
        self.controllers = Some(self.controller_manager(controllers));
    }

    /// Adds a scheduler.
    pub fn with_scheduler(mut self) -> Self {
        let args = kinit_scheduler::Args::parse_from(self.flags("scheduler.conf", &[]));
        self.scheduler = Some(Process::start(|shutdown| kinit_scheduler::run(args, shutdown)));
        self
    }

    fn flags(&self, kubeconfig: &str, more: &[String]) -> Vec<String> {
        let path: PathBuf = self.server.plane.dir.join(kubeconfig);
        let file = |name: &str| self.server.pki.file(name).display().to_string();
        let port = free_port().unwrap();
        self.ports.lock().push(port);
        let mut flags = vec![
            "component".to_owned(),
            format!("--kubeconfig={}", path.display()),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={port}"),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
            "--leader-elect=false".into(),
        ];
        flags.extend_from_slice(more);
        flags
    }

    /// The finished requests of the controller with this service account, as the audit log has them.
    pub fn requests(&self, account: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.logs.path().join("audit.log")).unwrap();
        let user = format!("system:serviceaccount:kube-system:{account}");
        // The last line may be in the middle of being written.
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|e| e["user"]["username"] == user && e["stage"] == "ResponseComplete").collect()
    }

    /// The secure ports of the components, in the order in which they were started.
    pub fn ports(&self) -> Vec<u16> {
        self.ports.lock().clone()
    }

    /// The API of a kind in the namespace `default`.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Creates an object in the namespace `default`.
    pub async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        self.api::<K>().create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    }

    /// The pods with label `app=NAME`, by name.
    pub async fn pods(&self, app: &str) -> Vec<Pod> {
        let params = kube::api::ListParams::default().labels(&format!("app={app}"));
        let mut pods = self.api::<Pod>().list(&params).await.unwrap().items;
        pods.sort_by_key(ResourceExt::name_any);
        pods
    }

    /// Adds a node whose hollow kubelet says of each pod what `says` does.
    pub async fn node(&self, name: &str, says: impl Fn(&Pod) -> Says + Send + Sync + 'static) -> Node {
        let node: NodeObject =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"capacity": {"cpu": "64", "memory": "64Gi", "pods": "5000"},
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}}))
            .unwrap();
        let nodes: Api<NodeObject> = Api::all(self.client.clone());
        nodes.create(&PostParams::default(), &node).await.unwrap();
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": node.status}))).await.unwrap();
        // A new node has the taint not-ready until the node lifecycle controller has seen its condition.
        let untainted = Patch::Merge(json!({"spec": {"taints": null}}));
        nodes.patch(name, &PatchParams::default(), &untainted).await.unwrap();
        Node::start(self.client.clone(), name, says)
    }
}

/// What a kubelet would make of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// It runs and is ready.
    Ready,
    /// It runs and is not ready.
    Unready,
    /// The node does not admit it.
    Refused,
}

/// A hollow kubelet; it ends with this value.
pub struct Node {
    shutdown: Shutdown,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Node {
    fn start(client: Client, name: &str, says: impl Fn(&Pod) -> Says + Send + Sync + 'static) -> Self {
        let shutdown = Shutdown::new();
        let config = watcher::Config::default().fields(&format!("spec.nodeName={name}"));
        let pods: Arc<Store<Pod>> = spawn(Api::all(client.clone()), config, &shutdown);
        let (sender, mut changed) = tokio::sync::mpsc::unbounded_channel();
        pods.on_change(move |change| {
            if !matches!(change, Change::Deleted(_)) {
                // Nobody receives once the node is gone.
                let _ = sender.send(change.object().clone());
            }
        });
        tokio::spawn(async move {
            while let Some(pod) = changed.recv().await {
                let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
                let answer = says(&pod);
                if pod.metadata.deletion_timestamp.is_some() {
                    let _ =
                        api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(over(&pod))).await;
                    let _ = api.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
                } else if let Some(status) = status_of(answer, &pod) {
                    // A pod that is gone meanwhile has no status.
                    let _ = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status)).await;
                }
            }
        });
        Self { shutdown }
    }
}

/// The status of a pod that was ended before its deletion is confirmed.
fn over(pod: &Pod) -> Value {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    json!({"status": {"phase": if phase == Some("Succeeded") { "Succeeded" } else { "Failed" }}})
}

fn status_of(answer: Says, pod: &Pod) -> Option<Value> {
    let had = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("");
    if matches!(had, "Failed" | "Succeeded") {
        return None;
    }
    let (phase, ready) = match answer {
        Says::Ready => ("Running", "True"),
        Says::Unready => ("Running", "False"),
        Says::Refused => ("Failed", "False"),
    };
    let now_ready =
        pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == ready);
    if had == phase && now_ready {
        return None;
    }
    let now = jiff::Timestamp::now().to_string();
    Some(json!({"status": {"phase": phase, "startTime": now, "conditions": [
        {"type": "Ready", "status": ready, "lastTransitionTime": now}]}}))
}

/// Waits until `look` sees something and returns it.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "not seen in {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A pod template of the application `app`.
pub fn template(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "i:1"}]}})
}
