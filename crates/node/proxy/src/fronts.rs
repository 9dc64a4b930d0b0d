//! Where a Service is reached, and what is in the maps for it. No IO.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use kinit_nftables::{Data, Verdict, join};

use crate::own::{external_chain, firewall_chain, local_chain, service_chain};
use crate::ruleset::{FIREWALL_IPS, NO_ENDPOINT_IPS, NO_ENDPOINT_PORTS, NODE_PORTS, REJECT, SERVICE_IPS};
use crate::services::{Endpoint, Protocol, ServicePort};
use crate::shared::{By, Pool, Shared};

/// Where connections arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Front {
    /// At an address.
    Address(Ipv4Addr, Protocol, u16),
    /// At any address of this node.
    NodePort(Protocol, u16),
}

/// As what a Service has a front. When two Services want the same one, the smaller gets it: nobody takes another's
/// service address by naming it in `externalIPs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `spec.clusterIP`
    ClusterIp,
    /// `spec.ports[].nodePort`
    NodePort,
    /// `status.loadBalancer`
    Balancer,
    /// `spec.externalIPs`
    ExternalIp,
}

/// An element of a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// The map.
    pub map: &'static str,
    /// The key.
    pub key: Vec<u8>,
    /// What it says.
    pub data: Data,
}

/// What makes a front work.
#[derive(Debug, Default)]
pub struct Piece {
    /// Elements of maps.
    pub elements: Vec<Element>,
    /// The chain they lead to, if it is one that Services share.
    pub shared: Option<Shared>,
}

impl Front {
    fn by(self) -> By {
        match self {
            Self::Address(..) => By::Address,
            Self::NodePort(..) => By::NodePort,
        }
    }

    fn key(self, index: Option<u32>) -> Vec<u8> {
        let index = index.map(u32::to_ne_bytes);
        let index = index.as_ref().map(<[u8; 4]>::as_slice);
        match self {
            Self::Address(ip, protocol, port) => {
                let (ip, port) = (ip.octets(), port.to_be_bytes());
                let fields: [&[u8]; 3] = [&ip, &[protocol.number()], &port];
                join(&fields.into_iter().chain(index).collect::<Vec<_>>())
            }
            Self::NodePort(protocol, port) => {
                let port = port.to_be_bytes();
                let fields: [&[u8]; 2] = [&[protocol.number()], &port];
                join(&fields.into_iter().chain(index).collect::<Vec<_>>())
            }
        }
    }
}

/// All fronts of a port.
pub fn fronts(port: &ServicePort) -> BTreeMap<Front, Role> {
    let at = |ip: &Ipv4Addr| Front::Address(*ip, port.protocol, port.port);
    let mut all: BTreeMap<Front, Role> = port.external_ips.iter().map(|ip| (at(ip), Role::ExternalIp)).collect();
    all.extend(port.balancer_ips.iter().map(|ip| (at(ip), Role::Balancer)));
    all.extend(port.node_port.map(|number| (Front::NodePort(port.protocol, number), Role::NodePort)));
    all.insert(at(&port.cluster_ip), Role::ClusterIp);
    all
}

/// What makes one front of a port work.
pub fn piece(port: &ServicePort, front: Front, role: Role) -> Piece {
    let mut piece = Piece::default();
    let verdict = match role {
        Role::ClusterIp => piece.internal(port, front),
        Role::NodePort | Role::Balancer | Role::ExternalIp => piece.external(port, front),
    };
    let (map, verdict) = match (verdict, front) {
        (Ok(verdict), Front::Address(..)) => (SERVICE_IPS, verdict),
        (Ok(verdict), Front::NodePort(..)) => (NODE_PORTS, verdict),
        (Err(verdict), Front::Address(..)) => (NO_ENDPOINT_IPS, verdict),
        (Err(verdict), Front::NodePort(..)) => (NO_ENDPOINT_PORTS, verdict),
    };
    piece.add(map, front.key(None), Data::Verdict(verdict));
    if role == Role::Balancer && !port.source_ranges.is_empty() {
        piece.add(FIREWALL_IPS, front.key(None), Data::Verdict(Verdict::Goto(firewall_chain(port))));
    }
    piece
}

impl Piece {
    fn add(&mut self, map: &'static str, key: Vec<u8>, data: Data) {
        self.elements.push(Element { map, key, data });
    }

