//! The table's frame: what does not depend on Services. No IO.
//!
//! ```text
//! nat prerouting, output ─▶ services: (address, protocol, port) in @service-ips ─▶ endpoints-N: one of N endpoints
//!                                                                              └─▶ external-N ─▶ the same, masqueraded
//!                          local address, (protocol, port) in @service-nodeports ─▶ nodeport-external-N ─▶ ...
//! endpoints-N: a random INDEX below N; (address, protocol, port, INDEX) in @service-endpoints is where it goes
//! nat postrouting ─▶ masquerading: hairpins, and what was marked
//! filter ─▶ firewall (source ranges) · endpoints-check (refuse what has no endpoint) · cluster-ips-check (wrong ports)
//! ```
//!
//! `shared` has the chains that all Services share, `own` those of Services that need some of their own.

use ipnet::Ipv4Net;
use kinit_nftables::expr::{
    CT_STATUS_DNAT, Meta, Reg, Reject, destination, destination_port, differs, equals, is_new, mask, protocol, source,
};
use kinit_nftables::{Base, ChainType, Expr, Family, Hook, Set, Table, Type, Verdict};

/// The table's name, upstream's.
pub const TABLE: &str = "kube-proxy";

/// Service addresses with endpoints.
pub const SERVICE_IPS: &str = "service-ips";
/// Node ports with endpoints.
pub const NODE_PORTS: &str = "service-nodeports";
/// Service addresses to refuse.
pub const NO_ENDPOINT_IPS: &str = "no-endpoint-services";
/// Node ports to refuse.
pub const NO_ENDPOINT_PORTS: &str = "no-endpoint-nodeports";
/// Load balancers' addresses that not everybody may use.
pub const FIREWALL_IPS: &str = "firewall-ips";
/// The endpoints of service addresses.
pub const ENDPOINTS: &str = "service-endpoints";
/// Those on this node, of service addresses with external policy Local.
pub const LOCAL_ENDPOINTS: &str = "service-local-endpoints";
/// The endpoints of node ports.
pub const PORT_ENDPOINTS: &str = "nodeport-endpoints";
/// Those on this node, of node ports with external policy Local.
pub const PORT_LOCAL_ENDPOINTS: &str = "nodeport-local-endpoints";
/// Addresses that belong to Services, whatever the port.
pub const CLUSTER_IPS: &str = "cluster-ips";
/// Pods of this node that may reach themselves.
pub const HAIRPIN: &str = "hairpin-connections";
/// Marks what is to be masqueraded.
pub const MARK: &str = "mark-for-masquerade";
/// Refuses.
pub const REJECT: &str = "reject-chain";
const LOCAL: u32 = 2;

/// What does not depend on Services.
#[derive(Debug, Clone)]
pub struct Options {
    /// Pod addresses.
    pub cluster_cidr: Option<Ipv4Net>,
    /// The mark that means "to be masqueraded".
    pub mark: u32,
}

/// The table without any Service.
pub fn frame(options: &Options) -> Table {
    let mut table = Table::new(Family::Ip, TABLE);
    sets(&mut table);
    hooks(&mut table);
    common_chains(&mut table, options);
    table
}

fn sets(table: &mut Table) {
    let (by_address, by_port) = ([Type::Ipv4, Type::Protocol, Type::Port], [Type::Protocol, Type::Port]);
    for name in [SERVICE_IPS, NO_ENDPOINT_IPS, FIREWALL_IPS] {
        table.sets.insert(name.into(), Set::verdict_map(&by_address));
    }
    for name in [NODE_PORTS, NO_ENDPOINT_PORTS] {
        table.sets.insert(name.into(), Set::verdict_map(&by_port));
    }
    let endpoint = [Type::Ipv4, Type::Port];
    for name in [ENDPOINTS, LOCAL_ENDPOINTS] {
        table.sets.insert(name.into(), Set::map(&[Type::Ipv4, Type::Protocol, Type::Port, Type::Mark], &endpoint));
    }
    for name in [PORT_ENDPOINTS, PORT_LOCAL_ENDPOINTS] {
        table.sets.insert(name.into(), Set::map(&[Type::Protocol, Type::Port, Type::Mark], &endpoint));
    }
    table.sets.insert(CLUSTER_IPS.into(), Set::new(&[Type::Ipv4]));
    table.sets.insert(HAIRPIN.into(), Set::new(&[Type::Ipv4, Type::Ipv4]));
}

/// Goes there and comes back.
pub fn jump(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Jump(chain.to_owned()))
}

/// Goes there.
pub fn goto(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Goto(chain.to_owned()))
}

/// `fib saddr type local`
pub fn from_here() -> [Expr; 2] {
    [Expr::SourceType { to: Reg(0) }, equals(0, &LOCAL.to_ne_bytes())]
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
pub fn from_net(net: Ipv4Net, inside: bool) -> Vec<Expr> {
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
