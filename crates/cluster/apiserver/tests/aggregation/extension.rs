//! A small extension API server: `metrics.k8s.io/v1beta1`, and ways to misbehave.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use kinit_apiserver::http::{ApiResponse, respond};
use kinit_component_base::Shutdown;
use kinit_component_base::ciphers::TlsArgs;
use kinit_component_base::serve::serve;
use kinit_component_base::tls::{ClientAuth, ReloadingCert, server_config};
use kinit_test_support::pki::TestPki;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As it should; with the aggregated form of discovery as well.
    Good,
    /// Only the older form of discovery, and OpenAPI v2.
    Old,
    /// Takes requests and never answers.
    Hangs,
    /// A page for every question.
    Html,
    /// Answers that do not end.
    Endless,
    /// Claims other groups, and nonsense.
    Lies,
    /// 404 for everything.
    Empty,
}

/// What it was sent: method and path, and the headers.
pub type Seen = Arc<Mutex<Vec<(String, Vec<(String, String)>)>>>;

/// A running extension server.
pub struct Extension {
    pub port: u16,
    pub seen: Seen,
    manner: Arc<Mutex<Manner>>,
    shutdown: Shutdown,
}

impl Drop for Extension {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Extension {
    /// Serves with a certificate for this name; clients must show one of the front proxies' CA.
    pub async fn start(pki: &TestPki, name: &str, manner: Manner) -> Self {
        pki.server(name, name, &[], &[name]).unwrap();
        let cert = ReloadingCert::load(&pki.file(&format!("{name}.crt")), &pki.file(&format!("{name}.key"))).unwrap();
        let tls =
            server_config(cert, &ClientAuth::Required(pki.file("front-proxy-ca.crt")), &TlsArgs::default()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, shutdown, manner) = (Seen::default(), Shutdown::new(), Arc::new(Mutex::new(manner)));
        let (log, how) = (seen.clone(), manner.clone());
        tokio::spawn(serve(listener, Some(tls), shutdown.clone(), move |request| {
            answer(log.clone(), how.clone(), request)
        }));
        Self { port, seen, manner, shutdown }
    }

    /// From now on it behaves so.
    pub fn behave(&self, manner: Manner) {
        *self.manner.lock() = manner;
    }

