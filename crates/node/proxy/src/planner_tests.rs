//! The planner as tables, and over random histories against a build from nothing.

use std::collections::{BTreeMap, BTreeSet};

use kinit_nftables::{Change, Data, Expr, Set, Table, Verdict};
use serde_json::{Value, json};

use crate::planner::Planner;
use crate::ruleset::*;
use crate::services::tests::{at, service, slice};
use crate::services::{ServicePort, service_ports};

pub fn options() -> Options {
    Options { cluster_cidr: Some("10.244.0.0/16".parse().unwrap()), mark: 0x4000 }
}

fn ports(spec: Value, endpoints: &[(&str, &str)]) -> Vec<ServicePort> {
    let endpoints: Vec<_> = endpoints.iter().map(|(ip, node)| (*ip, *node, true, true, false)).collect();
    service_ports(&service(spec), &[slice(&endpoints)], at("here"))
}

fn planned(spec: Value, endpoints: &[(&str, &str)]) -> Planner {
    let mut planner = Planner::new(options());
    planner.set("n/s", ports(spec, endpoints));
    planner
}

fn with(base: Value, more: &Value) -> Value {
    let mut all = base;
    more.as_object().unwrap().iter().for_each(|(key, value)| all[key] = value.clone());
    all
}

fn node_port(more: Value) -> Value {
    with(json!({"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}), &more)
}

/// What is said of each address and port: map and verdict.
fn verdicts(table: &Table) -> Vec<(&str, String)> {
    let maps = [SERVICE_IPS, NODE_PORTS, NO_ENDPOINT_IPS, NO_ENDPOINT_PORTS, FIREWALL_IPS];
    let said = |map: &'static str| {
        table.sets[map].elements.values().map(move |data| match data {
            Data::Verdict(Verdict::Goto(chain)) => (map, chain.clone()),
            other => (map, format!("{other:?}")),
        })
    };
    maps.into_iter().flat_map(said).collect()
}

#[test]
fn what_becomes_of_each_kind() {
    let (here, there) = (("10.244.1.1", "here"), ("10.244.2.1", "there"));
    let local = json!({"externalTrafficPolicy": "Local"});
    let internal = json!({"internalTrafficPolicy": "Local"});
    let sticky = json!({"sessionAffinity": "ClientIP"});
    let balancer = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"]});
    let drop = "Verdict(Drop)";
    for (spec, endpoints, expected) in [
        (json!({}), vec![here, there], vec![(SERVICE_IPS, "endpoints-2")]),
        (json!({}), vec![], vec![(NO_ENDPOINT_IPS, REJECT)]),
        (internal.clone(), vec![here, there], vec![(SERVICE_IPS, "endpoints-1")]),
        (internal, vec![there], vec![(NO_ENDPOINT_IPS, drop)]),
        (node_port(json!({})), vec![there], vec![(SERVICE_IPS, "endpoints-1"), (NODE_PORTS, "nodeport-external-1")]),
        (node_port(json!({})), vec![], vec![(NO_ENDPOINT_IPS, REJECT), (NO_ENDPOINT_PORTS, REJECT)]),
        (
            node_port(local.clone()),
            vec![there],
            vec![(SERVICE_IPS, "endpoints-1"), (NODE_PORTS, "nodeport-external-1-local-0")],
        ),
        (
            node_port(local),
            vec![here, there],
            vec![(SERVICE_IPS, "endpoints-2"), (NODE_PORTS, "nodeport-external-2-local-1")],
        ),
        (
            json!({"externalIPs": ["192.0.2.1"]}),
            vec![here],
            vec![(SERVICE_IPS, "endpoints-1"), (SERVICE_IPS, "external-1")],
        ),
        (sticky.clone(), vec![here], vec![(SERVICE_IPS, "service-n/s/tcp/http")]),
        (
            node_port(sticky),
            vec![here, there],
            vec![(SERVICE_IPS, "service-n/s/tcp/http"), (NODE_PORTS, "external-n/s/tcp/http")],
        ),
        (
            balancer,
            vec![here],
            vec![(SERVICE_IPS, "endpoints-1"), (SERVICE_IPS, "external-1"), (FIREWALL_IPS, "firewall-n/s/tcp/http")],
        ),
    ] {
        let planner = planned(spec.clone(), &endpoints);
        let found = verdicts(planner.table());
        let found: Vec<_> = found.iter().map(|(map, verdict)| (*map, verdict.as_str())).collect();
        assert_eq!(found, expected, "{spec} {endpoints:?}");
        sound(planner.table());
    }
}

#[test]
fn only_affinity_and_source_ranges_need_chains() {
    let endpoints = [("10.244.1.1", "here"), ("10.244.2.1", "there")];
    let balancer = |more: &Value| with(json!({"type": "LoadBalancer"}), more);
    let frame = frame(&options()).chains.len();
    for (spec, own) in [
        (json!({}), 0),
        (balancer(&json!({"externalIPs": ["192.0.2.9"]})), 0),
        (balancer(&json!({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"})), 0),
        (balancer(&json!({"loadBalancerSourceRanges": ["192.0.2.0/24"]})), 1),
        // All, outside; one chain an endpoint.
        (balancer(&json!({"sessionAffinity": "ClientIP"})), 4),
    ] {
        let planner = planned(spec.clone(), &endpoints);
        let table = planner.table();
        let count = table.chains.keys().filter(|name| name.contains("n/s")).count();
        assert_eq!(count, own, "{spec}: {:?}", table.chains.keys());
        assert!(table.chains.len() - frame - own <= 4, "{spec}");
        assert_eq!(table.sets[HAIRPIN].elements.len(), 1, "only what runs here can meet itself here");
    }
}

#[test]
fn affinity_lasts_as_long_as_is_said() {
    let endpoints = [("10.244.1.1", "here"), ("10.244.2.1", "there")];
    let lives = |planner: &Planner| -> BTreeSet<u64> {
        planner.table().sets.values().filter_map(|set| set.learned).map(|life| life.as_secs()).collect()
    };
    let sticky = json!({"sessionAffinity": "ClientIP"});
    assert_eq!(lives(&planned(sticky, &endpoints)), [10_800].into());
    let short = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}});
    assert_eq!(lives(&planned(short, &endpoints)), [60].into());
    assert_eq!(lives(&planned(json!({}), &endpoints)), [].into());
}

/// What a change sends, by what it is.
fn reported(planner: &mut Planner) -> Vec<String> {
    planner.changes().iter().map(|c| format!("{c:?}").split(['(', ' ']).next().unwrap().to_owned()).collect()
}

#[test]
fn an_endpoint_costs_its_element() {
    let (one, two, three) = (("10.244.1.1", "there"), ("10.244.2.1", "there"), ("10.244.3.1", "there"));
    let mut planner = planned(json!({}), &[one, two]);
    planner.reported();
    assert!(!planner.set("n/s", ports(json!({}), &[two, one])), "an order is no change");
    planner.set("n/s", ports(json!({}), &[one, three]));
    assert_eq!(reported(&mut planner), ["DeleteElements", "AddElements"], "one element out, one in");
    // One more: its element; the Service's verdict, another chain with two rules, and the old one goes.
    planner.set("n/s", ports(json!({}), &[one, two, three]));
    let expected =
        ["AddChain", "AddElements", "DeleteElements", "AddElements", "AddRule", "AddRule", "FlushChain", "DropChain"];
    assert_eq!(reported(&mut planner), expected);
    // The first goes: the last takes its place.
    planner.set("n/s", ports(json!({}), &[two, three]));
    planner.set("n/t", Vec::new());
    let changes = planner.changes();
    let moved: Vec<_> = changes
        .iter()
        .filter_map(|change| match change {
            Change::AddElements(name, set) | Change::DeleteElements(name, set) if name == ENDPOINTS => {
                Some(set.elements.len())
            }
            _ => None,
        })
        .collect();
    assert_eq!(moved, [2, 1], "{changes:?}");
}

/// An affinity Service's change leaves what its other endpoints have learned.
#[test]
fn what_was_learned_stays() {
    let (one, two, three) = (("10.244.1.1", "there"), ("10.244.2.1", "there"), ("10.244.3.1", "there"));
    let sticky = json!({"sessionAffinity": "ClientIP"});
    let mut planner = planned(sticky.clone(), &[one, two]);
    planner.reported();
    planner.set("n/s", ports(sticky.clone(), &[one, three]));
    let changes = planner.changes();
    let sets: Vec<&str> = changes
        .iter()
        .filter_map(|change| match change {
            Change::AddSet(name, _) | Change::DropSet(name) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(sets, ["affinity-n/s/tcp/http/10.244.3.1/8080", "affinity-n/s/tcp/http/10.244.2.1/8080"]);
    let changed_life = with(sticky, &json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}));
    planner.set("n/s", ports(changed_life, &[one, three]));
    assert!(reported(&mut planner).contains(&"DropSet".to_owned()), "another life is another set");
}

/// Nobody takes another's service address.
#[test]
fn a_front_belongs_to_who_has_the_better_right() {
    let named = |name: &str, spec: Value, ip: &str| {
        let mut object = (*service(spec)).clone();
        object.metadata.name = Some(name.into());
        service_ports(&object, &[slice(&[(ip, "there", true, true, false)])], at("here"))
    };
    let thief = json!({"clusterIP": "10.96.0.66", "externalIPs": ["10.96.0.10"]});
    let owner_of = |planner: &Planner| {
        let key = kinit_nftables::join(&[&[10, 96, 0, 10], &[6], &80_u16.to_be_bytes(), &[0; 4]]);
        match planner.table().sets[ENDPOINTS].elements.get(&key) {
            Some(Data::Value(data)) => Some(data[3]),
            _ => None,
        }
    };
    let mut planner = Planner::new(options());
    planner.set("n/a-thief", named("a-thief", thief.clone(), "10.244.6.66"));
    assert_eq!(owner_of(&planner), Some(66), "nobody else has it");
    planner.set("n/real", named("real", json!({}), "10.244.6.1"));
    assert_eq!(owner_of(&planner), Some(1));
    planner.set("n/a-thief", named("a-thief", thief, "10.244.6.67"));
    assert_eq!(owner_of(&planner), Some(1));
    planner.set("n/real", Vec::new());
    assert_eq!(owner_of(&planner), Some(67));
    sound(planner.table());
}

/// Every chain and set that is named exists; every Service has as many endpoints as its chain thinks, numbered from 0.
pub fn sound(table: &Table) {
    let names = |verdict: &Verdict| match verdict {
        Verdict::Goto(chain) | Verdict::Jump(chain) => Some(chain.clone()),
        _ => None,
    };
    for expr in table.chains.values().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.exprs) {
        match expr {
            Expr::Verdict(verdict) => names(verdict).iter().for_each(|chain| {
                assert!(table.chains.contains_key(chain), "no chain {chain}");
            }),
            Expr::Lookup { set, .. } | Expr::Learn { set, .. } => assert!(table.sets.contains_key(set), "no set {set}"),
            Expr::MapLookup { map, .. } | Expr::VerdictLookup { map, .. } => {
                assert!(table.sets.contains_key(map), "no map {map}");
            }
            _ => {}
        }
    }
    for data in table.sets.values().flat_map(|set| set.elements.values()) {
        let Data::Verdict(verdict) = data else { continue };
        names(verdict).iter().for_each(|chain| assert!(table.chains.contains_key(chain), "no chain {chain}"));
    }
    numbered(table, SERVICE_IPS, ENDPOINTS, LOCAL_ENDPOINTS);
    numbered(table, NODE_PORTS, PORT_ENDPOINTS, PORT_LOCAL_ENDPOINTS);
}

fn numbered(table: &Table, fronts: &str, all: &str, local: &str) {
    let groups = |map: &str| -> BTreeMap<Vec<u8>, u32> {
        let mut groups = BTreeMap::new();
        for key in table.sets[map].elements.keys() {
            let (front, index) = key.split_at(key.len() - 4);
            let next = groups.entry(front.to_vec()).or_insert(0);
            assert_eq!(u32::from_ne_bytes(index.try_into().unwrap()), *next, "{map}");
            *next += 1;
        }
        groups
    };
    let (mut all, mut local) = (groups(all), groups(local));
    for (front, data) in &table.sets[fronts].elements {
        let Data::Verdict(Verdict::Goto(chain)) = data else { panic!("{data:?}") };
        // Those of affinity have no elements here.
        let numbers: Vec<u32> = if chain.contains('/') {
            Vec::new()
        } else {
            chain.split('-').filter_map(|part| part.parse().ok()).collect()
        };
        let found = (all.remove(front).unwrap_or(0), local.remove(front).unwrap_or(0));
        let expected = (numbers.first().copied().unwrap_or(0), numbers.get(1).copied().unwrap_or(0));
        assert_eq!(found, expected, "{chain}");
    }
    assert!(all.is_empty() && local.is_empty(), "endpoints without a front: {all:?} {local:?}");
}

/// The table without the order of endpoints, which histories differ in.
fn without_order(table: &Table) -> (BTreeMap<String, Vec<String>>, BTreeMap<String, Vec<String>>) {
    let chains = table.chains.iter().map(|(name, chain)| {
        let mut rules: Vec<String> = chain.rules.iter().map(|rule| format!("{rule:?}")).collect();
        if name.contains("n/") && !name.starts_with("external-") {
            rules.sort();
        }
        (name.clone(), rules)
    });
    let set = |name: &str, set: &Set| {
        let mut elements: Vec<String> = set
            .elements
            .iter()
            .map(|(key, data)| {
                let cut =
                    if name.contains("endpoints") && !name.starts_with("no-") { key.len() - 4 } else { key.len() };
                format!("{:?} {data:?}", &key[..cut])
            })
            .collect();
        elements.sort();
        elements.insert(0, format!("{:?} {:?} {:?} {}", set.key, set.data, set.learned, set.verdicts));
        (name.to_owned(), elements)
    };
    (chains.collect(), table.sets.iter().map(|(name, s)| set(name, s)).collect())
}

/// Numbers that look random, and are the same in each run.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % sides
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())].clone()
    }
}

