//! Who reaches whom: the cases of upstream's page "Network Policies" and of its end-to-end tests
//! (`test/e2e/network/netpol`), judged by the rules that the kernel would get.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod as WrittenPod;
use serde_json::{Value, json};

use super::Id;
use super::engine::{Counts, Engine};
use super::parse;
use super::pods::{Pod, SCTP, TCP, UDP};
use super::simulate::{Packet, passes};

/// Two nodes that hear the same; pods a are on the first, pods b on the second, and c on the first again.
pub struct World {
    nodes: [Engine; 2],
    addresses: std::collections::BTreeMap<String, IpAddr>,
}

const NODES: [&str; 2] = ["one", "two"];
const PODS: [&str; 6] = ["x/a", "x/b", "x/c", "y/a", "y/b", "z/c"];

pub fn labels(of: &Value) -> super::Labels {
    serde_json::from_value(of.clone()).unwrap()
}

impl World {
    pub fn empty() -> Self {
        let mut nodes = [Engine::default(), Engine::default()];
        nodes[0].set_own(&["10.244.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()]);
        nodes[1].set_own(&["10.244.2.0/24".parse().unwrap(), "fd00:2::/64".parse().unwrap()]);
        Self { nodes, addresses: std::collections::BTreeMap::new() }
    }

    fn new() -> Self {
        let mut world = Self::empty();
        for namespace in ["x", "y", "z"] {
            world.namespace(namespace, Some(json!({"ns": namespace, "kubernetes.io/metadata.name": namespace})));
        }
        for (i, pod) in PODS.iter().enumerate() {
            let node = usize::from(pod.ends_with('b'));
            world.pod(pod, node, &format!("10.244.{}.{}", node + 1, i + 2), json!({}));
        }
        world
    }

    pub fn namespace(&mut self, name: &str, of: Option<Value>) {
        for node in &mut self.nodes {
            node.set_namespace(name, of.as_ref().map(labels));
        }
    }

    /// A pod that serves at ports 80 ("http", TCP), 81 ("http", UDP) and 82 ("sctp", SCTP).
    pub fn pod(&mut self, id: &str, node: usize, address: &str, more: Value) {
        let (namespace, name) = id.split_once('/').unwrap();
        let ports = json!([
            {"name": "http", "containerPort": 80}, {"name": "http", "containerPort": 81, "protocol": "UDP"},
            {"name": "sctp", "containerPort": 82, "protocol": "SCTP"}]);
        let ports = more.get("ports").cloned().unwrap_or(ports);
        let of = more.get("labels").cloned().unwrap_or(json!({"pod": name}));
        let ips: Vec<Value> = address.split(',').filter(|a| !a.is_empty()).map(|a| json!({"ip": a})).collect();
        let written: WrittenPod = serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name, "labels": of},
            "spec": {"nodeName": NODES[node], "hostNetwork": more.get("hostNetwork"),
                     "containers": [{"name": "c", "ports": ports}]},
            "status": {"phase": more.get("phase").unwrap_or(&json!("Running")), "podIPs": ips},
        }))
        .unwrap();
        for (engine, name) in self.nodes.iter_mut().zip(NODES) {
            engine.set_pod(&id_of(id), Pod::of(&written, name));
        }
        if let Some(first) = address.split(',').next().filter(|a| !a.is_empty()) {
            self.addresses.insert(id.to_owned(), first.parse().unwrap());
        }
    }

    fn no_pod(&mut self, id: &str) {
        self.nodes.iter_mut().for_each(|node| node.set_pod(&id_of(id), None));
    }

    pub fn policy(&mut self, id: &str, spec: Value) {
        let Id { namespace, name } = id_of(id);
        let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
        let policy = parse::policy(&serde_json::from_value(object).unwrap());
        for node in &mut self.nodes {
            node.set_policy(&id_of(id), Some(policy.clone()));
        }
    }

    fn no_policy(&mut self, id: &str) {
        for node in &mut self.nodes {
            node.set_policy(&id_of(id), None);
        }
    }

    /// Whether a connection passes on both nodes. Names of pods, or addresses.
    pub fn reaches(&self, from: &str, to: &str, protocol: u8, port: u16) -> bool {
        let address = |name: &str| *self.addresses.get(name).unwrap_or_else(|| panic!("{name}"));
        let address = |name: &str| name.parse().unwrap_or_else(|_| address(name));
        let packet = Packet::new(address(from), address(to), protocol, port);
        self.nodes.iter().all(|node| passes(node.table(), &packet))
    }

    /// A line per pod: what it reaches at this port, in the order of `PODS`.
    fn matrix(&self, protocol: u8, port: u16) -> String {
        let line = |from: &&str| -> String {
            PODS.iter().map(|to| if self.reaches(from, to, protocol, port) { '.' } else { 'x' }).collect()
        };
        PODS.iter().map(line).collect::<Vec<_>>().join(" ")
    }
}

