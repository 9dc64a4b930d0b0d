//! Custom resources, on a running server and a real etcd.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod admission;
mod definitions;
mod kubectl;
mod objects;
mod ownership;
mod rules;
mod schemas;
mod versions;

use std::time::Duration;

use kinit_test_support::TestApiServer;
use reqwest::{Client, Method};
use serde_json::{Value, json};

/// Where definitions are.
pub const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// Where the widgets of [`widgets`] are.
pub const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";
/// Media type of an object.
pub const JSON: &str = "application/json";
/// Media type of a JSON merge patch.
pub const MERGE: &str = "application/merge-patch+json";

/// A server and an administrator of it.
pub struct Api {
    /// The server, with its etcd.
    pub server: TestApiServer,
    /// A client with the administrator's certificate.
    pub client: Client,
    url: String,
}

impl Api {
    /// A server.
    pub async fn start() -> Self {
        let server = TestApiServer::start().await.unwrap();
        let client = server.admin().unwrap().build().unwrap();
        let url = server.plane.url();
        Self { server, client, url }
    }

    /// A request as the administrator, not yet sent.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// Sends a document; the code, the answer and the warnings.
    pub async fn send(&self, method: Method, path: &str, media: &str, body: &Value) -> (u16, Value, Vec<String>) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let request = self.request(method, path).header("content-type", media).body(text);
        let response = request.send().await.unwrap();
        let code = response.status().as_u16();
        let warnings = response.headers().get_all("warning").iter();
        let warnings = warnings.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect();
        (code, serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default(), warnings)
    }

    /// POST; the code and the answer.
    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (code, answer, _) = self.send(Method::POST, path, JSON, body).await;
        (code, answer)
    }

    /// A merge patch; the code and the answer.
    pub async fn merge(&self, path: &str, body: &Value) -> (u16, Value) {
        let (code, answer, _) = self.send(Method::PATCH, path, MERGE, body).await;
        (code, answer)
    }

    /// PUT; the code and the answer.
    pub async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        let (code, answer, _) = self.send(Method::PUT, path, JSON, body).await;
        (code, answer)
    }

    /// DELETE; the code and the answer.
    pub async fn delete(&self, path: &str) -> (u16, Value) {
        let (code, answer, _) = self.send(Method::DELETE, path, JSON, &Value::Null).await;
        (code, answer)
    }

    /// GET; the code and the answer.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        let (code, answer, _) = self.send(Method::GET, path, JSON, &Value::Null).await;
        (code, answer)
    }

    /// Creates an object and gives it as the server answers it; anything but 201 fails the test.
    pub async fn create(&self, path: &str, object: &Value) -> Value {
        let (code, answer) = self.post(path, object).await;
        assert_eq!(code, 201, "POST {path}: {answer}");
        answer
    }

    /// Creates a definition and waits until its resource is served.
    pub async fn define(&self, definition: &Value) -> Value {
        let name = self.create(DEFINITIONS, definition).await["metadata"]["name"].as_str().unwrap().to_owned();
        self.until(&format!("{DEFINITIONS}/{name}"), |d| condition(d, "Established") == "True").await
    }

    /// Waits until what is at a path is as wanted.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let waited = async {
            loop {
                let (_, answer) = self.get(path).await;
                if wanted(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(10), waited).await {
            Ok(answer) => answer,
            Err(_) => panic!("{path} is not as wanted: {}", self.get(path).await.1),
        }
    }

    /// The events of a watch that lasts a second after `since`.
    pub async fn watched(&self, path: &str, since: &str) -> Vec<Value> {
        let mark = if path.contains('?') { '&' } else { '?' };
        let url = format!("{path}{mark}watch=1&timeoutSeconds=1&resourceVersion={since}");
        let text = self.request(Method::GET, &url).send().await.unwrap().text().await.unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The status of a condition.
pub fn condition(object: &Value, kind: &str) -> String {
    let list = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = list.iter().find(|c| c["type"] == kind);
    found.map(|c| c["status"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
}

/// A definition of widgets in one version, with this schema of `spec`.
pub fn widgets(spec: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.selector"}},
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "additionalPrinterColumns": [{"name": "Color", "type": "string", "jsonPath": ".spec.color"},
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}],
                "schema": {"openAPIV3Schema": {"type": "object", "description": "A widget.",
                    "properties": {"spec": spec, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]}})
}

/// A usual schema of `spec`.
pub fn plain() -> Value {
    json!({"type": "object", "description": "What is wanted.", "properties": {
        "color": {"type": "string", "enum": ["red", "green", "blue"], "description": "Its color."},
        "replicas": {"type": "integer", "minimum": 0, "maximum": 10},
        "size": {"type": "string", "default": "small"}}})
}

/// A widget.
pub fn widget(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}
