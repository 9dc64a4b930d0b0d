//! Service ports as one nftables table. No IO.
//!
//! ```text
//! nat prerouting, output ─▶ services: (address, protocol, port) in @service-ips ─▶ service-X: one of @endpoints-X
//!                          local address, (protocol, port) in @service-nodeports ─▶ external-X ─▶ service-X or local-X
//! nat postrouting ─▶ masquerading: hairpins, and what was marked
//! filter ─▶ firewall (source ranges) · endpoints-check (refuse what has no endpoint) · cluster-ips-check (wrong ports)
//! ```

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use kinit_nftables::expr::{
    CT_STATUS_DNAT, Learn, Meta, Reg, Reject, destination, destination_port, differs, equals, is_new, mask, protocol,
    source,
};
use kinit_nftables::{Base, ChainType, Data, Expr, Family, Hook, Set, Table, Type, Verdict, join};

use crate::services::{Endpoint, Protocol, ServicePort};

/// The table's name, upstream's.
pub const TABLE: &str = "kube-proxy";

const SERVICE_IPS: &str = "service-ips";
const NODE_PORTS: &str = "service-nodeports";
const NO_ENDPOINT_IPS: &str = "no-endpoint-services";
const NO_ENDPOINT_PORTS: &str = "no-endpoint-nodeports";
const FIREWALL_IPS: &str = "firewall-ips";
const CLUSTER_IPS: &str = "cluster-ips";
const HAIRPIN: &str = "hairpin-connections";
const MARK: &str = "mark-for-masquerade";
const REJECT: &str = "reject-chain";
const LOCAL: u32 = 2;

/// What does not depend on Services.
#[derive(Debug, Clone)]
pub struct Options {
    /// Pod addresses.
    pub cluster_cidr: Option<Ipv4Net>,
    /// The mark that means "to be masqueraded".
    pub mark: u32,
}

/// The whole table.
pub fn table(ports: &[ServicePort], options: &Options) -> Table {
    let mut table = Table::new(Family::Ip, TABLE);
    sets(&mut table);
    hooks(&mut table);
    common_chains(&mut table, options);
    for port in ports {
        Compiler { table: &mut table, port, options }.compile();
    }
    table
}

fn sets(table: &mut Table) {
    let by_address = [Type::Ipv4, Type::Protocol, Type::Port];
    for name in [SERVICE_IPS, NO_ENDPOINT_IPS, FIREWALL_IPS] {
        table.sets.insert(name.into(), Set::verdict_map(&by_address));
    }
    for name in [NODE_PORTS, NO_ENDPOINT_PORTS] {
        table.sets.insert(name.into(), Set::verdict_map(&[Type::Protocol, Type::Port]));
    }
    table.sets.insert(CLUSTER_IPS.into(), Set::new(&[Type::Ipv4]));
    table.sets.insert(HAIRPIN.into(), Set::new(&[Type::Ipv4, Type::Ipv4]));
}

fn jump(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Jump(chain.to_owned()))
}

fn goto(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Goto(chain.to_owned()))
}

fn hooks(table: &mut Table) {
    let base = |kind, hook, priority| Some(Base { kind, hook, priority, drop_by_default: false });
    for (name, hook, priority, target) in [
        ("nat-prerouting", Hook::Prerouting, -100, "services"),
        ("nat-output", Hook::Output, -100, "services"),
        ("nat-postrouting", Hook::Postrouting, 100, "masquerading"),
    ] {
        let chain = table.chain(name);
        chain.base = base(ChainType::Nat, hook, priority);
        chain.rule([jump(target)]);
    }
    // Before destinations are translated (-100), but for the last: what is still for a service address then has a wrong
    // port.
    for (name, hook, priority, targets) in [
        ("filter-prerouting", Hook::Prerouting, -110, &["firewall-check"][..]),
        ("filter-input", Hook::Input, -110, &["endpoints-check"]),
        ("filter-forward", Hook::Forward, -110, &["endpoints-check", "cluster-ips-check"]),
        ("filter-output", Hook::Output, -110, &["firewall-check", "endpoints-check"]),
        ("filter-output-post-dnat", Hook::Output, -90, &["cluster-ips-check"]),
    ] {
        let chain = table.chain(name);
        chain.base = base(ChainType::Filter, hook, priority);
        for target in targets {
            chain.rule(is_new().into_iter().chain([jump(target)]));
        }
    }
}

