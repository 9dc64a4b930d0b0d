//! Where the proxy subresources of nodes, pods and services lead (`ResourceLocation` of their registries).

use std::net::IpAddr;

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::locate::{kubelet, object, with_query};
use super::{Scheme, Target};
use crate::registry::{Request, cached};

/// Finds the target of a proxy request.
pub async fn target(request: &Request, query: &str) -> Result<Target, ApiError> {
    let named = Named::of(request)?;
    let (host, port, scheme) = match request.desc.plural.as_str() {
        "nodes" => node(request, &named).await?,
        "pods" => pod(request, &named).await?,
        _ => service(request, &named).await?,
    };
    let path = match tail(request) {
        "" => "/",
        tail => tail,
    };
    Ok(Target { host, port, scheme, path_and_query: with_query(path, query) })
}

/// The path up to and with `proxy`, and what follows it, both as they were sent.
pub fn parts(request: &Request) -> (&str, &str) {
    // /api/v1/nodes/NAME/proxy or /api/v1/namespaces/NS/pods/NAME/proxy
    let depth = if request.desc.namespaced { 7 } else { 5 };
    let path = request.info.path.as_str();
    path.match_indices('/').nth(depth).map_or((path, ""), |(at, _)| path.split_at(at))
}

fn tail(request: &Request) -> &str {
    parts(request).1
}

/// `[scheme:]name[:port]` (`SplitSchemeNamePort`).
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    scheme: Scheme,
    name: &'a str,
    /// A number or a port's name, "" for none.
    port: &'a str,
}

impl<'a> Named<'a> {
    fn of(request: &'a Request) -> Result<Self, ApiError> {
        let (id, kind) = (request.info.name.as_str(), request.desc.singular.as_str());
        Self::parse(id).ok_or_else(|| ApiError::bad_request(format!("invalid {kind} request {id:?}")))
    }

    fn parse(id: &'a str) -> Option<Self> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        let scheme = match scheme {
            "" | "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        (!name.is_empty()).then_some(Self { scheme, name, port })
    }

    /// The port as a number.
    fn number(&self) -> Result<u16, ApiError> {
        self.port.parse().map_err(|_| ApiError::bad_request(format!("invalid port {:?}", self.port)))
    }
}

/// A node's kubelet, or another port of the node.
async fn node(request: &Request, named: &Named<'_>) -> Result<(String, u16, Scheme), ApiError> {
    let (host, own) = kubelet(request, named.name).await?;
    if named.port.is_empty() || named.number()? == own {
        return Ok((host, own, Scheme::Kubelet));
    }
    let port = named.number()?;
    let addresses: Vec<IpAddr> = match tokio::net::lookup_host((host.as_str(), port)).await {
        Ok(found) => found.map(|address| address.ip()).collect(),
        Err(error) => return Err(ApiError::bad_request(format!("look up {host}: {error}"))),
    };
    // The address that was checked is the one that is called.
    let address =
        addresses.into_iter().next().ok_or_else(|| ApiError::bad_request(format!("{host} has no address")))?;
    proxyable(address)?;
    Ok((address.to_string(), port, named.scheme))
}

async fn pod(request: &Request, named: &Named<'_>) -> Result<(String, u16, Scheme), ApiError> {
    let key = request.desc.key(&request.info.namespace, named.name);
    let pod = object(request, "pods/", &key, "pods", named.name).await?;
    let address: IpAddr =
        pod.str_at(&["status", "podIP"]).parse().map_err(|_| ApiError::bad_request("address not allowed"))?;
    proxyable(address)?;
    let default = if named.scheme == Scheme::Https { 443 } else { 80 };
    let mut ports = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = ports.by_ref().flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let number = |port: &Value| port.get("containerPort").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok());
    let port = if named.port.is_empty() {
        ports.next().and_then(number).unwrap_or(default)
    } else {
        match ports.find(|port| port.str_at(&["name"]) == named.port).and_then(number) {
            Some(port) => port,
            None => named.number()?,
        }
    };
    Ok((address.to_string(), port, named.scheme))
}