fn id_of(id: &str) -> Id {
    let (namespace, name) = id.split_once('/').unwrap();
    Id::new(namespace, name)
}

fn pod(name: &str) -> Value {
    json!({"matchLabels": {"pod": name}})
}

fn ns(name: &str) -> Value {
    json!({"matchLabels": {"ns": name}})
}

const OPEN: &str = "...... ...... ...... ...... ...... ......";

/// A policy of namespace x, and a line per pod: what it reaches then.
type Case = (&'static str, Value, &'static str);

fn check(cases: Vec<Case>) {
    for (case, spec, expected) in cases {
        let mut world = World::new();
        if !spec.is_null() {
            world.policy("x/p", spec);
        }
        assert_eq!(world.matrix(TCP, 80), expected, "{case}");
        world.no_policy("x/p");
        assert_eq!(world.matrix(TCP, 80), OPEN, "{case}, taken back");
        let bare = Engine::default().table().sets.len();
        assert!(world.nodes.iter().all(|n| n.table().sets.len() == bare), "{case}: sets are left");
    }
}

#[test]
fn the_matrix_of_upstreams_cases() {
    //             from x/a    x/b    x/c    y/a    y/b    z/c
    check(vec![
        ("no policy", json!(null), OPEN),
        ("deny all ingress", json!({"podSelector": {}}), ".xx... x.x... xx.... xxx... xxx... xxx..."),
        (
            "deny all egress",
            json!({"podSelector": {}, "policyTypes": ["Egress"]}),
            ".xxxxx x.xxxx xx.xxx ...... ...... ......",
        ),
        (
            "deny both",
            json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
            ".xxxxx x.xxxx xx.xxx xxx... xxx... xxx...",
        ),
        ("allow all ingress", json!({"podSelector": {}, "ingress": [{}]}), OPEN),
        ("allow all egress", json!({"podSelector": {}, "egress": [{}], "policyTypes": ["Egress"]}), OPEN),
        ("isolate one pod", json!({"podSelector": pod("a")}), "...... x..... x..... x..... x..... x....."),
        (
            "from pods of the same namespace by label",
            json!({"podSelector": pod("a"), "ingress": [{"from": [{"podSelector": pod("b")}]}]}),
            "...... ...... x..... x..... x..... x.....",
        ),
        (
            "from all pods of the namespace",
            json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}),
            "...... ...... ...... xxx... xxx... xxx...",
        ),
        (
            "from namespaces",
            json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": ns("y")}]}]}),
            ".xx... x.x... xx.... ...... ...... xxx...",
        ),
        ("from all namespaces", json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]}), OPEN),
        (
            "from pods of namespaces: one peer",
            json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": ns("y"), "podSelector": pod("b")}]}]}),
            ".xx... x.x... xx.... xxx... ...... xxx...",
        ),
        (
            "from namespaces or pods: two peers",
            json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": ns("y")}, {"podSelector": pod("b")}]}]}),
            ".xx... ...... xx.... ...... ...... xxx...",
        ),
    ]);
}

#[test]
fn the_matrix_of_the_other_cases() {
    check(vec![
        (
            "egress to pods",
            json!({"podSelector": pod("a"), "policyTypes": ["Egress"],
                   "egress": [{"to": [{"namespaceSelector": ns("y"), "podSelector": pod("a")}]}]}),
            ".xx.xx ...... ...... ...... ...... ......",
        ),
        (
            "by expressions",
            json!({"podSelector": {"matchExpressions": [{"key": "pod", "operator": "NotIn", "values": ["c"]}]},
                   "ingress": [{"from": [{"namespaceSelector": {"matchExpressions": [
                        {"key": "ns", "operator": "In", "values": ["y", "z"]}]}}]}]}),
            ".x.... x..... xx.... ...... ...... ......",
        ),
        (
            "from addresses",
            json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.244.1.0/24"}}]}]}),
            "...... x.x... ...... ...... xxx... ......",
        ),
        (
            "from addresses but some",
            json!({"podSelector": {}, "ingress": [{"from": [
                {"ipBlock": {"cidr": "10.244.0.0/16", "except": ["10.244.1.4/31", "10.244.2.0/24"]}}]}]}),
            "...... x.x... xx.... xxx... xxx... ......",
        ),
        (
            "a peer that nobody is",
            json!({"podSelector": pod("a"), "ingress": [{"from": [{"podSelector": pod("q")}]}]}),
            "...... x..... x..... x..... x..... x.....",
        ),
        (
            "a selector that cannot be",
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}),
            OPEN,
        ),
        (
            "a peer that cannot be",
            json!({"podSelector": pod("a"), "ingress": [{"from": [{}]}]}),
            "...... x..... x..... x..... x..... x.....",
        ),
    ]);
}