    /// The values of a header in the last request for a path.
    pub fn header(&self, path: &str, name: &str) -> Vec<String> {
        let seen = self.seen.lock();
        let (_, headers) =
            seen.iter().rev().find(|(p, _)| p == path).unwrap_or_else(|| panic!("{path} was not asked for"));
        headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect()
    }
}

async fn answer(seen: Seen, manner: Arc<Mutex<Manner>>, request: Request<Incoming>) -> ApiResponse {
    let path = request.uri().path().to_owned();
    let headers = request.headers().iter();
    let headers = headers.map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect();
    seen.lock().push((format!("{} {path}", request.method()), headers));
    let manner = *manner.lock();
    match manner {
        Manner::Hangs => std::future::pending().await,
        Manner::Html => return respond::bytes(200, "text/html", "<html><body>Welcome to nginx!</body></html>"),
        Manner::Endless => return respond_with(endless()),
        Manner::Empty => return respond::text(404, "404 page not found"),
        _ => {}
    }
    if let Some(value) = documents(manner, &path) {
        let aggregated = value["kind"] == "APIGroupDiscoveryList";
        let media = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        return respond::bytes(200, if aggregated { media } else { "application/json" }, value.to_string());
    }
    match path.trim_start_matches("/apis/metrics.k8s.io/v1beta1/") {
        "echo" => {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let text =
                format!("{} {} {}", parts.method, parts.uri.path_and_query().unwrap(), String::from_utf8_lossy(&body));
            respond::text(200, text)
        }
        "stream" => respond_with(slowly()),
        "talk" => talk(request),
        "away" => {
            let mut response = respond::text(302, "");
            respond::set_header(&mut response, "location", "https://elsewhere.example.com/");
            response
        }
        _ => respond::text(404, "404 page not found"),
    }
}

fn documents(manner: Manner, path: &str) -> Option<Value> {
    let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.k8s.io/v1beta1", "resources": [
        {"name": "nodes", "singularName": "", "namespaced": false, "kind": "NodeMetrics", "verbs": ["get", "list"]},
        {"name": "pods", "singularName": "", "namespaced": true, "kind": "PodMetrics", "verbs": ["get", "list"]}]});
    let usage = json!({"cpu": "250m", "memory": "512Mi"});
    let now = "2026-01-01T00:00:00Z";
    let node = json!({"kind": "NodeMetrics", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {"name": "n1"},
        "timestamp": now, "window": "10s", "usage": usage});
    let pod = json!({"kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": {"name": "p1", "namespace": "default"}, "timestamp": now, "window": "10s",
        "containers": [{"name": "c", "usage": usage}]});
    let of = |kind: &str, item: Value| json!({"kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": [item]});
    let kind = json!([{"group": "metrics.k8s.io", "version": "v1beta1", "kind": "NodeMetrics"}]);
    let schemas = json!({"io.k8s.metrics.v1beta1.NodeMetrics": {"type": "object", "description": "What a node uses.",
            "properties": {"timestamp": {"type": "string"}}, "x-kubernetes-group-version-kind": kind},
        "io.k8s.api.core.v1.Pod": {"type": "object", "description": "a lie", "x-kubernetes-group-version-kind": kind}});
    let get = json!({"x-kubernetes-group-version-kind": kind[0], "responses": {}});
    let paths = json!({"/apis/metrics.k8s.io/v1beta1/nodes": {"get": get}});
    let aggregated = |group: &str, version: &str, name: &str| {
        json!({"metadata": {"name": group}, "versions": [{"version": version, "resources": [{"resource": name,
            "responseKind": {"group": "", "version": "", "kind": "NodeMetrics"}, "scope": "Cluster", "verbs": ["get"]}]}]})
    };
    Some(match path {
        "/apis" if manner == Manner::Good => {
            json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
            "items": [aggregated("metrics.k8s.io", "v1beta1", "nodes")]})
        }
        "/apis" if manner == Manner::Lies => json!({"kind": "APIGroupDiscoveryList", "items": [
            aggregated("apps", "v1", "liars"), aggregated("metrics.k8s.io", "v1beta1", "a/b"), 7]}),
        "/apis/metrics.k8s.io/v1beta1" => list,
        "/apis/metrics.k8s.io/v1beta1/nodes" => of("NodeMetricsList", node),
        "/apis/metrics.k8s.io/v1beta1/nodes/n1" => node,
        "/apis/metrics.k8s.io/v1beta1/pods" | "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods" => {
            of("PodMetricsList", pod)
        }
        "/openapi/v3" if manner == Manner::Good => json!({"paths": {"apis/metrics.k8s.io/v1beta1":
            {"serverRelativeURL": "/openapi/v3/apis/metrics.k8s.io/v1beta1?hash=1"}}}),
        "/openapi/v3/apis/metrics.k8s.io/v1beta1" => {
            json!({"openapi": "3.0.0", "info": {}, "paths": paths, "components": {"schemas": schemas}})
        }
        "/openapi/v2" => json!({"swagger": "2.0", "info": {}, "paths": paths, "definitions": schemas}),
        _ => return None,
    })
}

type Frames = std::pin::Pin<Box<dyn futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

fn respond_with(frames: Frames) -> ApiResponse {
    let mut response = ApiResponse::new(StreamBody::new(frames).boxed_unsync());
    respond::set_header(&mut response, "content-type", "application/json");
    response
}

fn endless() -> Frames {
    Box::pin(futures::stream::repeat_with(|| Ok(Frame::data(Bytes::from(vec![b' '; 64 * 1024])))))
}

/// Two lines, the second long after the first.
fn slowly() -> Frames {
    Box::pin(futures::stream::unfold(0, |n| async move {
        if n == 1 {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        (n < 2).then(|| (Ok(Frame::data(Bytes::from(format!("line {n}\n")))), n + 1))
    }))
}

/// Upgrades, and gives back what it is sent, in capitals.
fn talk(mut request: Request<Incoming>) -> ApiResponse {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        let mut bytes = [0; 64];
        while let Ok(n @ 1..) = stream.read(&mut bytes).await {
            stream.write_all(&bytes[..n].to_ascii_uppercase()).await.unwrap();
        }
    });
    let mut response = ApiResponse::new(respond::full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    respond::set_header(&mut response, "connection", "Upgrade");
    respond::set_header(&mut response, "upgrade", "shout");
    response
}
