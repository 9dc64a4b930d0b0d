//! The server behind the API server's aggregation, with kubelets of the tests' own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod callers;
mod kubelet;
mod measured;

use std::time::{Duration, Instant};

use base64::Engine;
use clap::Parser;
use kinit_component_base::Shutdown;
use kinit_test_support::{TestApiServer, free_port};
use reqwest::Method;
use serde_json::{Value, json};

use self::kubelet::{Kubelet, Manner};

const USER: &str = "system:metrics-server";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
/// What is served.
pub const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";
const NAME: &str = "metrics-server.kube-system.svc";

/// An API server, kubelets, and the server between them.
pub struct World {
    /// The API server.
    pub api: TestApiServer,
    /// Where the metrics server listens.
    pub port: u16,
    client: reqwest::Client,
    _kubelets: Vec<Kubelet>,
    _dir: tempfile::TempDir,
    shutdown: Shutdown,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl World {
    /// With a node for each kubelet, by name.
    pub async fn start(kubelets: &[(&str, Manner)]) -> Self {
        let api = TestApiServer::start().await.unwrap();
        let client = api.admin().unwrap().build().unwrap();
        let (port, dir) = (free_port().unwrap(), tempfile::tempdir().unwrap());
        let mut world = Self { api, port, client, _kubelets: Vec::new(), _dir: dir, shutdown: Shutdown::new() };
        world.rights().await;
        let account = json!({"metadata": {"name": "default"}, "automountServiceAccountToken": false});
        world.create("/api/v1/namespaces/default/serviceaccounts", &account).await;
        for (name, manner) in kubelets {
            let kubelet = Kubelet::start(&world.api.pki, name, *manner).await;
            let node = json!({"metadata": {"name": name, "labels": {"is": name}},
                "status": {"allocatable": {"cpu": "2", "memory": "4Gi"},
                    "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port}}}});
            world.create("/api/v1/nodes", &node).await;
            world._kubelets.push(kubelet);
        }
        world.serve().await;
        world
    }

    /// No more rights than those that kinit gives (a test of crates/lifecycle/manifests reads the same file).
    async fn rights(&self) {
        const GROUP: &str = "rbac.authorization.k8s.io";
        let rules: Value = serde_json::from_str(include_str!("../role.json")).unwrap();
        for (place, kind, key) in [("", "ClusterRole", "cluster"), ("/namespaces/kube-system", "Role", "kube-system")] {
            let role = json!({"metadata": {"name": USER}, "rules": rules[key]});
            let binding = json!({"metadata": {"name": USER}, "roleRef": {"apiGroup": GROUP, "kind": kind, "name": USER},
                "subjects": [{"apiGroup": GROUP, "kind": "User", "name": USER}]});
            let plural = kind.to_lowercase();
            self.create(&format!("{RBAC}{place}/{plural}s"), &role).await;
            self.create(&format!("{RBAC}{place}/{plural}bindings"), &binding).await;
        }
    }

    /// Starts the server as kinit does, and has the API server ask it.
    async fn serve(&self) {
        let kubeconfig = self._dir.path().join("metrics-server.conf");
        std::fs::write(&kubeconfig, self.api.kubeconfig_for(USER, &[]).unwrap()).unwrap();
        self.api.pki.server("metrics-server", "metrics-server", &[], &[NAME]).unwrap();
        let file = |name: &str| self.api.pki.file(name).display().to_string();
        let mut args = kinit_metrics_server::Args::parse_from([
            "metrics-server".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            format!("--tls-cert-file={}", file("metrics-server.crt")),
            format!("--tls-private-key-file={}", file("metrics-server.key")),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            "--kubelet-use-node-status-port".to_owned(),
            "--kubelet-request-timeout=300ms".to_owned(),
        ]);
        args.metric_resolution = Duration::from_millis(400);
        tokio::spawn(kinit_metrics_server::run(args, self.shutdown.clone()));
        let service = json!({"metadata": {"name": "metrics-server"},
            "spec": {"type": "ExternalName", "externalName": "127.0.0.1"}});
        self.create("/api/v1/namespaces/kube-system/services", &service).await;
        let ca = base64::engine::general_purpose::STANDARD.encode(std::fs::read(self.api.pki.file("ca.crt")).unwrap());
        let spec = json!({"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100,
            "versionPriority": 100, "caBundle": ca,
            "service": {"namespace": "kube-system", "name": "metrics-server", "port": self.port}});
        let object = json!({"metadata": {"name": "v1beta1.metrics.k8s.io"}, "spec": spec});
        self.create("/apis/apiregistration.k8s.io/v1/apiservices", &object).await;
    }

    /// Creates an object.
    pub async fn create(&self, path: &str, object: &Value) {
        let url = format!("{}{path}", self.api.plane.url());
        let request = self.client.request(Method::POST, url).header("content-type", "application/json");
        let response = request.body(object.to_string()).send().await.unwrap();
        let code = response.status().as_u16();
        assert_eq!(code, 201, "{path}: {}", response.text().await.unwrap());
    }

    /// A pod that is said to run.
    pub async fn pod(&self, name: &str, labels: Value) {
        let path = "/api/v1/namespaces/default/pods";
        self.create(
            path,
            &json!({"metadata": {"name": name, "labels": labels},
            "spec": {"nodeName": "good", "containers": [{"name": "a", "image": "i"}]}}),
        )
        .await;
        let url = format!("{}{path}/{name}/status", self.api.plane.url());
        let request = self.client.patch(url).header("content-type", "application/merge-patch+json");
        let response = request.body(json!({"status": {"phase": "Running"}}).to_string()).send().await.unwrap();
        assert_eq!(response.status(), 200);
    }

    /// GET as the administrator, through the API server.
    pub async fn get(&self, path: &str, accept: &str) -> (u16, Value) {
        let request = self.client.get(format!("{}{path}", self.api.plane.url())).header("accept", accept);
        let response = request.send().await.unwrap();
        let code = response.status().as_u16();
        let text = response.text().await.unwrap();
        (code, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Waits until what is at a path is as wanted.
    pub async fn until(&self, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let (code, answer) = self.get(path, "application/json").await;
            if wanted(code, &answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{path} is not as wanted: {code} {answer}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