#[test]
fn ports_are_of_their_protocol() {
    let to = |spec: Value, probes: &[(u8, u16, bool)]| {
        for direction in ["ingress", "egress"] {
            let mut world = World::new();
            let kind = if direction == "ingress" { "Ingress" } else { "Egress" };
            world.policy("x/p", json!({"podSelector": {}, "policyTypes": [kind], direction: [{"ports": spec}]}));
            for (protocol, port, expected) in probes {
                let (from, to) = if direction == "ingress" { ("y/b", "x/a") } else { ("x/a", "y/b") };
                assert_eq!(
                    world.reaches(from, to, *protocol, *port),
                    *expected,
                    "{direction} {spec} {protocol}/{port}"
                );
                assert!(world.reaches("y/a", "z/c", *protocol, *port));
            }
        }
    };
    let icmp = 1;
    to(json!([]), &[(TCP, 80, true), (UDP, 9, true), (icmp, 0, true)]);
    to(json!([{}]), &[(TCP, 80, true), (TCP, 1, true), (UDP, 80, false), (icmp, 0, false)]);
    to(json!([{"port": 80}]), &[(TCP, 80, true), (TCP, 81, false), (UDP, 80, false), (icmp, 80, false)]);
    to(json!([{"port": 80, "protocol": "UDP"}]), &[(TCP, 80, false), (UDP, 80, true)]);
    to(json!([{"port": 80, "protocol": "SCTP"}]), &[(TCP, 80, false), (SCTP, 80, true), (SCTP, 81, false)]);
    let range =
        [(TCP, 79, false), (TCP, 80, true), (TCP, 90, true), (TCP, 100, true), (TCP, 101, false), (UDP, 90, false)];
    to(json!([{"port": 80, "endPort": 100}]), &range);
    to(json!([{"port": 80, "endPort": 90}, {"port": 91, "endPort": 100}]), &range);
    let several =
        [(TCP, 80, true), (TCP, 81, false), (TCP, 443, true), (TCP, 65535, true), (UDP, 53, true), (TCP, 53, false)];
    to(
        json!([{"port": 80}, {"port": 443}, {"port": 60000, "endPort": 65535}, {"port": 53, "protocol": "UDP"}]),
        &several,
    );
    to(json!([{"port": 80}, {}]), &[(TCP, 80, true), (TCP, 81, true), (UDP, 81, false)]);
    // By name: 80 over TCP, 81 over UDP.
    to(json!([{"port": "http"}]), &[(TCP, 80, true), (TCP, 81, false), (UDP, 81, false), (UDP, 80, false)]);
    to(json!([{"port": "http", "protocol": "UDP"}]), &[(TCP, 80, false), (UDP, 81, true)]);
    to(json!([{"port": "sctp", "protocol": "SCTP"}]), &[(SCTP, 82, true), (SCTP, 80, false)]);
    to(json!([{"port": "nobody"}]), &[(TCP, 80, false), (TCP, 0, false)]);
    to(json!([{"port": "nobody"}, {"port": 7}]), &[(TCP, 80, false), (TCP, 7, true)]);
    to(json!([{"port": 99999}]), &[(TCP, 80, false), (TCP, 34463, false)]);
}

/// A name is a number in each pod: what the pod says that is connected to.
#[test]
fn names_are_each_pods_own() {
    let mut world = World::new();
    let ports = json!({"ports": [{"name": "http", "containerPort": 8080}]});
    world.pod("x/b", 1, "10.244.2.3", ports.clone());
    world.pod("y/b", 1, "10.244.2.6", ports);
    world.policy("x/p", json!({"podSelector": {}, "ingress": [{"ports": [{"port": "http"}]}]}));
    for (to, port, expected) in [("x/a", 80, true), ("x/a", 8080, false), ("x/b", 80, false), ("x/b", 8080, true)] {
        assert_eq!(world.reaches("z/c", to, TCP, port), expected, "{to} {port}");
    }
    let egress = json!([{"to": [{"namespaceSelector": ns("y")}], "ports": [{"port": "http"}]}]);
    world.policy("z/p", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress}));
    for (to, port, expected) in
        [("y/a", 80, true), ("y/a", 8080, false), ("y/b", 80, false), ("y/b", 8080, true), ("x/a", 80, false)]
    {
        assert_eq!(world.reaches("z/c", to, TCP, port), expected, "{to} {port}");
    }
    // Addresses have no names.
    let egress = json!([{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": "http"}]}]);
    world.policy("z/p", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress}));
    assert!(!world.reaches("z/c", "y/a", TCP, 80));
}

