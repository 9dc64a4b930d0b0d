//! Remembered UDP flows that point to what is no longer there. No IO.
//!
//! The kernel sends a UDP flow where its first packet went for as long as packets come. When an endpoint goes, or a
//! Service gets its first one, such flows must be forgotten (`pkg/proxy/conntrack`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use kinit_nftables::conntrack::{Flow, FlowFilter, UDP};

use crate::fronts::Front;
use crate::services::Protocol;

/// An endpoint's address and port.
pub type Place = (Ipv4Addr, u16);

/// Fronts that the kernel is asked about one by one; for more than these, one look at all UDP flows is cheaper.
const ONE_BY_ONE: usize = 8;

/// Where flows to UDP Services may go.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Udp {
    /// Service addresses and ports, and their endpoints.
    by_address: BTreeMap<Place, BTreeSet<Place>>,
    /// Node ports and their endpoints.
    by_node_port: BTreeMap<u16, BTreeSet<Place>>,
}

impl Udp {
    /// Of these fronts and where each may lead; those of other protocols are left out.
    pub fn new(fronts: impl IntoIterator<Item = (Front, BTreeSet<Place>)>) -> Self {
        let mut udp = Self::default();
        for (front, endpoints) in fronts {
            match front {
                Front::Address(ip, Protocol::Udp, port) => drop(udp.by_address.insert((ip, port), endpoints)),
                Front::NodePort(Protocol::Udp, port) => drop(udp.by_node_port.insert(port, endpoints)),
                Front::Address(..) | Front::NodePort(..) => {}
            }
        }
        udp
    }

    /// The fronts.
    pub fn fronts(&self) -> impl Iterator<Item = Front> {
        let addresses = self.by_address.keys().map(|(ip, port)| Front::Address(*ip, Protocol::Udp, *port));
        addresses.chain(self.by_node_port.keys().map(|port| Front::NodePort(Protocol::Udp, *port)))
    }

    /// What to ask the kernel for, so that every flow that may be stale is told.
    pub fn filters(&self) -> Vec<FlowFilter> {
        if self.by_address.len() + self.by_node_port.len() > ONE_BY_ONE {
            return vec![FlowFilter::protocol(UDP)];
        }
        let filter = |destination, port| FlowFilter { protocol: UDP, destination, destination_port: Some(port) };
        let addresses = self.by_address.keys().map(|(ip, port)| filter(Some(*ip), *port));
        addresses.chain(self.by_node_port.keys().map(|port| filter(None, *port))).collect()
    }

    /// Whether a flow goes where it should not, or where nobody is.
    pub fn is_stale(&self, flow: &Flow) -> bool {
        if flow.original.protocol != UDP {
            return false;
        }
        let target = (flow.reply.source, flow.reply.source_port);
        let to = (flow.original.destination, flow.original.destination_port);
        let translated = flow.reply.source != flow.original.destination;
        if let Some(endpoints) = self.by_address.get(&to) {
            // Without endpoints, what was never translated is no worse than before.
            return !endpoints.contains(&target) && (translated || !endpoints.is_empty());
        }
        // A node port of whatever address: what was not translated is another's.
        self.by_node_port.get(&to.1).is_some_and(|endpoints| translated && !endpoints.contains(&target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinit_nftables::conntrack::Tuple;

    fn udp(endpoints: &[&str]) -> Udp {
        let endpoints: BTreeSet<Place> = endpoints.iter().map(|ip| (ip.parse().unwrap(), 8080)).collect();
        let address = Front::Address("10.96.0.10".parse().unwrap(), Protocol::Udp, 53);
        let tcp = Front::Address("10.96.0.11".parse().unwrap(), Protocol::Tcp, 53);
        Udp::new([address, tcp, Front::NodePort(Protocol::Udp, 30053)].map(|front| (front, endpoints.clone())))
    }

    #[test]
    fn flows_to_former_endpoints_are_stale() {
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
        let (one, none) = (udp(&["10.244.1.1"]), udp(&[]));
        // (flow, stale with an endpoint, stale without any)
        for (to, port, from, from_port, protocol, with, without) in [
            ("10.96.0.10", 53, "10.244.1.1", 8080, UDP, false, true),
            ("10.96.0.10", 53, "10.244.1.2", 8080, UDP, true, true),
            ("10.96.0.10", 53, "10.96.0.10", 53, UDP, true, false),
            ("10.96.0.10", 53, "10.244.1.2", 8080, 6, false, false),
            ("10.96.0.11", 53, "10.244.1.2", 8080, UDP, false, false),
            ("8.8.8.8", 53, "8.8.8.8", 53, UDP, false, false),
            ("192.168.1.1", 30053, "10.244.1.2", 8080, UDP, true, true),
            ("192.168.1.1", 30053, "192.168.1.1", 30053, UDP, false, false),
        ] {
            let flow = flow(to, port, from, from_port, protocol);
            assert_eq!((one.is_stale(&flow), none.is_stale(&flow)), (with, without), "{to}:{port} -> {from}");
        }
    }

    #[test]
    fn the_kernel_is_asked_for_few_flows() {
        let asked = udp(&[]).filters();
        assert_eq!(asked.len(), 2, "{asked:?}");
        assert_eq!((asked[0].destination_port, asked[1].destination), (Some(53), None));
        let many = Udp::new((1..100).map(|port| (Front::NodePort(Protocol::Udp, port), BTreeSet::new())));
        assert_eq!((many.filters(), many.fronts().count()), (vec![FlowFilter::protocol(UDP)], 99));
    }
}
