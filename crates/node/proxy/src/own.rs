//! Chains and sets of a Service's own: for client-IP affinity and for source ranges. No IO.

use std::collections::BTreeMap;
use std::time::Duration;

use kinit_nftables::expr::{Learn, Reg, source};
use kinit_nftables::{Chain, Data, Expr, Set, Type, Verdict};

use crate::ruleset::{MARK, Options, from_net, goto, jump};
use crate::services::{Endpoint, ServicePort};
use crate::shared::external_local;

/// What one service port has for itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Sets by name.
    pub sets: BTreeMap<String, Set>,
}

/// The chain to all endpoints of a Service with affinity.
pub fn service_chain(port: &ServicePort) -> String {
    format!("service-{}", port.id)
}

/// The chain to those on this node.
pub fn local_chain(port: &ServicePort) -> String {
    format!("local-{}", port.id)
}

/// The chain for connections from outside.
pub fn external_chain(port: &ServicePort) -> String {
    format!("external-{}", port.id)
}

/// The chain that knows who may use the load balancer's addresses.
pub fn firewall_chain(port: &ServicePort) -> String {
    format!("firewall-{}", port.id)
}

impl Own {
    /// Of this port.
    pub fn of(port: &ServicePort, options: &Options) -> Self {
        let mut own = Self::default();
        if let Some(life) = port.affinity {
            own.sticky(port, &service_chain(port), &port.cluster, life);
            if port.internal_local || port.external_local {
                own.sticky(port, &local_chain(port), &port.on_node, life);
            }
            if port.has_external() && !port.refuses_external() {
                own.chains.insert(external_chain(port), external(port, options));
            }
        }
        if !port.source_ranges.is_empty() && !port.balancer_ips.is_empty() {
            let mut chain = Chain::default();
            for range in &port.source_ranges {
                chain.rule(from_net(*range, true).into_iter().chain([Expr::Verdict(Verdict::Return)]));
            }
            chain.rule([Expr::Verdict(Verdict::Drop)]);
            own.chains.insert(firewall_chain(port), chain);
        }
        own
    }

    /// Each endpoint has a chain that remembers its clients; what it remembers goes with it.
    fn sticky(&mut self, port: &ServicePort, name: &str, endpoints: &[Endpoint], life: Duration) {
        let Some(count) = u32::try_from(endpoints.len()).ok().filter(|count| *count > 0) else { return };
        let pick = format!("endpoints-{name}");
        let mut map = Set::verdict_map(&[Type::Mark]);
        let mut rules = Chain::default();
        for (index, endpoint) in (0u32..).zip(endpoints) {
            let suffix = format!("{}/{}/{}", port.id, endpoint.ip, endpoint.port);
            let (chain, clients) = (format!("endpoint-{suffix}"), format!("affinity-{suffix}"));
            map.elements.insert(index.to_ne_bytes().to_vec(), Data::Verdict(Verdict::Goto(chain.clone())));
            let lookup = Expr::Lookup { set: clients.clone(), key: Reg(0), not: false };
            rules.rule([source(0), lookup, goto(&chain)]);
            // The chains of policy Cluster and Local share these.
            self.chains.entry(chain).or_insert_with(|| endpoint_chain(endpoint, &clients, life));
            let remembered = Set { learned: Some(life), ..Set::new(&[Type::Ipv4]) };
            self.sets.entry(clients).or_insert(remembered);
        }
        self.sets.insert(pick.clone(), map);
        let random = Expr::Random { to: Reg(0), modulus: count };
        rules.rule([random, Expr::VerdictLookup { map: pick, key: Reg(0) }]);
        self.chains.insert(name.to_owned(), rules);
    }
}

fn endpoint_chain(endpoint: &Endpoint, clients: &str, life: Duration) -> Chain {
    let millis = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
    let learn =
        Expr::Learn { set: clients.to_owned(), how: Learn::Update, key: Reg(0), data: None, millis: Some(millis) };
    let mut chain = Chain::default();
    chain.rule([
        source(0),
        learn,
        Expr::Load { to: Reg(0), value: endpoint.ip.octets().to_vec() },
        Expr::Load { to: Reg(1), value: endpoint.port.to_be_bytes().to_vec() },
        Expr::Dnat { address: Reg(0), port: Some(Reg(1)), v6: false },
    ]);
    chain
}

fn external(port: &ServicePort, options: &Options) -> Chain {
    let mut chain = Chain::default();
    if port.external_local {
        let (all, local) = (service_chain(port), local_chain(port));
        let all = (!port.cluster.is_empty()).then_some(all.as_str());
        let local = (!port.on_node.is_empty()).then_some(local.as_str());
        external_local(&mut chain, all, local, options);
    } else {
        chain.rule([jump(MARK)]);
        chain.rule([goto(&service_chain(port))]);
    }
    chain
}