    /// To the endpoints; refused when there are none anywhere, dropped when they are only elsewhere.
    fn internal(&mut self, port: &ServicePort, front: Front) -> Result<Verdict, Verdict> {
        let endpoints = if port.internal_local { &port.on_node } else { &port.cluster };
        if endpoints.is_empty() {
            return Err(if port.cluster.is_empty() { Verdict::Goto(REJECT.into()) } else { Verdict::Drop });
        }
        if port.affinity.is_some() {
            let chain = if port.internal_local { local_chain(port) } else { service_chain(port) };
            return Ok(Verdict::Goto(chain));
        }
        let count = self.endpoints(front, Pool::All, endpoints);
        Ok(self.shared(Shared::Endpoints(front.by(), Pool::All, count)))
    }

    fn external(&mut self, port: &ServicePort, front: Front) -> Result<Verdict, Verdict> {
        if port.refuses_external() {
            return Err(Verdict::Goto(REJECT.into()));
        }
        if port.affinity.is_some() {
            return Ok(Verdict::Goto(external_chain(port)));
        }
        let by = front.by();
        let all = self.endpoints(front, Pool::All, &port.cluster);
        let shared = if port.external_local {
            Shared::ExternalLocal(by, all, self.endpoints(front, Pool::OnNode, &port.on_node))
        } else {
            Shared::External(by, all)
        };
        Ok(self.shared(shared))
    }

    fn shared(&mut self, shared: Shared) -> Verdict {
        self.shared = Some(shared);
        shared.verdict()
    }

    fn endpoints(&mut self, front: Front, pool: Pool, endpoints: &[Endpoint]) -> u32 {
        let mut count = 0;
        for endpoint in endpoints {
            let data = join(&[&endpoint.ip.octets(), &endpoint.port.to_be_bytes()]);
            self.add(front.by().map(pool), front.key(Some(count)), Data::Value(data));
            count += 1;
        }
        count
    }
}

/// `new` in an order that changes as few places as can be: who stays keeps its place, who comes takes a freed one, and
/// the last ones fill what is left free.
pub fn keep_places(old: &[Endpoint], new: &[Endpoint]) -> Vec<Endpoint> {
    let mut coming: BTreeMap<(Ipv4Addr, u16), Endpoint> = new.iter().map(|e| ((e.ip, e.port), *e)).collect();
    let mut places: Vec<Option<Endpoint>> = old.iter().map(|e| coming.remove(&(e.ip, e.port))).collect();
    let mut coming = coming.into_values();
    for place in places.iter_mut().filter(|place| place.is_none()) {
        *place = coming.next();
    }
    places.extend(coming.map(Some));
    let mut at = 0;
    while at < places.len() {
        if places.get(at).is_some_and(Option::is_none) {
            places.swap_remove(at);
        } else {
            at += 1;
        }
    }
    places.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_places_change() {
        let all = |last: &[u8]| -> Vec<Endpoint> {
            last.iter().map(|n| Endpoint { ip: Ipv4Addr::new(10, 0, 0, *n), port: 80, local: *n > 9 }).collect()
        };
        for (old, new, expected) in [
            (&[][..], &[1, 2][..], &[1, 2][..]),
            (&[1, 2, 3], &[1, 2, 3], &[1, 2, 3]),
            (&[3, 1, 2], &[1, 2, 3], &[3, 1, 2]),
            // The last one takes the freed place.
            (&[1, 2, 3, 4], &[1, 3, 4], &[1, 4, 3]),
            (&[1, 2, 3, 4], &[1, 2, 3], &[1, 2, 3]),
            (&[1, 2, 3, 4], &[4], &[4]),
            // Who comes takes it.
            (&[1, 2, 3], &[1, 3, 5], &[1, 5, 3]),
            (&[1, 2, 3], &[3, 4, 5, 6], &[4, 5, 3, 6]),
            (&[1, 2, 3], &[], &[]),
        ] {
            assert_eq!(keep_places(&all(old), &all(new)), all(expected), "{old:?} -> {new:?}");
        }
        // What else is known of an endpoint is the new one's.
        let mut moved = all(&[1]);
        moved[0].local = true;
        assert_eq!(keep_places(&all(&[1]), &moved), moved);
    }
}
