//! Remembered UDP flows that point to what is no longer there. No IO.
//!
//! The kernel sends a UDP flow where its first packet went for as long as packets come. When an endpoint goes, or a
//! Service gets its first one, such flows must be forgotten (`pkg/proxy/conntrack`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use kinit_nftables::conntrack::{Flow, UDP};

use crate::services::{Protocol, ServicePort};

type Place = (Ipv4Addr, u16);

/// Where flows to UDP Services may go.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Udp {
    /// Service addresses and ports, and their endpoints.
    by_address: BTreeMap<Place, BTreeSet<Place>>,
    /// Node ports and their endpoints.
    by_node_port: BTreeMap<u16, BTreeSet<Place>>,
}

impl Udp {
    /// From all service ports. Those without endpoints are left out: their flows were refused and are not remembered.
    pub fn of(ports: &[ServicePort]) -> Self {
        let mut udp = Self::default();
        for port in ports.iter().filter(|p| p.protocol == Protocol::Udp) {
            let endpoints: BTreeSet<Place> = port.cluster.iter().chain(&port.on_node).map(|e| (e.ip, e.port)).collect();
            for ip in [port.cluster_ip].iter().chain(&port.external_ips).chain(&port.balancer_ips) {
                udp.by_address.insert((*ip, port.port), endpoints.clone());
            }
            if let Some(number) = port.node_port {
                udp.by_node_port.insert(number, endpoints);
            }
        }
        udp
    }

    /// Whether a flow goes where it should not, or where nobody is.
    pub fn is_stale(&self, flow: &Flow) -> bool {
        if flow.original.protocol != UDP {
            return false;
        }
        let target = (flow.reply.source, flow.reply.source_port);
        let to = (flow.original.destination, flow.original.destination_port);
        if let Some(endpoints) = self.by_address.get(&to) {
            return !endpoints.contains(&target);
        }
        // A node port of whatever address: only what was translated, or never was although it should have been.
        let translated = flow.reply.source != flow.original.destination;
        self.by_node_port.get(&to.1).is_some_and(|endpoints| translated && !endpoints.contains(&target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::collect;
    use crate::services::tests::{at, service, slice};
    use kinit_nftables::conntrack::Tuple;
    use serde_json::json;

    #[test]
    fn flows_to_former_endpoints_are_stale() {
        let mut s = (*slice(&[("10.244.1.1", "a", true, true, false)])).clone();
        s.ports.as_mut().unwrap()[0].protocol = Some("UDP".into());
        let spec =
            json!({"type": "NodePort", "ports": [{"name": "http", "port": 53, "protocol": "UDP", "nodePort": 30053}]});
        let udp = Udp::of(&collect(&[service(spec)], &[s.into()], at("a")));
        let flow = |to: &str, port: u16, from: &str, from_port: u16, protocol: u8| {
            let client: Ipv4Addr = "10.244.9.9".parse().unwrap();
            let tuple = |source: Ipv4Addr, destination: Ipv4Addr, source_port, destination_port| Tuple {
                source,
                destination,
                protocol,
                source_port,
                destination_port,
            };
            Flow {
                original: tuple(client, to.parse().unwrap(), 999, port),
                reply: tuple(from.parse().unwrap(), client, from_port, 999),
            }
        };
        for (to, port, from, from_port, protocol, stale) in [
            ("10.96.0.10", 53, "10.244.1.1", 8080, UDP, false),
            ("10.96.0.10", 53, "10.244.1.2", 8080, UDP, true),
            ("10.96.0.10", 53, "10.96.0.10", 53, UDP, true),
            ("10.96.0.10", 53, "10.244.1.2", 8080, 6, false),
            ("8.8.8.8", 53, "8.8.8.8", 53, UDP, false),
            ("192.168.1.1", 30053, "10.244.1.2", 8080, UDP, true),
            ("192.168.1.1", 30053, "192.168.1.1", 30053, UDP, false),
        ] {
            assert_eq!(udp.is_stale(&flow(to, port, from, from_port, protocol)), stale, "{to}:{port} -> {from}");
        }
    }
}