#[test]
fn policies_add_up_and_both_ends_must_agree() {
    let mut world = World::new();
    world.policy("x/deny", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
    world.policy("x/from-y", json!({"podSelector": pod("a"), "ingress": [{"from": [{"namespaceSelector": ns("y")}]}]}));
    world.policy("x/from-z", json!({"podSelector": pod("a"), "ingress": [{"from": [{"namespaceSelector": ns("z")}]}]}));
    assert_eq!(world.matrix(TCP, 80), ".xxxxx x.xxxx xx.xxx .xx... .xx... .xx...");
    // x/b may go to x/a only when both say so.
    world.policy("x/out", json!({"podSelector": pod("b"), "policyTypes": ["Egress"], "egress": [{}]}));
    assert!(!world.reaches("x/b", "x/a", TCP, 80));
    world.policy("x/from-b", json!({"podSelector": pod("a"), "ingress": [{"from": [{"podSelector": pod("b")}]}]}));
    assert!(world.reaches("x/b", "x/a", TCP, 80) && !world.reaches("x/a", "x/b", TCP, 80));
    world.no_policy("x/deny");
    assert!(world.reaches("x/a", "x/b", TCP, 80));
}

#[test]
fn labels_addresses_and_namespaces_change() {
    let mut world = World::new();
    let from = json!([{"from": [{"namespaceSelector": {"matchLabels": {"team": "red"}}, "podSelector": pod("a")}]}]);
    world.policy("x/p", json!({"podSelector": {"matchLabels": {"guarded": "yes"}}, "ingress": from}));
    assert_eq!(world.matrix(TCP, 80), OPEN);
    let guarded = |id: &str| json!({"labels": {"pod": &id[2..], "guarded": "yes"}});
    world.pod("x/c", 0, "10.244.1.4", guarded("x/c"));
    assert!(!world.reaches("y/a", "x/c", TCP, 80));
    world.namespace("y", Some(json!({"ns": "y", "team": "red"})));
    assert!(world.reaches("y/a", "x/c", TCP, 80) && !world.reaches("y/b", "x/c", TCP, 80));
    // Another address: the old one means nothing any more.
    world.pod("y/a", 0, "10.244.1.77", json!({}));
    assert!(world.reaches("10.244.1.77", "x/c", TCP, 80) && !world.reaches("10.244.1.5", "x/c", TCP, 80));
    world.namespace("y", Some(json!({"ns": "y", "team": "blue"})));
    assert!(!world.reaches("y/a", "x/c", TCP, 80));
    world.namespace("y", None);
    world.namespace("y", Some(json!({"team": "red"})));
    assert!(world.reaches("y/a", "x/c", TCP, 80));
    world.no_pod("y/a");
    assert!(!world.reaches("10.244.1.77", "x/c", TCP, 80), "who is gone is nobody");
    world.pod("x/c", 0, "10.244.1.4", json!({}));
    assert!(world.reaches("z/c", "x/c", TCP, 80), "not selected any more");
}

#[test]
fn who_has_no_network_of_its_own_is_an_address() {
    let mut world = World::new();
    world.policy("x/p", json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]}));
    world.pod("y/host", 1, "192.168.0.2", json!({"hostNetwork": true}));
    assert!(!world.reaches("192.168.0.2", "x/a", TCP, 80), "a selector does not mean hosts");
    world.pod("x/host", 0, "192.168.0.1", json!({"hostNetwork": true}));
    assert!(world.reaches("10.9.9.9", "192.168.0.1", TCP, 80), "and does not isolate them");
    world.policy("x/q", json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "192.168.0.0/24"}}]}]}));
    assert!(world.reaches("192.168.0.2", "x/a", TCP, 80));
    // Ended: the address may be somebody else's.
    world.pod("y/done", 1, "10.244.2.99", json!({"phase": "Succeeded"}));
    assert!(!world.reaches("10.244.2.99", "x/a", TCP, 80));
}

