//! Where a Service is called (`k8s.io/apiserver/pkg/util/proxy`: `ResolveCluster`, `ResolveEndpoint`). The decisions
//! are pure; the objects come from the watch caches.

use std::sync::Arc;

use kinit_apimachinery::meta::Meta;
use kinit_storage::{Entry, Error as StoreError, Store};
use serde_json::Value;

use super::service::Target;

/// A host, as a name or an address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The Service of a target, if it is there; an error when it cannot be read.
pub fn service(store: &Store, target: &Target) -> Result<Option<Arc<Entry>>, StoreError> {
    let key = format!("{}/{}", target.namespace, target.name);
    store.cache("services/specs/").map_or(Ok(None), |cache| cache.get(&key))
}

/// The EndpointSlices of a target's Service.
pub fn slices(store: &Store, target: &Target) -> Vec<Arc<Entry>> {
    let own = |entry: &Entry| entry.label("kubernetes.io/service-name") == Some(target.name.as_str());
    store
        .cache("endpointslices/")
        .map(|c| c.all_last_known(&format!("{}/", target.namespace), own).0)
        .unwrap_or_default()
}

/// Where a target is called now.
pub fn address(store: &Store, target: &Target, by_endpoints: bool) -> Result<Address, String> {
    let found = service(store, target).map_err(|error| error.to_string())?;
    let found = found.ok_or_else(|| format!("service \"{}\" not found", target.name))?.value();
    match by_endpoints && found.str_at(&["spec", "type"]) != "ExternalName" {
        false => of_cluster(&found, target),
        true => {
            let slices: Vec<Value> = slices(store, target).iter().map(|entry| entry.value()).collect();
            use rand::seq::IndexedRandom;
            let all = of_endpoints(&found, target, &slices)?;
            let none = || format!("no endpoints available for service \"{}\"", target.name);
            all.choose(&mut rand::rng()).cloned().ok_or_else(none)
        }
    }
}

fn port<'v>(service: &'v Value, target: &Target) -> Result<&'v Value, String> {
    let ports = service.at(&["spec", "ports"]).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let found = ports.iter().find(|p| p.get("port").and_then(Value::as_u64) == Some(u64::from(target.port)));
    found.ok_or_else(|| format!("no service port {} found for service \"{}\"", target.port, target.name))
}

fn of_cluster(service: &Value, target: &Target) -> Result<Address, String> {
    let at = |host: &str| Address { host: host.to_owned(), port: target.port };
    match (service.str_at(&["spec", "type"]), service.str_at(&["spec", "clusterIP"])) {
        ("ExternalName", _) => Ok(at(service.str_at(&["spec", "externalName"]))),
        (_, "None" | "") => {
            Err(format!("service \"{}\" in \"{}\" has no cluster IP to call", target.name, target.namespace))
        }
        (_, ip) => port(service, target).map(|_| at(ip)),
    }
}

fn of_endpoints(service: &Value, target: &Target, slices: &[Value]) -> Result<Vec<Address>, String> {
    let name = port(service, target)?.str_at(&["name"]);
    let mut out = Vec::new();
    for slice in slices {
        let mut ports = slice["ports"].as_array().into_iter().flatten();
        let number = ports.find(|p| p.str_at(&["name"]) == name).and_then(|p| p.get("port")?.as_u64());
        let Some(number) = number.and_then(|n| u16::try_from(n).ok()) else { continue };
        let endpoints = slice["endpoints"].as_array().into_iter().flatten().filter(|e| is_ready(e));
        let hosts = endpoints.filter_map(|e| e.at(&["addresses"])?.get(0)?.as_str());
        out.extend(hosts.map(|host| Address { host: host.to_owned(), port: number }));
    }
    Ok(out)
}

/// Whether an endpoint may be called: no word on it is a yes.
fn is_ready(endpoint: &Value) -> bool {
    endpoint.at(&["conditions", "ready"]) != Some(&Value::Bool(false))
}

