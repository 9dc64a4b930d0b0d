//! Addresses for Services of type LoadBalancer.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use kinit_apimachinery::address_range::AddressRange;
use serde::{Deserialize, Serialize};

use crate::syntax::is_label;
use crate::types::Cluster;
use crate::validate::{Errors, is_of_a_host};

/// More addresses than one segment has neighbours are a mistake.
const MOST: u64 = 1 << 16;

/// Addresses that Services of type LoadBalancer get. They lie in a network that nodes have an interface in, and nobody
/// else has them: neither machines nor a DHCP server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancerPool {
    /// Its name, by which Services ask for it.
    pub name: String,
    /// Subnets (`192.0.2.128/28`), ranges (`192.0.2.100-192.0.2.120`) and single addresses, IPv4.
    pub addresses: Vec<String>,
    /// Whether Services that ask for no pool get addresses of it. Default true.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub auto_assign: bool,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form of it")]
fn is_yes(value: &bool) -> bool {
    *value
}

pub(crate) fn validate(cluster: &Cluster, errors: &mut Errors) {
    let mut seen: Vec<(String, AddressRange)> = Vec::new();
    for (i, pool) in cluster.spec.load_balancer_pools.iter().enumerate() {
        let path = format!("spec.loadBalancerPools[{i}]");
        if !is_label(&pool.name) {
            errors.add(format!("{path}.name"), format!("{:?} is not a DNS label", pool.name));
        }
        if cluster.spec.load_balancer_pools.iter().take(i).any(|other| other.name == pool.name) {
            errors.add(format!("{path}.name"), format!("{:?} is the name of another pool too", pool.name));
        }
        if pool.addresses.is_empty() {
            errors.add(format!("{path}.addresses"), "a pool needs addresses");
        }
        for (j, text) in pool.addresses.iter().enumerate() {
            let path = format!("{path}.addresses[{j}]");
            match text.parse::<AddressRange>() {
                Ok(range) => {
                    one_range(cluster, &path, text, range, &seen, errors);
                    seen.push((path, range));
                }
                Err(error) => errors.add(path, error.to_string()),
            }
        }
    }
    let component = &cluster.spec.cloud_controller_manager;
    if cluster.spec.load_balancer_pools.is_empty() && !component.extra_args.is_empty() {
        errors.add("spec.cloudControllerManager", "it runs where there are spec.loadBalancerPools only");
    }
}

fn one_range(
    cluster: &Cluster,
    path: &str,
    text: &str,
    range: AddressRange,
    seen: &[(String, AddressRange)],
    errors: &mut Errors,
) {
    if !(is_of_a_host(range.first()) && is_of_a_host(range.last())) {
        errors.add(path, format!("{text} is loopback, link-local, multicast or reserved"));
    }
    if range.size() > MOST {
        errors.add(path, format!("{text} has {} addresses; {MOST} are the most", range.size()));
    }
    if let Some((other, _)) = seen.iter().find(|(_, other)| other.overlaps(&range)) {
        errors.add(path, format!("{text} overlaps {other}"));
    }
    let net = &cluster.spec.networking;
    for (name, subnet) in [("podSubnet", &net.pod_subnet), ("serviceSubnet", &net.service_subnet)] {
        let parsed = subnet.parse::<Ipv4Net>().ok().and_then(|net| net.to_string().parse::<AddressRange>().ok());
        if parsed.is_some_and(|subnet| subnet.overlaps(&range)) {
            errors.add(path, format!("{text} overlaps {name} {subnet}, which the cluster gives away itself"));
        }
    }
    for (what, address) in owned(cluster) {
        if range.contains(address) {
            errors.add(path, format!("{text} holds {address}, {what}"));
        }
    }
}

