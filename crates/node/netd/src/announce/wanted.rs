//! Which addresses nodes answer for, and which nodes may: a pure function of Services, EndpointSlices and Nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

/// Annotation of Services whose address kinit's controller gave (`kinit.dev/load-balancer-pool`): nobody answers for
/// what another provider wrote.
const MARK: &str = "kinit.dev/load-balancer-pool";
const CLASS: &str = "kinit.dev/loadbalancer";
/// Upstream's label of nodes that no load balancer sends to; kubeadm's and kinit's control planes have it.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Addresses are dealt to so many groups; those of one group prefer the same nodes. It bounds how many nodes have
/// addresses, and so a Lease to renew, in a cluster of hundreds.
const GROUPS: u32 = 8;

/// An address with its Service.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The Service.
    pub service: Arc<Service>,
    /// Only nodes with a ready endpoint answer (`externalTrafficPolicy: Local`).
    pub local: bool,
}

/// All addresses. Should two Services have one, it is the older's.
pub fn addresses(services: &[Arc<Service>]) -> BTreeMap<Ipv4Addr, Wanted> {
    let mut ordered: Vec<&Arc<Service>> = services.iter().filter(|service| is_ours(service)).collect();
    let age = |service: &Arc<Service>| {
        (service.metadata.creation_timestamp.as_ref().map(|time| time.0), service.metadata.uid.clone())
    };
    ordered.sort_by_key(|service| age(service));
    let mut all = BTreeMap::new();
    for service in ordered {
        let local = service.spec.as_ref().and_then(|s| s.external_traffic_policy.as_deref()) == Some("Local");
        let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        for entry in status.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten()) {
            // With ipMode Proxy somebody else has the address and sends on to nodes.
            let ip = entry.ip.as_deref().filter(|_| entry.ip_mode.as_deref() != Some("Proxy"));
            if let Some(address) = ip.and_then(|ip| ip.parse().ok()).filter(is_of_a_host) {
                all.entry(address).or_insert_with(|| Wanted { service: service.clone(), local });
            }
        }
    }
    all
}

fn is_ours(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    let class = spec.load_balancer_class.as_deref().is_none_or(|class| class == CLASS);
    let marked = service.annotations().contains_key(MARK);
    spec.type_.as_deref() == Some("LoadBalancer") && class && marked && service.metadata.deletion_timestamp.is_none()
}

fn is_of_a_host(address: &Ipv4Addr) -> bool {
    !(address.is_loopback() || address.is_multicast() || address.is_unspecified() || address.is_broadcast())
}

/// Nodes that answer for addresses: ready, and not excluded. Where every node is excluded, as in a cluster of control
/// planes alone, there is nobody to spare and the label means nothing.
pub fn nodes<'a>(all: impl Iterator<Item = &'a Node>) -> BTreeSet<String> {
    let all: Vec<&Node> = all.filter(|node| node.metadata.deletion_timestamp.is_none()).collect();
    let excluded = |node: &Node| node.labels().contains_key(EXCLUDED);
    let none_left = all.iter().all(|node| excluded(node));
    let ready = |node: &Node| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let fit = all.into_iter().filter(|node| ready(node) && (none_left || !excluded(node)));
    fit.map(ResourceExt::name_any).collect()
}

/// Nodes that have a ready endpoint of a Service with these slices.
pub fn with_endpoints(slices: &[Arc<EndpointSlice>]) -> BTreeSet<String> {
    let ipv4 = slices.iter().filter(|slice| slice.address_type == "IPv4");
    let endpoints = ipv4.flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.filter(|e| e.conditions.as_ref().is_none_or(|c| c.ready.unwrap_or(true)));
    ready.filter_map(|endpoint| endpoint.node_name.clone()).collect()
}

/// The nodes in the order in which they should have the address: each sorts by the same numbers (rendezvous hashing),
/// so that all agree without a word, and a node that comes or goes moves nothing else.
pub fn ranked<'a>(address: Ipv4Addr, nodes: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    let group = u32::from(address) % GROUPS;
    let mut all: Vec<(u64, &str)> = nodes.map(|node| (score(group, node), node.as_str())).collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    all.into_iter().map(|(_, node)| node).collect()
}