/// A Service of any kind with any endpoints. External addresses are few: Services fight over them.
pub fn any_service(dice: &mut Dice, number: usize) -> (String, Vec<ServicePort>) {
    let key = format!("n/s{number}");
    if dice.roll(6) == 0 {
        return (key, Vec::new());
    }
    let kind = dice.one(&["ClusterIP", "NodePort", "LoadBalancer"]);
    let policy = |dice: &mut Dice| dice.one(&["Cluster", "Cluster", "Local"]);
    let protocol = dice.one(&["TCP", "UDP"]);
    let mut spec = json!({"type": kind, "clusterIP": format!("10.96.1.{number}"),
        "externalTrafficPolicy": policy(dice), "internalTrafficPolicy": policy(dice),
        "ports": [{"name": "http", "port": 80, "protocol": protocol, "nodePort": 30000 + dice.roll(2 * number + 1)},
                  {"name": "other", "port": 81, "nodePort": 31000 + number}]});
    if dice.roll(3) == 0 {
        spec["sessionAffinity"] = "ClientIP".into();
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 60 + dice.roll(2)}});
    }
    if dice.roll(2) == 0 {
        spec["loadBalancerSourceRanges"] = json!(["192.0.2.0/24", "198.51.100.0/25"][..1 + dice.roll(2)]);
    }
    if dice.roll(2) == 0 {
        spec["externalIPs"] = json!([dice.one(&["192.0.2.7", "192.0.2.8", "10.96.1.1"])]);
    }
    let mut object = (*service(spec)).clone();
    object.metadata.name = Some(format!("s{number}"));
    let addresses: Vec<String> = (0..6).map(|n| format!("10.244.1.{n}")).collect();
    let mut endpoints = Vec::new();
    for address in &addresses {
        let (ready, serving, ending) =
            dice.one(&[(true, true, false), (true, true, false), (false, true, true), (false, false, false)]);
        if dice.roll(2) == 0 {
            endpoints.push((address.as_str(), dice.one(&["here", "there", "there"]), ready, serving, ending));
        }
    }
    let mut slice = (*slice(&endpoints)).clone();
    let mut http = slice.ports.as_ref().unwrap()[0].clone();
    let other = k8s_openapi::api::discovery::v1::EndpointPort { name: Some("other".into()), ..http.clone() };
    http.protocol = Some(protocol.into());
    slice.ports = Some(vec![http, other]);
    (key, service_ports(&object, &[slice.into()], at("here")))
}