/// Addresses that somebody has already.
fn owned(cluster: &Cluster) -> Vec<(String, Ipv4Addr)> {
    let address = |text: &str| text.parse::<Ipv4Addr>().ok();
    let hosts = cluster.spec.hosts.iter();
    let mut all: Vec<(String, Ipv4Addr)> =
        hosts.filter_map(|host| Some((format!("the address of {}", host.name), address(&host.address)?))).collect();
    if let Some(shared) = cluster.spec.load_balancer.virtual_address.as_deref().and_then(address) {
        all.push(("spec.loadBalancer.virtualAddress".to_owned(), shared));
    }
    if let Some(endpoint) = address(cluster.endpoint().0).filter(|e| !all.iter().any(|(_, other)| other == e)) {
        all.push(("the host of spec.controlPlaneEndpoint".to_owned(), endpoint));
    }
    all
}

#[cfg(test)]
mod tests {
    use crate::load::{example, load};

    fn with(pools: &str) -> String {
        example().replacen("  hosts:\n", &format!("  loadBalancerPools: {pools}\n  hosts:\n"), 1)
    }

    #[test]
    fn pools_are_read_and_printed() {
        let text = with(
            "[{name: default, addresses: [192.0.2.100-192.0.2.120, 192.0.2.128/28]}, {name: gold, addresses: [198.51.100.7], autoAssign: false}]",
        );
        let cluster = load(&text).unwrap();
        let flags: Vec<bool> = cluster.spec.load_balancer_pools.iter().map(|pool| pool.auto_assign).collect();
        assert_eq!(flags, [true, false]);
        assert_eq!(load(&crate::print(&cluster).unwrap()).unwrap(), cluster);
        assert!(!crate::print(&load(example()).unwrap()).unwrap().contains("loadBalancerPools"));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let pool = |addresses: &str| with(&format!("[{{name: a, addresses: [{addresses}]}}]"));
        for (text, expected) in [
            (pool(""), "spec.loadBalancerPools[0].addresses: a pool needs addresses"),
            (pool("192.0.2.300"), "spec.loadBalancerPools[0].addresses[0]: \"192.0.2.300\" is neither a subnet"),
            (pool("\"fd00::/120\""), "fd00::/120 is IPv6, which is not supported"),
            (pool("192.0.2.130/28"), "did you mean 192.0.2.128/28?"),
            (pool("192.0.2.120-192.0.2.100"), "ends before it begins"),
            (pool("127.0.0.0/28"), "loopback"),
            (pool("224.0.0.1"), "multicast"),
            (pool("11.0.0.0/15"), "131072 addresses; 65536 are the most"),
            (
                pool("192.0.2.100-192.0.2.110, 192.0.2.110"),
                "192.0.2.110 overlaps spec.loadBalancerPools[0].addresses[0]",
            ),
            (pool("10.244.7.0/24"), "overlaps podSubnet 10.244.0.0/16"),
            (pool("10.96.0.100"), "overlaps serviceSubnet 10.96.0.0/12"),
            (pool("192.0.2.0/24"), "192.0.2.0/24 holds 192.0.2.21, the address of w1"),
            (pool("192.0.2.10-192.0.2.10"), "holds 192.0.2.10, the address of lb1"),
            (
                pool("192.0.2.100").replacen("  hosts:", "  controlPlaneEndpoint: 192.0.2.100\n  hosts:", 1),
                "holds 192.0.2.100, the host of spec.controlPlaneEndpoint",
            ),
            (
                pool("192.0.2.100").replacen("  hosts:", "  loadBalancer: {virtualAddress: 192.0.2.100}\n  hosts:", 1),
                "holds 192.0.2.100, spec.loadBalancer.virtualAddress",
            ),
            (with("[{name: A_b, addresses: [192.0.2.100]}]"), "\"A_b\" is not a DNS label"),
            (
                with("[{name: a, addresses: [192.0.2.100]}, {name: a, addresses: [192.0.2.101]}]"),
                "spec.loadBalancerPools[1].name: \"a\" is the name of another pool too",
            ),
            (
                example().replacen(
                    "  hosts:",
                    "  cloudControllerManager: {extraArgs: [{name: v, value: \"2\"}]}\n  hosts:",
                    1,
                ),
                "spec.cloudControllerManager: it runs where there are spec.loadBalancerPools only",
            ),
        ] {
            let error = load(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected} is missing in: {error}");
        }
    }
}