/// What is wrong with a Service before it is called: (reason, message) of the condition Available
/// (`remote.AvailableConditionController.sync`).
pub fn problem(target: &Target, service: Option<&Value>, slices: &[Value]) -> Option<(&'static str, String)> {
    let Target { namespace, name, .. } = target;
    let Some(service) = service else {
        return Some(("ServiceNotFound", format!("service/{name} in \"{namespace}\" is not present")));
    };
    if service.str_at(&["spec", "type"]) != "ClusterIP" {
        return None;
    }
    let Ok(port) = port(service, target) else {
        let text = format!("service/{name} in \"{namespace}\" is not listening on port {}", target.port);
        return Some(("ServicePortError", text));
    };
    let port = port.str_at(&["name"]);
    if slices.is_empty() {
        return Some((
            "EndpointsNotFound",
            format!("cannot find endpointslices for service/{name} in \"{namespace}\""),
        ));
    }
    let has = |slice: &Value| {
        let named = |p: &Value| p.str_at(&["name"]) == port && p.get("port").is_some_and(Value::is_u64);
        slice["endpoints"].as_array().is_some_and(|list| list.iter().any(is_ready))
            && slice["ports"].as_array().is_some_and(|list| list.iter().any(named))
    };
    if slices.iter().any(has) {
        return None;
    }
    let text =
        format!("endpointslices for service/{name} in \"{namespace}\" have no addresses with port name \"{port}\"");
    Some(("MissingEndpoints", text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn target() -> Target {
        Target { namespace: "n".into(), name: "s".into(), port: 443, authority: String::new(), unverified: false }
    }

    fn service(kind: &str, ip: &str) -> Value {
        json!({"spec": {"type": kind, "clusterIP": ip, "externalName": "e.example.com",
            "ports": [{"name": "web", "port": 80}, {"name": "api", "port": 443, "targetPort": 8443}]}})
    }

    fn slice(name: &str, ready: Value) -> Value {
        json!({"ports": [{"name": name, "port": 8443}], "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}, {"addresses": ["fd00::2"], "conditions": {"ready": false}}]})
    }

    #[test]
    fn addresses() {
        let cluster = |service: &Value| of_cluster(service, &target()).map(|a| a.to_string());
        assert_eq!(cluster(&service("ClusterIP", "10.96.0.9")), Ok("10.96.0.9:443".into()));
        assert_eq!(cluster(&service("ClusterIP", "fd00::1")), Ok("[fd00::1]:443".into()));
        assert_eq!(cluster(&service("ExternalName", "")), Ok("e.example.com:443".into()));
        assert!(cluster(&service("ClusterIP", "None")).unwrap_err().contains("no cluster IP"));
        let other = Target { port: 444, ..target() };
        assert!(of_cluster(&service("ClusterIP", "10.96.0.9"), &other).unwrap_err().contains("no service port 444"));
        let endpoints = |slices: &[Value]| of_endpoints(&service("ClusterIP", "None"), &target(), slices).unwrap();
        let at = |host: &str| Address { host: host.into(), port: 8443 };
        assert_eq!(endpoints(&[slice("api", Value::Null)]), [at("10.0.0.1")]);
        assert_eq!(endpoints(&[slice("api", false.into()), slice("web", true.into())]), []);
    }

    #[test]
    fn what_is_wrong_with_a_service() {
        let reported = |service: Option<&Value>, slices: &[Value]| problem(&target(), service, slices);
        let plain = service("ClusterIP", "10.96.0.9");
        for (service, slices, reason, message) in [
            (None, vec![], "ServiceNotFound", "service/s in \"n\" is not present"),
            (Some(&plain), vec![], "EndpointsNotFound", "cannot find endpointslices for service/s in \"n\""),
            (
                Some(&plain),
                vec![slice("web", true.into()), slice("api", false.into())],
                "MissingEndpoints",
                "endpointslices for service/s in \"n\" have no addresses with port name \"api\"",
            ),
        ] {
            assert_eq!(reported(service, &slices), Some((reason, message.to_owned())));
        }
        assert_eq!(reported(Some(&plain), &[slice("api", true.into())]), None);
        assert_eq!(reported(Some(&service("ExternalName", "")), &[]), None);
        let other = Target { port: 444, ..target() };
        let reported = problem(&other, Some(&plain), &[]);
        assert_eq!(reported, Some(("ServicePortError", "service/s in \"n\" is not listening on port 444".into())));
    }
}
