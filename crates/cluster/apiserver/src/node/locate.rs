//! Which address and path a subresource stands for (`pkg/registry/core/pod/strategy.go` and `node/strategy.go`).

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::{Scheme, Target};
use crate::http::info::query_pairs;
use crate::registry::Request;

/// Finds the target of a request.
pub async fn target(request: &Request, query: &str) -> Result<Target, ApiError> {
    match (request.desc.plural.as_str(), request.info.subresource.as_str()) {
        (_, "proxy") => super::proxy::target(request, query).await,
        ("pods", sub) => container(request, sub, query).await,
        _ => Err(ApiError::no_such_path()),
    }
}

pub(super) async fn object(
    request: &Request,
    prefix: &str,
    key: &str,
    plural: &str,
    name: &str,
) -> Result<Value, ApiError> {
    let entry = request.server.store.get(prefix, key).await.map_err(|e| request.storage_error(e))?;
    Ok(entry.ok_or_else(|| ApiError::not_found("", plural, name))?.value())
}

pub(super) async fn kubelet(request: &Request, node: &str) -> Result<(String, u16), ApiError> {
    let node_object = object(request, "minions/", node, "nodes", node).await?;
    let addresses = node_object.at(&["status", "addresses"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let host = request
        .server
        .kubelets
        .preferred
        .iter()
        .find_map(|kind| addresses.iter().find(|a| a.str_at(&["type"]) == kind))
        .map(|a| a.str_at(&["address"]).to_owned());
    let host = host.ok_or_else(|| {
        ApiError::internal(format!("no preferred addresses found; known addresses: {}", Value::from(addresses)))
    })?;
    let port = node_object
        .at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"])
        .and_then(Value::as_u64)
        .and_then(|p| u16::try_from(p).ok())
        .filter(|p| *p > 0)
        .unwrap_or(10250);
    Ok((host, port))
}

pub(super) fn with_query(path: &str, query: &str) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

fn keep(byte: u8, extra: &[u8]) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || extra.contains(&byte)
}

fn encode(text: &str, extra: &[u8]) -> String {
    text.bytes().map(|b| if keep(b, extra) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

async fn container(request: &Request, sub: &str, query: &str) -> Result<Target, ApiError> {
    let name = &request.info.name;
    let namespace = &request.info.namespace;
    let pod = object(request, "pods/", &request.key(), "pods", name).await?;
    let node = pod.str_at(&["spec", "nodeName"]).to_owned();
    let pairs = query_pairs(query);
    let container = match sub {
        "portforward" => String::new(),
        _ => container_name(&pod, &pairs)?,
    };
    if node.is_empty() {
        if sub == "log" {
            // Not started yet: no log, not an error, as upstream has it.
            return Err(ApiError::bad_request(format!(
                "container \"{container}\" in pod \"{name}\" is waiting to start: pod is not scheduled"
            )));
        }
        return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let (host, port) = kubelet(request, &node).await?;
    let (root, keys): (&str, &[(&str, &str)]) = match sub {
        "log" => ("containerLogs", LOG),
        "exec" => ("exec", STREAM),
        "attach" => ("attach", STREAM),
        _ => ("portForward", &[("ports", "port")]),
    };
    let mut path = format!("/{root}/{}/{}", encode(namespace, b""), encode(name, b""));
    if !container.is_empty() {
        path.push_str(&format!("/{}", encode(&container, b"")));
    }
    let wanted: Vec<String> = pairs
        .iter()
        .filter_map(|(key, value)| {
            let (_, theirs) = keys.iter().find(|(ours, _)| ours == key)?;
            let value = match *theirs {
                "input" | "output" | "error" | "tty" => {
                    if !matches!(value.as_str(), "true" | "1" | "") {
                        return None;
                    }
                    "1".to_owned()
                }
                _ => encode(value, b""),
            };
            Some(format!("{theirs}={value}"))
        })
        .collect();
    Ok(Target { host, port, scheme: Scheme::Kubelet, path_and_query: with_query(&path, &wanted.join("&")) })
}

const LOG: &[(&str, &str)] = &[
    ("follow", "follow"),
    ("previous", "previous"),
    ("sinceSeconds", "sinceSeconds"),
    ("sinceTime", "sinceTime"),
    ("timestamps", "timestamps"),
    ("tailLines", "tailLines"),
    ("limitBytes", "limitBytes"),
    ("stream", "stream"),
];
const STREAM: &[(&str, &str)] =
    &[("command", "command"), ("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];

fn container_name(pod: &Value, query: &[(String, String)]) -> Result<String, ApiError> {
    let names = |list: &str| -> Vec<String> {
        pod["spec"][list].as_array().into_iter().flatten().map(|c| c.str_at(&["name"]).to_owned()).collect()
    };
    let (main, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let asked = query.iter().find(|(k, _)| k == "container").map(|(_, v)| v.clone()).unwrap_or_default();
    if !asked.is_empty() {
        if [&main, &init, &ephemeral].iter().any(|l| l.contains(&asked)) {
            return Ok(asked);
        }
        return Err(ApiError::bad_request(format!("container {asked} is not valid for pod {}", pod.name())));
    }
    match main.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(ApiError::bad_request(format!("a container name must be specified for pod {}", pod.name()))),
        many => {
            let mut text = format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                pod.name(),
                many.join(" ")
            );
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(ApiError::bad_request(text))
        }
    }
}
