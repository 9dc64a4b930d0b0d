//! What a Service asks for, and what it has.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;

/// `loadBalancerClass` of Services that name this provider; those that name none are its too.
pub const CLASS: &str = "kinit.dev/loadbalancer";
/// Upstream's finalizer: a Service goes when its address is given back (`servicehelper.LoadBalancerCleanupFinalizer`).
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// The pool that a Service's address is of. It marks, for nodes, what this program gave away: they answer for nothing
/// that another controller wrote.
pub const MARK: &str = "kinit.dev/load-balancer-pool";

/// MetalLB's annotations, by their present and their older names.
const ADDRESSES: [&str; 2] = ["metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"];
const POOL: [&str; 2] = ["metallb.io/address-pool", "metallb.universe.tf/address-pool"];
const SHARED: [&str; 2] = ["metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"];

/// Which address it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// This one.
    pub address: Option<Ipv4Addr>,
    /// One of this pool.
    pub pool: Option<String>,
}

/// Whether the Service is to have an address of ours.
pub fn is_wanted(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    let ours = spec.load_balancer_class.as_deref().is_none_or(|class| class == CLASS);
    spec.type_.as_deref() == Some("LoadBalancer") && ours && service.metadata.deletion_timestamp.is_none()
}

/// Whether it has of us what it is to have no more (upstream's `needsCleanup`).
pub fn needs_cleanup(service: &Service) -> bool {
    if is_wanted(service) {
        return false;
    }
    let spec = service.spec.as_ref();
    let ours = spec.and_then(|s| s.load_balancer_class.as_deref()).is_none_or(|class| class == CLASS);
    let balanced = spec.and_then(|s| s.type_.as_deref()) == Some("LoadBalancer");
    // The finalizer is that of every provider: with another type, only the mark tells whose it was.
    service.annotations().contains_key(MARK) || ours && balanced && has_finalizer(service)
}

/// Whether the finalizer is there.
pub fn has_finalizer(service: &Service) -> bool {
    service.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// The addresses in its status.
pub fn held(service: &Service) -> Vec<Ipv4Addr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    ingress.filter_map(|entry| entry.ip.as_ref()?.parse().ok()).collect()
}