/// FNV-1a, and a last mix (that of SplitMix64) so that names which differ in their last letter only fall apart.
fn score(group: u32, node: &str) -> u64 {
    let bytes = group.to_be_bytes().into_iter().chain(node.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(name: &str, age: u32, spec: Value, ingress: Value) -> Arc<Service> {
        let metadata = json!({"name": name, "namespace": "n", "annotations": {MARK: "default"},
            "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z")});
        let mut whole = json!({"type": "LoadBalancer"});
        spec.as_object().unwrap().iter().for_each(|(k, v)| whole[k] = v.clone());
        let object = json!({"metadata": metadata, "spec": whole, "status": {"loadBalancer": {"ingress": ingress}}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn what_is_answered_for() {
        let one = |spec: Value, ingress: Value| service("s", 1, spec, ingress);
        let ip = json!([{"ip": "192.0.2.7", "ipMode": "VIP"}]);
        let mut unmarked = (*one(json!({}), ip.clone())).clone();
        unmarked.metadata.annotations = None;
        let mut deleted = (*one(json!({}), ip.clone())).clone();
        deleted.metadata.deletion_timestamp = deleted.metadata.creation_timestamp.clone();
        for (service, expected) in [
            (one(json!({}), ip.clone()), vec![false]),
            (one(json!({"externalTrafficPolicy": "Local"}), ip.clone()), vec![true]),
            (one(json!({"loadBalancerClass": CLASS}), ip.clone()), vec![false]),
            (one(json!({"loadBalancerClass": "metallb"}), ip.clone()), vec![]),
            (one(json!({"type": "ClusterIP"}), ip.clone()), vec![]),
            (one(json!({}), json!([{"ip": "192.0.2.7", "ipMode": "Proxy"}])), vec![]),
            (one(json!({}), json!([{"ip": "fd00::1"}, {"hostname": "x"}, {"ip": "127.0.0.1"}])), vec![]),
            (Arc::new(unmarked), vec![]),
            (Arc::new(deleted), vec![]),
        ] {
            let found: Vec<bool> =
                addresses(std::slice::from_ref(&service)).values().map(|wanted| wanted.local).collect();
            assert_eq!(found, expected, "{service:?}");
        }
        let both = [service("young", 9, json!({}), ip.clone()), service("old", 1, json!({}), ip)];
        let names: Vec<String> = addresses(&both).values().map(|wanted| wanted.service.name_any()).collect();
        assert_eq!(names, ["old"]);
    }

    #[test]
    fn who_may_answer() {
        let node = |name: &str, ready: &str, excluded: bool| {
            let labels = if excluded { json!({EXCLUDED: ""}) } else { json!({}) };
            let status = json!({"conditions": [{"type": "Ready", "status": ready}]});
            serde_json::from_value::<Node>(json!({"metadata": {"name": name, "labels": labels}, "status": status}))
                .unwrap()
        };
        let fit = |list: &[Node]| nodes(list.iter()).into_iter().collect::<Vec<_>>();
        let (cp, w1, w2) = (node("cp", "True", true), node("w1", "True", false), node("w2", "Unknown", false));
        assert_eq!(fit(&[cp.clone(), w1, w2.clone()]), ["w1"]);
        assert_eq!(fit(&[cp.clone(), w2]), [""; 0], "excluded is excluded, also when the others are down");
        assert_eq!(fit(&[cp]), ["cp"]);
        let slice = json!({"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": [
            {"addresses": ["10.0.0.1"], "nodeName": "a", "conditions": {"ready": true}},
            {"addresses": ["10.0.0.2"], "nodeName": "b", "conditions": {"ready": false, "serving": true}},
            {"addresses": ["10.0.0.3"], "nodeName": "c"}, {"addresses": ["10.0.0.4"]}]});
        let found = with_endpoints(&[Arc::new(serde_json::from_value(slice).unwrap())]);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a", "c"]);
    }

    #[test]
    fn ranks_are_fair_and_stable() {
        let names: Vec<String> = (1..=5).map(|n| format!("w{n}")).collect();
        let ip = |last: u8| Ipv4Addr::new(192, 0, 2, last);
        let firsts: BTreeSet<&str> = (0..8).map(|last| ranked(ip(last), names.iter())[0]).collect();
        assert!(firsts.len() >= 3, "eight groups spread over more than two of five nodes: {firsts:?}");
        for last in 0..8 {
            let all = ranked(ip(last), names.iter());
            assert_eq!(ranked(ip(last), names.iter().rev()), all, "whatever the order they come in");
            let without: Vec<String> = names.iter().filter(|n| n.as_str() != all[1]).cloned().collect();
            assert_eq!(ranked(ip(last), without.iter())[0], all[0], "one that goes moves nothing else");
        }
    }
}
