//! Which address and path a subresource stands for (`pkg/registry/core/pod/strategy.go` and `node/strategy.go`).

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::Target;
use crate::http::info::query_pairs;
use crate::registry::Request;

/// Finds the target of a request.
pub async fn target(request: &Request, query: &str) -> Result<Target, ApiError> {
    match (request.desc.plural.as_str(), request.info.subresource.as_str()) {
        ("nodes", "proxy") => node_proxy(request, query).await,
        ("pods", "proxy") => pod_proxy(request, query).await,
        ("services", "proxy") => service_proxy(request, query),
        ("pods", sub) => container(request, sub, query).await,
        _ => Err(ApiError::no_such_path()),
    }
}

async fn object(request: &Request, prefix: &str, key: &str, plural: &str, name: &str) -> Result<Value, ApiError> {
    let entry = request.server.store.get(prefix, key).await.map_err(|e| request.storage_error(e))?;
    Ok(entry.ok_or_else(|| ApiError::not_found("", plural, name))?.value())
}

async fn kubelet(request: &Request, node: &str) -> Result<(String, u16), ApiError> {
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

async fn node_proxy(request: &Request, query: &str) -> Result<Target, ApiError> {
    // NAME or NAME:PORT; another port than the kubelet's would be a way around it, so only that one is taken.
    let name = request.info.name.split(':').next().unwrap_or_default().to_owned();
    let (host, port) = kubelet(request, &name).await?;
    let path = with_query(&format!("/{}", encode_path(&request.info.rest)), query);
    Ok(Target { host, port, kubelet: true, path_and_query: path })
}

fn with_query(path: &str, query: &str) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

fn keep(byte: u8, extra: &[u8]) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || extra.contains(&byte)
}

fn encode(text: &str, extra: &[u8]) -> String {
    text.bytes().map(|b| if keep(b, extra) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn encode_path(text: &str) -> String {
    encode(text, b"/:@!$&'()*+,;=")
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
    Ok(Target { host, port, kubelet: true, path_and_query: with_query(&path, &wanted.join("&")) })
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

/// `[scheme:]name[:port]` of pods/proxy and services/proxy.
fn split(name: &str) -> Result<(String, String), ApiError> {
    let parts: Vec<&str> = name.split(':').collect();
    match parts.as_slice() {
        [name] => Ok(((*name).to_owned(), String::new())),
        ["http" | "", name, port] => Ok(((*name).to_owned(), (*port).to_owned())),
        ["https", ..] => Err(ApiError::bad_request("proxying over https is not supported")),
        [name, port] => Ok(((*name).to_owned(), (*port).to_owned())),
        _ => Err(ApiError::bad_request(format!("invalid request \"{name}\""))),
    }
}

async fn pod_proxy(request: &Request, query: &str) -> Result<Target, ApiError> {
    let (name, port) = split(&request.info.name)?;
    let pod = object(request, "pods/", &request.desc.key(&request.info.namespace, &name), "pods", &name).await?;
    let host = pod.str_at(&["status", "podIP"]).to_owned();
    if host.is_empty() {
        return Err(ApiError::unavailable(format!("pod {name} has no address yet")));
    }
    let port = if port.is_empty() {
        let first = pod["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|c| c.at(&["ports"])?.get(0)?.get("containerPort")?.as_u64());
        first.and_then(|p| u16::try_from(p).ok()).unwrap_or(80)
    } else {
        port.parse().map_err(|_| ApiError::bad_request(format!("invalid port {port:?}")))?
    };
    reachable(&host)?;
    let path = with_query(&format!("/{}", encode_path(&request.info.rest)), query);
    Ok(Target { host, port, kubelet: false, path_and_query: path })
}

/// A pod must not lead the server to itself or to link-local services (`proxyutil.IsProxyableIP`).
fn reachable(host: &str) -> Result<(), ApiError> {
    let address: std::net::IpAddr = host.parse().map_err(|_| ApiError::bad_request("not an IP address"))?;
    let local = match address {
        std::net::IpAddr::V4(a) => a.is_link_local() || a.is_loopback() || a.is_unspecified() || a.is_multicast(),
        std::net::IpAddr::V6(a) => {
            a.is_unicast_link_local() || a.is_loopback() || a.is_unspecified() || a.is_multicast()
        }
    };
    if local { Err(ApiError::bad_request("address not allowed")) } else { Ok(()) }
}

fn service_proxy(request: &Request, query: &str) -> Result<Target, ApiError> {
    let (name, port) = split(&request.info.name)?;
    let namespace = &request.info.namespace;
    let store = &request.server.store;
    let service = store.cache("services/specs/").and_then(|c| c.get(&format!("{namespace}/{name}")));
    let service = service.ok_or_else(|| ApiError::not_found("", "services", &name))?.value();
    let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let wanted = ports.iter().find(|p| {
        port.is_empty() || p.str_at(&["name"]) == port || p.get("port").map(Value::to_string) == Some(port.clone())
    });
    let Some(wanted) = wanted else {
        return Err(ApiError::unavailable(format!("no service port {port:?} found for service \"{name}\"")));
    };
    let port_name = wanted.str_at(&["name"]);
    let slices = store
        .cache("endpointslices/")
        .map(|c| c.list(&format!("{namespace}/"), |e| e.label("kubernetes.io/service-name") == Some(&name)).0);
    for slice in slices.unwrap_or_default() {
        let slice = slice.value();
        let Some(number) = slice["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|p| p.str_at(&["name"]) == port_name)
            .and_then(|p| p.get("port")?.as_u64())
        else {
            continue;
        };
        let ready = slice["endpoints"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|e| e.at(&["conditions", "ready"]) != Some(&Value::Bool(false)));
        if let Some(host) = ready.and_then(|e| e.at(&["addresses"])?.get(0)?.as_str()) {
            reachable(host)?;
            let path = with_query(&format!("/{}", encode_path(&request.info.rest)), query);
            return Ok(Target {
                host: host.to_owned(),
                port: u16::try_from(number).unwrap_or(80),
                kubelet: false,
                path_and_query: path,
            });
        }
    }
    Err(ApiError::unavailable(format!("no endpoints available for service \"{name}\"")))
}
