//! How a running server, on a real etcd, behaves where upstream's suites look.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod encodings;
mod fairness;
mod limits;
mod ownership;
mod plugins;
mod proxy;
mod stored;
mod updates;
mod zeros;

use kinit_test_support::TestApiServer;
use reqwest::{Client, Method};
use serde_json::Value;

/// A server and an administrator of it.
pub struct Api {
    /// The server, with its etcd.
    pub server: TestApiServer,
    /// A client with the administrator's certificate; it follows no redirects.
    pub client: Client,
}

impl Api {
    /// A server with the flags of a cluster.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with more flags.
    pub async fn start_with(flags: &[&str]) -> Self {
        let server = TestApiServer::start_with(flags).await.unwrap();
        let client = server.admin().unwrap().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { server, client }
    }

    /// A request as the administrator, not yet sent.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.server.plane.url()))
    }

    /// Sends JSON, or a patch of the given media type; the code and the answer.
    pub async fn send(&self, method: Method, path: &str, media: &str, body: &Value) -> (u16, Value) {
        let request = self.request(method, path).header("content-type", media).body(body.to_string());
        let response = request.send().await.unwrap();
        let code = response.status().as_u16();
        (code, serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default())
    }

    /// Creates an object and gives it as the server answers it; anything but 201 fails the test.
    pub async fn create(&self, path: &str, object: Value) -> Value {
        let (code, answer) = self.send(Method::POST, path, "application/json", &object).await;
        assert_eq!(code, 201, "POST {path}: {answer}");
        answer
    }

    /// The code and the answer's JSON; null if it is none.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        let response = self.request(Method::GET, path).send().await.unwrap();
        let code = response.status().as_u16();
        (code, serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default())
    }

    /// The code and the answer's text.
    pub async fn text(&self, path: &str) -> (u16, String) {
        let response = self.request(Method::GET, path).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// A client of etcd, to do what no API server does.
    pub async fn etcd(&self) -> kinit_etcd_connect::etcd_client::Client {
        kinit_etcd_connect::etcd_client::Client::connect([self.server.etcd_endpoint()], None).await.unwrap()
    }
}

/// Media type of an object.
pub const JSON: &str = "application/json";
/// Media type of a JSON merge patch.
pub const MERGE: &str = "application/merge-patch+json";
/// Media type of a strategic merge patch.
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