/// Does to a table what the kernel would; what the kernel refuses, this does not take.
fn replay(table: &mut Table, changes: &[Change]) {
    for change in changes {
        match change {
            Change::AddChain(name, base) => {
                let chain = table.chains.entry(name.clone());
                assert!(matches!(chain, std::collections::btree_map::Entry::Vacant(_)), "{name} is there");
                chain.or_default().base = *base;
            }
            Change::AddSet(name, set) => assert!(table.sets.insert(name.clone(), set.clone()).is_none(), "{name}"),
            Change::DeleteElements(name, set) => {
                let target = table.sets.get_mut(name).unwrap();
                set.elements.keys().for_each(|key| drop(target.elements.remove(key).expect("an element to delete")));
            }
            Change::AddElements(name, set) => {
                let target = table.sets.get_mut(name).unwrap();
                for (key, data) in &set.elements {
                    assert!(target.elements.insert(key.clone(), data.clone()).is_none(), "{name} {key:?} is there");
                }
            }
            Change::FlushChain(name) => table.chains.get_mut(name).unwrap().rules.clear(),
            Change::AddRule(name, rule) => table.chains.get_mut(name).unwrap().rules.push(rule.clone()),
            Change::DropSet(name) => {
                table.sets.remove(name).expect("a set to delete");
                let used = format!("{:?}", table.chains).contains(&format!("{name:?}"));
                assert!(!used, "{name} is used");
            }
            Change::DropChain(name) => {
                assert!(table.chains.remove(name).expect("a chain to delete").rules.is_empty(), "{name} has rules");
            }
            other => panic!("{other:?} is no part of a change"),
        }
    }
}

