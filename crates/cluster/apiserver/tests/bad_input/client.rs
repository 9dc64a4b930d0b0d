//! Raw requests and what is expected of their answers.

use kinit_test_support::TestApiServer;
use reqwest::{Client, Method, Version};
use serde_json::Value;

pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// A server and an administrator's clients of it, one per version of HTTP.
pub struct Api {
    pub server: TestApiServer,
    clients: [Client; 2],
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
    pub text: String,
}

impl Api {
    pub async fn start() -> Self {
        let server = TestApiServer::start().await.unwrap();
        let admin = || server.admin().unwrap();
        let clients = [admin().http1_only().build().unwrap(), admin().build().unwrap()];
        Self { server, clients }
    }

    /// Sends over HTTP/2.
    pub async fn send(&self, ask: &TestRequest) -> Answer {
        self.send_as(ask, Version::HTTP_2).await
    }

    pub async fn send_as(&self, ask: &TestRequest, version: Version) -> Answer {
        let client = &self.clients[usize::from(version == Version::HTTP_2)];
        let mut request = client.request(ask.method.clone(), format!("{}{}", self.server.plane.url(), ask.path));
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let response = request.body(ask.body.clone()).send().await.unwrap_or_else(|e| panic!("{ask:?}: {e:?}"));
        assert_eq!(response.version(), version);
        let code = response.status().as_u16();
        let text = response.text().await.unwrap();
        Answer { code, body: serde_json::from_str(&text).unwrap_or_default(), text }
    }

    /// Creates an object that must be good.
    pub async fn create(&self, path: &str, object: Value) -> Value {
        let answer = self.send(&post(path, &object)).await;
        assert_eq!(answer.code, 201, "{}", answer.text);
        answer.body
    }

    /// Every request of the table gets its code, its reason and the beginning of its message, over both versions of
    /// HTTP.
    pub async fn check(&self, table: Vec<(&str, TestRequest, (u16, &str, &str))>) {
        let mut wrong = Vec::new();
        for (name, ask, (code, reason, message)) in table {
            for version in [Version::HTTP_11, Version::HTTP_2] {
                let answer = self.send_as(&ask, version).await;
                let said = answer.body["message"].as_str().unwrap_or(&answer.text);
                let as_expected = answer.code == code
                    && answer.body["reason"].as_str().unwrap_or_default() == reason
                    && said.starts_with(message)
                    && (code < 400 || (answer.body["kind"] == "Status" && answer.body["code"] == code));
                if !as_expected {
                    let got = answer.text.chars().take(600).collect::<String>();
                    wrong.push(format!(
                        "{name} ({version:?}):\n  want {code} {reason} {message}\n  got  {} {got}",
                        answer.code
                    ));
                    break;
                }
            }
        }
        assert!(wrong.is_empty(), "{} wrong answers\n{}", wrong.len(), wrong.join("\n"));
    }
}

/// A request.
#[derive(Debug, Clone)]
pub struct TestRequest {
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

pub fn ask(method: &str, path: impl Into<String>) -> TestRequest {
    TestRequest { method: method.parse().unwrap(), path: path.into(), headers: Vec::new(), body: Vec::new() }
}

pub fn get(path: impl Into<String>) -> TestRequest {
    ask("GET", path)
}

pub fn post(path: &str, object: &Value) -> TestRequest {
    ask("POST", path).json(object)
}

pub fn patch(path: &str, kind: &str, body: impl AsRef<[u8]>) -> TestRequest {
    let media = match kind {
        "json" => "application/json-patch+json",
        "merge" => "application/merge-patch+json",
        "strategic" => "application/strategic-merge-patch+json",
        "apply" => "application/apply-patch+yaml",
        other => other,
    };
    ask("PATCH", path).bytes(media, body)
}

impl TestRequest {
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn json(self, object: &Value) -> Self {
        self.bytes("application/json", object.to_string())
    }

    pub fn bytes(mut self, media: &str, body: impl AsRef<[u8]>) -> Self {
        self.headers.push(("content-type", media.to_owned()));
        self.body = body.as_ref().to_vec();
        self
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}