/// `ip daddr . meta l4proto . th dport vmap @MAP`
fn by_address(map: &str) -> [Expr; 4] {
    [destination(0), protocol(1), destination_port(2), Expr::VerdictLookup { map: map.into(), key: Reg(0) }]
}

/// `fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @MAP`
fn by_port(map: &str) -> Vec<Expr> {
    let mut rule = vec![Expr::DestinationType { to: Reg(0) }, equals(0, &LOCAL.to_ne_bytes())];
    rule.extend([destination(0), mask(0, &[255, 0, 0, 0]), differs(0, &[127, 0, 0, 0])]);
    rule.extend([protocol(0), destination_port(1), Expr::VerdictLookup { map: map.into(), key: Reg(0) }]);
    rule
}

/// `ip saddr NET` or `ip saddr != NET`.
fn from_net(net: Ipv4Net, inside: bool) -> Vec<Expr> {
    let (network, netmask) = (net.network().octets(), net.netmask().octets());
    let compare = if inside { equals(0, &network) } else { differs(0, &network) };
    vec![source(0), mask(0, &netmask), compare]
}

fn common_chains(table: &mut Table, options: &Options) {
    let services = table.chain("services");
    if let Some(cidr) = options.cluster_cidr {
        // Answers to what came from outside of the pod network must come back this way.
        let mut rule = vec![destination(0), Expr::Lookup { set: CLUSTER_IPS.into(), key: Reg(0), not: false }];
        rule.extend(from_net(cidr, false));
        rule.push(jump(MARK));
        services.rule(rule);
    }
    services.rule(by_address(SERVICE_IPS));
    services.rule(by_port(NODE_PORTS));

    let bit = options.mark;
    let load = Expr::Meta { key: Meta::Mark, to: Reg(0) };
    let store = Expr::SetMeta { key: Meta::Mark, from: Reg(0) };
    let set_bit = |and: u32, xor: u32| Expr::Bitwise {
        from: Reg(0),
        to: Reg(0),
        mask: and.to_ne_bytes().to_vec(),
        xor: xor.to_ne_bytes().to_vec(),
    };
    table.chain(MARK).rule([load.clone(), set_bit(!bit, bit), store.clone()]);

    let masquerading = table.chain("masquerading");
    // A pod that reaches itself by a service address would see itself answer.
    masquerading.rule([
        Expr::CtStatus { to: Reg(0) },
        mask(0, &CT_STATUS_DNAT.to_ne_bytes()),
        differs(0, &[0; 4]),
        source(0),
        destination(1),
        Expr::Lookup { set: HAIRPIN.into(), key: Reg(0), not: false },
        Expr::Masquerade { random: true },
    ]);
    masquerading.rule([load.clone(), mask(0, &bit.to_ne_bytes()), equals(0, &[0; 4]), Expr::Verdict(Verdict::Return)]);
    masquerading.rule([load, set_bit(u32::MAX, bit), store]);
    masquerading.rule([Expr::Masquerade { random: true }]);

    table.chain("firewall-check").rule(by_address(FIREWALL_IPS));
    table.chain("endpoints-check").rule(by_address(NO_ENDPOINT_IPS)).rule(by_port(NO_ENDPOINT_PORTS));
    table.chain("cluster-ips-check").rule([
        destination(0),
        Expr::Lookup { set: CLUSTER_IPS.into(), key: Reg(0), not: false },
        goto(REJECT),
    ]);
    // A reset ends a connect at once; an ICMP answer that arrives while connect() still holds the socket does not.
    let tcp = [protocol(0), equals(0, &[6]), Expr::Reject(Reject::TcpReset)];
    table.chain(REJECT).rule(tcp).rule([Expr::Reject(Reject::PortUnreachable)]);
}

struct Compiler<'a> {
    table: &'a mut Table,
    port: &'a ServicePort,
    options: &'a Options,
}