/// A ready endpoint of a service's port. A port is given by its name or its number; without one it is the port without
/// a name. The caches first reach what is stored now: the service may just have been made, through another server.
async fn service(request: &Request, named: &Named<'_>) -> Result<(String, u16, Scheme), ApiError> {
    let store = &request.server.store;
    let (name, namespace) = (named.name, &request.info.namespace);
    store.catch_up().await.map_err(|e| request.storage_error(e))?;
    let service = cached::one(&request.server, "services/specs/", &format!("{namespace}/{name}"))?;
    let service = service.ok_or_else(|| ApiError::not_found("", "services", name))?.value();
    let mut port_name = named.port.to_owned();
    if let Ok(number) = named.port.parse::<u64>() {
        let ports = service["spec"]["ports"].as_array().into_iter().flatten();
        let declared = ports.clone().find(|port| port.get("port").and_then(Value::as_u64) == Some(number));
        let Some(declared) = declared else {
            return Err(ApiError::unavailable(format!("no service port {number} found for service {name:?}")));
        };
        port_name = declared.str_at(&["name"]).to_owned();
    }
    let slices = store
        .cache("endpointslices/")
        .map(|c| c.all_last_known(&format!("{namespace}/"), |e| e.label("kubernetes.io/service-name") == Some(name)).0);
    let mut found: Vec<(IpAddr, u16)> = Vec::new();
    for slice in slices.unwrap_or_default() {
        let slice = slice.value();
        let mut ports = slice["ports"].as_array().into_iter().flatten();
        let port = ports.find(|port| port.str_at(&["name"]) == port_name).and_then(|port| port.get("port")?.as_u64());
        let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else { continue };
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        found.extend(endpoints.filter_map(|endpoint| Some((pod_address(request, endpoint)?, port))));
    }
    let (address, port) =
        *pick(&found).ok_or_else(|| ApiError::unavailable(format!("no endpoints available for service {name:?}")))?;
    proxyable(address)?;
    Ok((address.to_string(), port, named.scheme))
}

fn pick<T>(list: &[T]) -> Option<&T> {
    use rand::seq::IndexedRandom;
    list.choose(&mut rand::rng())
}

/// The address of a ready endpoint that is a pod, with that address, of this namespace: whoever writes EndpointSlices
/// must not lead the server anywhere else (`isValidAddress`).
fn pod_address(request: &Request, endpoint: &Value) -> Option<IpAddr> {
    if endpoint.at(&["conditions", "ready"]) == Some(&Value::Bool(false))
        || endpoint.str_at(&["targetRef", "kind"]) != "Pod"
    {
        return None;
    }
    let key = format!("{}/{}", request.info.namespace, endpoint.str_at(&["targetRef", "name"]));
    let pod = request.server.store.cache("pods/")?.last_known(&key)?.value();
    let address = endpoint.at(&["addresses"])?.get(0)?.as_str()?;
    let own = |entry: &Value| entry.str_at(&["ip"]) == address;
    let is_its_own = pod.str_at(&["status", "podIP"]) == address
        || pod.at(&["status", "podIPs"]).and_then(Value::as_array).is_some_and(|list| list.iter().any(own));
    if is_its_own { address.parse().ok() } else { None }
}

/// Nothing leads the server to itself or to link-local services (`proxyutil.IsProxyableIP`).
fn proxyable(address: IpAddr) -> Result<(), ApiError> {
    let local = match address.to_canonical() {
        IpAddr::V4(a) => {
            a.is_link_local() || a.is_loopback() || a.is_unspecified() || a.is_multicast() || a.is_broadcast()
        }
        IpAddr::V6(a) => a.is_unicast_link_local() || a.is_loopback() || a.is_unspecified() || a.is_multicast(),
    };
    if local { Err(ApiError::bad_request("address not allowed")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_schemes_and_ports() {
        let named = |scheme, name, port| Some(Named { scheme, name, port });
        for (id, wanted) in [
            ("a", named(Scheme::Http, "a", "")),
            ("a:80", named(Scheme::Http, "a", "80")),
            ("a:web", named(Scheme::Http, "a", "web")),
            ("http:a:", named(Scheme::Http, "a", "")),
            (":a:80", named(Scheme::Http, "a", "80")),
            ("https:a:web", named(Scheme::Https, "a", "web")),
            ("ftp:a:1", None),
            (":80", None),
            ("", None),
            ("a:b:c:d", None),
        ] {
            assert_eq!(Named::parse(id), wanted, "{id}");
        }
    }

    #[test]
    fn addresses_of_the_server_itself_are_refused() {
        for (address, allowed) in [
            ("10.0.0.1", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("::ffff:127.0.0.1", false),
            ("169.254.169.254", false),
            ("::1", false),
            ("0.0.0.0", false),
            ("fe80::1", false),
            ("224.0.0.1", false),
        ] {
            assert_eq!(proxyable(address.parse().unwrap()).is_ok(), allowed, "{address}");
        }
    }
}
