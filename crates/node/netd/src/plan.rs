//! What the routing table is to hold: a pure function of the cluster's nodes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;

/// Destination to gateway.
pub type Routes = BTreeMap<Ipv4Net, Ipv4Addr>;

/// A node's IPv4 pod network.
pub fn pod_cidr(node: &Node) -> Option<Ipv4Net> {
    let spec = node.spec.as_ref()?;
    let listed = spec.pod_cidrs.iter().flatten().find_map(|c| c.parse().ok());
    listed.or_else(|| spec.pod_cidr.as_deref()?.parse().ok()).map(|n: Ipv4Net| n.trunc())
}

/// A node's IPv4 address inside the cluster.
pub fn internal_ip(node: &Node) -> Option<Ipv4Addr> {
    let addresses = node.status.as_ref()?.addresses.iter().flatten();
    addresses.filter(|a| a.type_ == "InternalIP").find_map(|a| a.address.parse().ok())
}

/// One route for every other node that has both; a network outside `cluster` is nobody's to route.
pub fn routes<'a>(nodes: impl Iterator<Item = &'a Node>, own: &str, cluster: &Ipv4Net) -> Routes {
    let mut out = Routes::new();
    for node in nodes.filter(|n| n.metadata.name.as_deref() != Some(own)) {
        let (Some(cidr), Some(ip)) = (pod_cidr(node), internal_ip(node)) else { continue };
        if cluster.contains(&cidr) && !cidr.contains(&ip) {
            out.insert(cidr, ip);
        } else {
            tracing::warn!(node = node.metadata.name, %cidr, %cluster, "the node's pod CIDR is not part of the cluster's");
        }
    }
    out
}

/// What to change: routes to set (new, or with another gateway) and routes to remove.
pub fn difference(wanted: &Routes, present: &Routes) -> (Routes, Routes) {
    let set = wanted.iter().filter(|(d, g)| present.get(*d) != Some(*g)).map(|(d, g)| (*d, *g)).collect();
    let remove = present.iter().filter(|(d, _)| !wanted.contains_key(*d)).map(|(d, g)| (*d, *g)).collect();
    (set, remove)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cidr: &str, ip: &str) -> Node {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name}, "spec": {"podCIDR": cidr},
            "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip}]}}))
        .unwrap()
    }

    #[test]
    fn other_nodes_get_a_route() {
        let nodes = [
            node("a", "10.244.0.0/24", "10.0.0.1"),
            node("b", "10.244.1.0/24", "10.0.0.2"),
            node("foreign", "10.9.0.0/24", "10.0.0.3"),
            node("new", "", "10.0.0.4"),
        ];
        let routes = routes(nodes.iter(), "a", &"10.244.0.0/16".parse().unwrap());
        assert_eq!(routes, Routes::from([("10.244.1.0/24".parse().unwrap(), "10.0.0.2".parse().unwrap())]));
    }

    #[test]
    fn only_what_differs_is_touched() {
        let net = |n: u8| format!("10.244.{n}.0/24").parse::<Ipv4Net>().unwrap();
        let ip = |n: u8| Ipv4Addr::new(10, 0, 0, n);
        let wanted = Routes::from([(net(1), ip(1)), (net(2), ip(2)), (net(3), ip(3))]);
        let present = Routes::from([(net(1), ip(1)), (net(2), ip(9)), (net(4), ip(4))]);
        let (set, remove) = difference(&wanted, &present);
        assert_eq!(set, Routes::from([(net(2), ip(2)), (net(3), ip(3))]));
        assert_eq!(remove, Routes::from([(net(4), ip(4))]));
    }
}