#[test]
fn histories_end_where_a_build_from_nothing_does() {
    const SERVICES: usize = 7;
    for seed in 1..=40 {
        let mut dice = Dice(seed * 0x9e37_79b9);
        let mut planner = Planner::new(options());
        let mut state: BTreeMap<String, Vec<ServicePort>> = BTreeMap::new();
        planner.reported();
        let mut kernel = planner.table().clone();
        for step in 0..60 {
            for _ in 0..=dice.roll(3) {
                let number = dice.roll(SERVICES);
                let (key, ports) = any_service(&mut dice, number);
                state.insert(key.clone(), ports.clone());
                planner.set(&key, ports);
            }
            replay(&mut kernel, &planner.changes());
            assert_eq!(&kernel, planner.table(), "seed {seed} step {step}");
            sound(&kernel);
            let mut cold = Planner::new(options());
            state.iter().for_each(|(key, ports)| {
                cold.set(key, ports.clone());
            });
            assert_eq!(without_order(&kernel), without_order(cold.table()), "seed {seed} step {step}");
        }
        for number in 0..SERVICES {
            planner.set(&format!("n/s{number}"), Vec::new());
        }
        replay(&mut kernel, &planner.changes());
        assert_eq!(kernel, frame(&options()), "seed {seed}: nothing is left behind");
    }
}