/// What it asks for, or why that cannot be.
pub fn request(service: &Service) -> Result<Request, String> {
    let spec = service.spec.clone().unwrap_or_default();
    let note = |names: &[&str; 2]| {
        let found = names.iter().find_map(|name| Some((*name, service.annotations().get(*name)?)));
        found.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).filter(|(_, value)| !value.is_empty())
    };
    let families = spec.ip_families.unwrap_or_default();
    if !families.is_empty() && !families.iter().any(|family| family == "IPv4") {
        return Err("its only family is IPv6, and pools are IPv4".to_owned());
    }
    if let Some((name, _)) = note(&SHARED) {
        return Err(format!("annotation {name} is not supported: every Service has an address of its own"));
    }
    let field = spec.load_balancer_ip.filter(|ip| !ip.is_empty()).map(|ip| ("spec.loadBalancerIP".to_owned(), ip));
    let noted = note(&ADDRESSES);
    let mut address = None;
    for (name, text) in field.into_iter().chain(noted) {
        let parsed = text.parse::<Ipv4Addr>();
        let parsed = parsed.map_err(|_| format!("{name}: {text:?} is not one IPv4 address"))?;
        if address.replace(parsed).is_some_and(|other| other != parsed) {
            return Err(format!("{name} asks for {parsed}, and spec.loadBalancerIP for another address"));
        }
    }
    Ok(Request { address, pool: note(&POOL).map(|(_, pool)| pool) })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub fn service(metadata: Value, spec: Value, ingress: &[&str]) -> Service {
        let mut whole = json!({"name": "s", "namespace": "n", "uid": "u"});
        metadata.as_object().unwrap().iter().for_each(|(k, v)| whole[k] = v.clone());
        let ingress: Vec<Value> = ingress.iter().map(|ip| json!({"ip": ip})).collect();
        let status = json!({"loadBalancer": {"ingress": ingress}});
        serde_json::from_value(json!({"metadata": whole, "spec": spec, "status": status})).unwrap()
    }

    #[test]
    fn whose_a_service_is() {
        let (deleted, marked) = ("2026-01-01T00:00:00Z", json!({MARK: "default"}));
        let lb = |class: Value| json!({"type": "LoadBalancer", "loadBalancerClass": class});
        for (metadata, spec, wanted, cleanup) in [
            (json!({}), lb(json!(null)), true, false),
            (json!({}), lb(json!(CLASS)), true, false),
            (json!({"finalizers": [FINALIZER]}), lb(json!("example.com/other")), false, false),
            (json!({}), json!({"type": "ClusterIP"}), false, false),
            (json!({"finalizers": [FINALIZER]}), json!({"type": "ClusterIP"}), false, false),
            (json!({"annotations": marked}), json!({"type": "ClusterIP"}), false, true),
            (json!({"deletionTimestamp": deleted, "finalizers": [FINALIZER]}), lb(json!(null)), false, true),
            (json!({"deletionTimestamp": deleted, "finalizers": ["x"]}), lb(json!(null)), false, false),
            (json!({"deletionTimestamp": deleted, "finalizers": [FINALIZER]}), lb(json!("o/o")), false, false),
        ] {
            let service = service(metadata.clone(), spec.clone(), &[]);
            assert_eq!((is_wanted(&service), needs_cleanup(&service)), (wanted, cleanup), "{metadata} {spec}");
        }
    }

    #[test]
    fn requests() {
        let ask = |notes: Value, spec: Value| request(&service(json!({"annotations": notes}), spec, &[]));
        let address = |text: &str| Some(text.parse().unwrap());
        for (notes, spec, expected) in [
            (json!({}), json!({}), Ok((None, None))),
            (json!({}), json!({"loadBalancerIP": "192.0.2.7"}), Ok((address("192.0.2.7"), None))),
            (json!({"metallb.io/loadBalancerIPs": " 192.0.2.7"}), json!({}), Ok((address("192.0.2.7"), None))),
            (
                json!({"metallb.universe.tf/loadBalancerIPs": "192.0.2.7", "metallb.universe.tf/address-pool": "gold"}),
                json!({"loadBalancerIP": "192.0.2.7"}),
                Ok((address("192.0.2.7"), Some("gold"))),
            ),
            (json!({"metallb.io/address-pool": "gold"}), json!({}), Ok((None, Some("gold")))),
            (json!({"metallb.io/address-pool": ""}), json!({}), Ok((None, None))),
            (
                json!({"metallb.io/loadBalancerIPs": "192.0.2.8"}),
                json!({"loadBalancerIP": "192.0.2.7"}),
                Err("another address"),
            ),
            (json!({"metallb.io/loadBalancerIPs": "192.0.2.8,fd00::1"}), json!({}), Err("not one IPv4 address")),
            (json!({}), json!({"loadBalancerIP": "fd00::1"}), Err("not one IPv4 address")),
            (json!({}), json!({"ipFamilies": ["IPv6"]}), Err("pools are IPv4")),
            (json!({}), json!({"ipFamilies": ["IPv6", "IPv4"]}), Ok((None, None))),
            (json!({"metallb.io/allow-shared-ip": "key"}), json!({}), Err("not supported")),
        ] {
            match (ask(notes.clone(), spec.clone()), expected) {
                (Ok(request), Ok((address, pool))) => {
                    let expected = Request { address, pool: pool.map(str::to_owned) };
                    assert_eq!(request, expected, "{notes} {spec}");
                }
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
                (found, expected) => panic!("{notes} {spec}: {found:?}, not {expected:?}"),
            }
        }
    }
}
