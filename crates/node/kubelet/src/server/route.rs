//! Paths to handlers.

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use kinit_component_base::metrics;
use kinit_cri::v1::{ContainerState, ListContainersRequest, ListPodSandboxRequest, PodSandboxState};
use serde_json::json;

use super::{Body, Server, cadvisor, exec, follow, forward, stats, text, typed};
use crate::names;

/// A query's values, decoded, in order.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses a query string.
    pub fn parse(query: &str) -> Self {
        let decode = |s: &str| percent(&s.replace('+', " "));
        Self(
            query
                .split('&')
                .filter(|p| !p.is_empty())
                .map(|p| p.split_once('=').unwrap_or((p, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }
    /// The first value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }
    /// All values.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == name).map(|(_, v)| v.clone()).collect()
    }
    /// Whether a value says yes.
    pub fn on(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| matches!(v, "1" | "t" | "T" | "true" | "TRUE" | "True"))
    }
}

fn percent(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let [first, rest @ ..] = bytes {
        let hex = (*first == b'%').then(|| rest.get(..2)).flatten().and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                bytes = &rest[2..];
            }
            None => {
                out.push(*first);
                bytes = rest;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Answers an authorized request.
pub async fn route(server: &Server, request: Request<Incoming>) -> Response<Body> {
    let path = percent(request.uri().path());
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let query = Query::parse(request.uri().query().unwrap_or(""));
    let get = request.method() == Method::GET;
    if server.kubelet.config.enable_debugging_handlers == Some(false)
        && matches!(parts.as_slice(), ["containerLogs" | "exec" | "attach" | "portForward" | "runningpods", ..])
    {
        return text(StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.\n");
    }
    match parts.as_slice() {
        ["healthz"] if get => text(StatusCode::OK, "ok"),
        ["metrics"] if get => {
            count(server).await;
            typed(StatusCode::OK, metrics::CONTENT_TYPE, metrics::global().render())
        }
        ["metrics", "resource"] if get => stats::resource(server).await,
        ["metrics", "cadvisor"] if get => cadvisor::serve(server).await,
        ["metrics", "probes"] if get => {
            typed(StatusCode::OK, metrics::CONTENT_TYPE, server.kubelet.metrics.probes.render())
        }
        ["stats", "summary"] if get => stats::summary(server).await,
        ["pods"] if get => pods(server),
        ["runningpods"] if get => running(server).await,
        ["containerLogs", namespace, pod, container] if get => {
            follow::serve(server, namespace, pod, container, &query).await
        }
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            exec::serve(server, exec::What::Exec, namespace, pod, container, &query, request).await
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            exec::serve(server, exec::What::Attach, namespace, pod, container, &query, request).await
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            forward::serve(server, namespace, pod, request).await
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn list(items: Vec<serde_json::Value>) -> Response<Body> {
    let body = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    typed(StatusCode::OK, "application/json", body.to_string())
}

fn pods(server: &Server) -> Response<Body> {
    list(server.manager.pods().into_iter().filter_map(|p| serde_json::to_value(p).ok()).collect())
}

/// Looks at what runs, for `/metrics`. What the runtime does not tell stays as it was.
async fn count(server: &Server) {
    let runtime = &server.kubelet.runtime;
    let containers = runtime.list_containers(ListContainersRequest::default()).await;
    let sandboxes = runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await;
    let (Ok(containers), Ok(sandboxes)) = (containers, sandboxes) else { return };
    let ready = sandboxes.items.iter().filter(|s| s.state == PodSandboxState::SandboxReady as i32).count();
    let of = |state: ContainerState| containers.containers.iter().filter(|c| c.state == state as i32).count();
    let states = [
        ("created", ContainerState::ContainerCreated),
        ("exited", ContainerState::ContainerExited),
        ("running", ContainerState::ContainerRunning),
        ("unknown", ContainerState::ContainerUnknown),
    ];
    server.kubelet.metrics.running(ready, states.map(|(name, state)| (name, of(state))));
}

/// Pods by what the runtime runs, not by what is wanted.
async fn running(server: &Server) -> Response<Body> {
    let containers = match server.kubelet.runtime.list_containers(ListContainersRequest::default()).await {
        Ok(answer) => answer.containers,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let mut pods = std::collections::BTreeMap::<String, serde_json::Value>::new();
    for container in containers.into_iter().filter(|c| c.state == ContainerState::ContainerRunning as i32) {
        let label = |name: &str| container.labels.get(name).cloned().unwrap_or_default();
        let pod = pods.entry(label(names::POD_UID)).or_insert_with(|| {
            json!({"metadata": {"name": label(names::POD_NAME), "namespace": label(names::POD_NAMESPACE), "uid": label(names::POD_UID)},
                   "spec": {"containers": []}, "status": {}})
        });
        let image = container.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
        if let Some(list) = pod["spec"]["containers"].as_array_mut() {
            list.push(json!({"name": label(names::CONTAINER_NAME), "image": image, "resources": {}}));
        }
    }
    list(pods.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let q = Query::parse("command=sh&command=-c&command=echo%20a%2Bb+c&input=1&tty=false&follow");
        assert_eq!(q.all("command"), ["sh", "-c", "echo a+b c"]);
        assert_eq!((q.on("input"), q.on("tty"), q.on("nope")), (true, false, false));
        assert_eq!(percent("%zz%4"), "%zz%4");
    }
}