#[test]
fn flows_are_seen_to_where_endpoints_went_or_came_first() {
    let udp = |endpoints: &[&str]| {
        let spec = json!({"type": "NodePort",
            "ports": [{"name": "http", "port": 53, "protocol": "UDP", "nodePort": 30053}]});
        let mut slice =
            (*slice(&endpoints.iter().map(|ip| (*ip, "there", true, true, false)).collect::<Vec<_>>())).clone();
        slice.ports.as_mut().unwrap()[0].protocol = Some("UDP".into());
        service_ports(&service(spec), &[slice.into()], at("here"))
    };
    let mut planner = Planner::new(options());
    for (endpoints, fronts) in [
        (&[][..], 0),
        (&["10.244.1.1"], 2),
        // One more hurts nobody.
        (&["10.244.1.1", "10.244.1.2"], 0),
        (&["10.244.1.2"], 2),
        (&[], 2),
        (&[], 0),
    ] {
        planner.set("n/s", udp(endpoints));
        let flows = planner.take_flows();
        assert_eq!(flows.fronts().count(), fronts, "{endpoints:?}");
        planner.owe_flows(&flows);
        assert_eq!(planner.take_flows(), flows, "what is owed is not forgotten");
    }
    planner.set("n/s", udp(&["10.244.1.1"]));
    planner.take_flows();
    planner.set("n/s", Vec::new());
    assert_eq!(planner.take_flows().fronts().count(), 2, "a Service that goes takes its flows with it");
    planner.set("n/s", ports(json!({}), &[("10.244.1.1", "here")]));
    assert_eq!(planner.take_flows().fronts().count(), 0, "TCP");
}
