//! Extension API servers behind APIServices, on a running server and a real etcd.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad;
mod extension;
mod kubectl;
mod local;
mod proxied;

use std::time::Duration;

use base64::Engine;
use kinit_test_support::TestApiServer;
use reqwest::Method;
use serde_json::{Value, json};

use self::extension::{Extension, Manner};

/// Where APIServices are.
pub const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
/// The one of the extension server.
pub const METRICS: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io";
/// What the extension server serves.
pub const NODES: &str = "/apis/metrics.k8s.io/v1beta1/nodes";
/// The form of discovery that clients ask for.
pub const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A cluster.
pub struct World {
    /// The server, with its etcd.
    pub api: TestApiServer,
    client: reqwest::Client,
}

impl World {
    /// Without extension servers.
    pub async fn start() -> Self {
        let api = TestApiServer::start().await.unwrap();
        let client = api.admin().unwrap().build().unwrap();
        Self { api, client }
    }

    /// With an extension server that is available.
    pub async fn with_extension(manner: Manner) -> (Self, Extension) {
        let world = Self::start().await;
        let extension = Extension::start(&world.api.pki, "metrics.kube-system.svc", manner).await;
        world.register(&extension, json!({})).await;
        world.until(METRICS, |o| reason(o) == "Passed").await;
        (world, extension)
    }

    /// A Service that leads to an extension server, and an APIService of it with these changes to its spec.
    pub async fn register(&self, extension: &Extension, changes: Value) {
        let service =
            json!({"metadata": {"name": "metrics"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
        let (code, answer) = self.send(Method::POST, "/api/v1/namespaces/kube-system/services", &service).await;
        assert!(matches!(code, 201 | 409), "{answer}");
        let (code, answer) = self.send(Method::POST, SERVICES, &self.api_service(extension.port, changes)).await;
        assert_eq!(code, 201, "{answer}");
    }

    /// An APIService of what listens at this port, with these changes to its spec.
    pub fn api_service(&self, port: u16, changes: Value) -> Value {
        let ca = base64::engine::general_purpose::STANDARD.encode(std::fs::read(self.api.pki.file("ca.crt")).unwrap());
        let mut spec = json!({"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "caBundle": ca, "service": {"namespace": "kube-system", "name": "metrics", "port": port}});
        for (key, value) in changes.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": "v1beta1.metrics.k8s.io"}, "spec": spec})
    }

    /// A request as the administrator, not yet sent.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.api.plane.url()))
    }

    /// Sends a document; the code and the answer, which is text where it is no JSON.
    pub async fn send(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        self.send_as(method, path, "application/json", body).await
    }

    /// The same, of this media type.
    pub async fn send_as(&self, method: Method, path: &str, media: &str, body: &Value) -> (u16, Value) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let response = self.request(method, path).header("content-type", media).body(text).send().await.unwrap();
        let code = response.status().as_u16();
        let text = response.text().await.unwrap();
        (code, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// GET; the code and the answer.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.send(Method::GET, path, &Value::Null).await
    }

    /// The aggregated discovery of a group, null if it is not there.
    pub async fn discovery(&self, group: &str) -> Value {
        let request = self.request(Method::GET, "/apis").header("accept", AGGREGATED);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == group).cloned().unwrap_or_default()
    }

    /// Waits until what is at a path is as wanted.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let waited = async {
            loop {
                let (_, answer) = self.get(path).await;
                if wanted(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), waited).await {
            Ok(answer) => answer,
            Err(_) => panic!("{path} is not as wanted: {}", self.get(path).await.1),
        }
    }
}

/// The condition Available.
pub fn available(object: &Value) -> Value {
    let list = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    list.into_iter().find(|c| c["type"] == "Available").unwrap_or_default()
}

/// Its reason.
pub fn reason(object: &Value) -> String {
    available(object)["reason"].as_str().unwrap_or_default().to_owned()
}