impl Compiler<'_> {
    fn compile(&mut self) {
        let port = self.port;
        self.insert(CLUSTER_IPS, port.cluster_ip.octets().to_vec(), Data::None);
        for endpoint in port.cluster.iter().chain(&port.on_node).filter(|e| e.local) {
            let ip = endpoint.ip.octets();
            self.insert(HAIRPIN, join(&[&ip, &ip]), Data::None);
        }
        let (service, local) = (format!("service-{}", port.id), format!("local-{}", port.id));
        self.balance(&service, &port.cluster);
        let uses_local = port.internal_local || port.external_local;
        if uses_local {
            self.balance(&local, &port.on_node);
        }
        let (internal, endpoints) =
            if port.internal_local { (&local, &port.on_node) } else { (&service, &port.cluster) };
        let verdict = self.internal_verdict(internal, endpoints);
        self.at_address(port.cluster_ip, verdict);
        self.external(&service, &local);
    }

    /// To the endpoints; refused when there are none anywhere, dropped when they are only elsewhere.
    fn internal_verdict(&self, chain: &str, endpoints: &[Endpoint]) -> Result<Verdict, Verdict> {
        match (endpoints.is_empty(), self.port.cluster.is_empty()) {
            (false, _) => Ok(Verdict::Goto(chain.to_owned())),
            (true, true) => Err(Verdict::Goto(REJECT.into())),
            (true, false) => Err(Verdict::Drop),
        }
    }

    fn external(&mut self, service: &str, local: &str) {
        let port = self.port;
        let addresses: Vec<Ipv4Addr> = port.external_ips.iter().chain(&port.balancer_ips).copied().collect();
        if addresses.is_empty() && port.node_port.is_none() {
            return;
        }
        let chain = format!("external-{}", port.id);
        let verdict = if port.cluster.is_empty() && (!port.external_local || port.on_node.is_empty()) {
            Err(Verdict::Goto(REJECT.into()))
        } else {
            self.external_chain(&chain, service, local);
            Ok(Verdict::Goto(chain))
        };
        for address in addresses {
            self.at_address(address, verdict.clone());
        }
        if let Some(number) = port.node_port {
            let (map, verdict) = match verdict {
                Ok(verdict) => (NODE_PORTS, verdict),
                Err(verdict) => (NO_ENDPOINT_PORTS, verdict),
            };
            let key = join(&[&[port.protocol.number()], &number.to_be_bytes()]);
            self.insert(map, key, Data::Verdict(verdict));
        }
        self.firewall();
        // Without endpoints here, what comes from outside is dropped, so that balancers look elsewhere; pods and this
        // host still get through.
    }

    fn external_chain(&mut self, name: &str, service: &str, local: &str) {
        let (port, cidr) = (self.port, self.options.cluster_cidr);
        let chain = self.table.chain(name);
        if !port.external_local {
            chain.rule([jump(MARK)]);
            chain.rule([goto(service)]);
            return;
        }
        if !port.cluster.is_empty() {
            if let Some(cidr) = cidr {
                chain.rule(from_net(cidr, true).into_iter().chain([goto(service)]));
            }
            let from_here = [Expr::SourceType { to: Reg(0) }, equals(0, &LOCAL.to_ne_bytes())];
            chain.rule(from_here.clone().into_iter().chain([jump(MARK)]));
            chain.rule(from_here.into_iter().chain([goto(service)]));
        }
        if port.on_node.is_empty() {
            chain.rule([Expr::Verdict(Verdict::Drop)]);
        } else {
            chain.rule([goto(local)]);
        }
    }

    /// `loadBalancerSourceRanges`.
    fn firewall(&mut self) {
        let port = self.port;
        if port.source_ranges.is_empty() || port.balancer_ips.is_empty() {
            return;
        }
        let name = format!("firewall-{}", port.id);
        let chain = self.table.chain(&name);
        for range in &port.source_ranges {
            chain.rule(from_net(*range, true).into_iter().chain([Expr::Verdict(Verdict::Return)]));
        }
        chain.rule([Expr::Verdict(Verdict::Drop)]);
        for address in &port.balancer_ips {
            let key = address_key(*address, port.protocol, port.port);
            self.insert(FIREWALL_IPS, key, Data::Verdict(Verdict::Goto(name.clone())));
        }
    }

    fn at_address(&mut self, address: Ipv4Addr, verdict: Result<Verdict, Verdict>) {
        let key = address_key(address, self.port.protocol, self.port.port);
        match verdict {
            Ok(verdict) => self.insert(SERVICE_IPS, key, Data::Verdict(verdict)),
            Err(verdict) => self.insert(NO_ENDPOINT_IPS, key, Data::Verdict(verdict)),
        }
    }

    fn insert(&mut self, set: &str, key: Vec<u8>, data: Data) {
        if let Some(set) = self.table.sets.get_mut(set) {
            set.elements.insert(key, data);
        }
    }

    /// A chain that picks one of the endpoints.
    fn balance(&mut self, name: &str, endpoints: &[Endpoint]) {
        let Ok(count) = u32::try_from(endpoints.len()) else { return };
        match (endpoints, self.port.affinity) {
            ([], _) => {}
            ([one], _) => {
                self.table.chain(name).rule(dnat_to(one));
            }
            (_, Some(life)) => self.sticky(name, endpoints, life),
            (_, None) => {
                let map_name = format!("endpoints-{name}");
                let mut map = Set::map(&[Type::Mark], &[Type::Ipv4, Type::Port]);
                for (index, endpoint) in (0u32..).zip(endpoints) {
                    let data = join(&[&endpoint.ip.octets(), &endpoint.port.to_be_bytes()]);
                    map.elements.insert(index.to_ne_bytes().to_vec(), Data::Value(data));
                }
                self.table.sets.insert(map_name.clone(), map);
                self.table.chain(name).rule([
                    Expr::Random { to: Reg(0), modulus: count },
                    Expr::MapLookup { map: map_name, key: Reg(0), to: Reg(4) },
                    Expr::Dnat { address: Reg(4), port: Some(Reg(5)), v6: false },
                ]);
            }
        }
    }

    /// With session affinity each endpoint has a chain that remembers its clients; what it remembers goes with it.
    fn sticky(&mut self, name: &str, endpoints: &[Endpoint], life: std::time::Duration) {
        let pick = format!("endpoints-{name}");
        let mut map = Set::verdict_map(&[Type::Mark]);
        for (index, endpoint) in (0u32..).zip(endpoints) {
            let suffix = format!("{}/{}/{}", self.port.id, endpoint.ip, endpoint.port);
            let (chain, clients) = (format!("endpoint-{suffix}"), format!("affinity-{suffix}"));
            map.elements.insert(index.to_ne_bytes().to_vec(), Data::Verdict(Verdict::Goto(chain.clone())));
            let remembered = Set { learned: Some(life), ..Set::new(&[Type::Ipv4]) };
            self.table.sets.insert(clients.clone(), remembered);
            let lookup = Expr::Lookup { set: clients.clone(), key: Reg(0), not: false };
            self.table.chain(name).rule([source(0), lookup, goto(&chain)]);
            let rules = self.table.chain(&chain);
            // The chains of policy Cluster and Local share it.
            if rules.rules.is_empty() {
                let millis = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
                let learn =
                    Expr::Learn { set: clients, how: Learn::Update, key: Reg(0), data: None, millis: Some(millis) };
                rules.rule([source(0), learn].into_iter().chain(dnat_to(endpoint)));
            }
        }
        self.table.sets.insert(pick.clone(), map);
        let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        let random = Expr::Random { to: Reg(0), modulus: count };
        self.table.chain(name).rule([random, Expr::VerdictLookup { map: pick, key: Reg(0) }]);
    }
}