/// What is established passes; a pod reaches itself; an address that is not known yet is nobody's to use.
#[test]
fn what_always_passes_and_what_waits() {
    let mut world = World::new();
    let new = "10.244.1.200";
    assert!(world.reaches(new, "y/b", TCP, 80) && world.reaches("y/b", new, TCP, 80), "nobody is isolated");
    // Not started yet, but isolated for ingress: known before it has an address.
    world.policy("z/p", json!({"podSelector": {}}));
    world.no_pod("z/c");
    assert!(world.reaches("y/b", new, TCP, 80));
    world.pod("z/c", 0, "", json!({}));
    assert!(!world.reaches("y/b", new, TCP, 80), "it may be z/c");
    assert!(world.reaches(new, "y/b", TCP, 80), "z/c may go out");
    assert!(world.reaches("y/b", "x/a", TCP, 80), "others are known");
    let reply =
        Packet { established: true, ..Packet::new("10.244.2.6".parse().unwrap(), new.parse().unwrap(), TCP, 80) };
    assert!(passes(world.nodes[0].table(), &reply));
    world.pod("z/c", 0, new, json!({}));
    assert!(!world.reaches("y/b", "z/c", TCP, 80) && world.reaches("z/c", "z/c", TCP, 80), "isolated, but from itself");
    world.policy("z/p", json!({"podSelector": {}, "policyTypes": ["Egress"]}));
    assert!(world.reaches("y/b", "10.244.1.201", TCP, 80) && !world.reaches("10.244.1.201", "y/b", TCP, 80));
    assert!(world.reaches("10.244.2.201", "y/a", TCP, 80), "the other node has nobody who is isolated");
}

/// An address goes over to a new pod before the old one is gone.
#[test]
fn an_address_is_its_last_owners() {
    let mut world = World::new();
    world.policy("x/p", json!({"podSelector": {"matchLabels": {"tight": "yes"}}}));
    let tight = json!({"labels": {"tight": "yes"}});
    world.pod("x/old", 0, "10.244.1.50", tight.clone());
    world.pod("x/new", 0, "10.244.1.50", json!({}));
    assert!(world.reaches("y/b", "10.244.1.50", TCP, 80));
    world.no_pod("x/old");
    assert!(world.reaches("y/b", "10.244.1.50", TCP, 80), "the old one's end is not the new one's");
    world.pod("x/last", 0, "10.244.1.50", tight);
    world.no_pod("x/new");
    assert!(!world.reaches("y/b", "10.244.1.50", TCP, 80));
    world.no_pod("x/last");
    assert!(world.reaches("y/b", "10.244.1.50", TCP, 80));
}

#[test]
fn both_versions_are_judged() {
    let mut world = World::new();
    world.pod("x/a", 0, "fd00:1::a,10.244.1.2", json!({}));
    world.pod("y/b", 1, "fd00:2::b,10.244.2.6", json!({}));
    world.pod("z/c", 0, "fd00:1::c,10.244.1.7", json!({}));
    let from = json!([{"from": [{"namespaceSelector": ns("y")}, {"ipBlock": {"cidr": "fd00:9::/32", "except": ["fd00:9:1::/48"]}}],
                       "ports": [{"port": "http"}]}]);
    world.policy("x/p", json!({"podSelector": {}, "ingress": from}));
    for (from, to, port, expected) in [
        ("y/b", "x/a", 80, true),
        ("y/b", "x/a", 81, false),
        ("z/c", "x/a", 80, false),
        ("10.244.2.6", "10.244.1.2", 80, true),
        ("10.244.1.7", "10.244.1.2", 80, false),
        ("fd00:9::7", "x/a", 80, true),
        ("fd00:9:1::7", "x/a", 80, false),
        ("x/a", "x/a", 80, true),
        ("fd00:9::7", "fd00:1::ffff", 80, false),
    ] {
        assert_eq!(world.reaches(from, to, TCP, port), expected, "{from} {to} {port}");
    }
}

#[test]
fn sets_and_chains_are_shared() {
    let mut world = World::new();
    let from = json!([{"from": [{"namespaceSelector": ns("y")}]}]);
    for name in ["p", "q", "r"] {
        world.policy(&format!("x/{name}"), json!({"podSelector": {}, "ingress": from}));
    }
    let bare = Engine::default();
    let table = world.nodes[0].table();
    assert_eq!(table.sets.len(), bare.table().sets.len() + 1, "one set for one selector");
    assert_eq!(table.chains.len(), bare.table().chains.len() + 1, "one chain for two pods of the same policies");
    let counts = world.nodes[0].counts();
    // Addresses of y's two pods; four known, two of them in the map and reaching themselves; two networks.
    let elements = 2 + 4 + 2 + 2 + 2;
    assert_eq!(counts, Counts { policies: 3, faulty: 0, ingress: 2, egress: 0, elements });
    assert!(world.nodes[0].concerns("z") && !world.nodes[1].concerns("z"));
}