fn address_key(address: Ipv4Addr, protocol: Protocol, port: u16) -> Vec<u8> {
    join(&[&address.octets(), &[protocol.number()], &port.to_be_bytes()])
}

fn dnat_to(endpoint: &Endpoint) -> [Expr; 3] {
    [
        Expr::Load { to: Reg(0), value: endpoint.ip.octets().to_vec() },
        Expr::Load { to: Reg(1), value: endpoint.port.to_be_bytes().to_vec() },
        Expr::Dnat { address: Reg(0), port: Some(Reg(1)), v6: false },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::collect;
    use crate::services::tests::{at, service, slice};
    use serde_json::{Value, json};

    fn options() -> Options {
        Options { cluster_cidr: Some("10.244.0.0/16".parse().unwrap()), mark: 0x4000 }
    }

    fn compile(spec: Value, endpoints: &[(&str, &str)]) -> Table {
        let endpoints: Vec<_> = endpoints.iter().map(|(ip, node)| (*ip, *node, true, true, false)).collect();
        table(&collect(&[service(spec)], &[slice(&endpoints)], at("here")), &options())
    }

    fn verdict<'a>(table: &'a Table, set: &str) -> Vec<&'a Data> {
        table.sets[set].elements.values().collect()
    }

    #[test]
    fn what_becomes_of_each_kind() {
        let (here, there) = (("10.244.1.1", "here"), ("10.244.2.1", "there"));
        let go = |chain: &str| Data::Verdict(Verdict::Goto(format!("{chain}-n/s/tcp/http")));
        let reject = Data::Verdict(Verdict::Goto(REJECT.into()));
        let drop = Data::Verdict(Verdict::Drop);
        let node_port = |policy: &str| json!({"type": "NodePort", "externalTrafficPolicy": policy, "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
        let internal = json!({"internalTrafficPolicy": "Local"});
        for (spec, endpoints, set, expected) in [
            (json!({}), vec![here], SERVICE_IPS, vec![go("service")]),
            (json!({}), vec![], NO_ENDPOINT_IPS, vec![reject.clone()]),
            (internal.clone(), vec![here], SERVICE_IPS, vec![go("local")]),
            (internal, vec![there], NO_ENDPOINT_IPS, vec![drop]),
            (node_port("Cluster"), vec![there], NODE_PORTS, vec![go("external")]),
            (node_port("Cluster"), vec![], NO_ENDPOINT_PORTS, vec![reject]),
            (node_port("Local"), vec![there], NODE_PORTS, vec![go("external")]),
            (json!({"externalIPs": ["192.0.2.1"]}), vec![here], SERVICE_IPS, vec![go("service"), go("external")]),
        ] {
            let table = compile(spec.clone(), &endpoints);
            assert_eq!(verdict(&table, set), expected.iter().collect::<Vec<_>>(), "{spec} {endpoints:?}");
        }
    }

    #[test]
    fn every_chain_that_is_named_exists() {
        let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
            "loadBalancerSourceRanges": ["192.0.2.0/24"], "externalIPs": ["192.0.2.1"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
        let table = compile(spec, &[("10.244.1.1", "here"), ("10.244.1.2", "here"), ("10.244.2.1", "there")]);
        let of = |v: &Verdict| match v {
            Verdict::Goto(chain) | Verdict::Jump(chain) => Some(chain.clone()),
            _ => None,
        };
        let in_rules = table.chains.values().flat_map(|c| &c.rules).flat_map(|r| &r.exprs).filter_map(|e| match e {
            Expr::Verdict(v) => of(v),
            _ => None,
        });
        let in_maps = table.sets.values().flat_map(|s| s.elements.values()).filter_map(|d| match d {
            Data::Verdict(v) => of(v),
            _ => None,
        });
        for chain in in_rules.chain(in_maps) {
            assert!(table.chains.contains_key(&chain), "{chain}");
        }
        assert_eq!(table.sets[HAIRPIN].elements.len(), 2, "only what runs here can meet itself here");
    }

    #[test]
    fn an_endpoint_costs_its_element() {
        let two = compile(json!({}), &[("10.244.1.1", "here"), ("10.244.2.1", "there")]);
        let other = compile(json!({}), &[("10.244.1.1", "here"), ("10.244.3.1", "there")]);
        assert_eq!(kinit_nftables::diff(Some(&two), &other).len(), 2, "one element out, one in");
    }

    #[test]
    fn policies_and_affinity_reach_the_rules() {
        let (here, there, third) = (("10.244.1.1", "here"), ("10.244.2.1", "there"), ("10.244.1.2", "here"));
        let all = [here, there, third];
        let node_port = |more: Value| {
            let mut spec = json!({"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
            more.as_object().unwrap().iter().for_each(|(k, v)| spec[k] = v.clone());
            spec
        };
        let rules =
            |table: &Table, chain: &str| table.chains.get(&format!("{chain}-n/s/tcp/http")).map(|c| c.rules.len());
        // (spec, endpoints) -> rules of (service, local, external), and how long clients are remembered
        for (spec, endpoints, expected, life) in [
            (json!({}), &all[..], (Some(1), None, None), None),
            (node_port(json!({})), &all, (Some(1), None, Some(2)), None),
            (node_port(json!({"externalTrafficPolicy": "Local"})), &all, (Some(1), Some(1), Some(4)), None),
            (json!({"internalTrafficPolicy": "Local"}), &all, (Some(1), Some(1), None), None),
            (json!({"sessionAffinity": "ClientIP"}), &all, (Some(4), None, None), Some(10_800)),
            (
                json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}),
                &all,
                (Some(4), None, None),
                Some(60),
            ),
        ] {
            let table = compile(spec.clone(), endpoints);
            let found = (rules(&table, "service"), rules(&table, "local"), rules(&table, "external"));
            assert_eq!(found, expected, "{spec}");
            let lives: std::collections::BTreeSet<_> = table.sets.values().filter_map(|s| s.learned).collect();
            assert_eq!(
                lives.into_iter().collect::<Vec<_>>(),
                life.map(std::time::Duration::from_secs).into_iter().collect::<Vec<_>>(),
                "{spec}"
            );
            // With policy Local nothing leaves the node: the chain's own endpoints are those of this node.
            if let Some(map) = table.sets.get("endpoints-local-n/s/tcp/http") {
                assert_eq!(map.elements.len(), 2, "{spec}");
            }
        }
    }
}
