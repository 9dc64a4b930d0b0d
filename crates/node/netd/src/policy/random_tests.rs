//! Any order of changes leads to the rules that the objects mean, and each transaction to the table that is wanted.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::engine::Engine;
use super::parse::{self, Allowance, Numbers, Peer, Policy, Scope};
use super::pods::{NamedPort, Pod, TCP, UDP};
use super::selector::matches;
use super::simulate::{Packet, change, passes};
use super::{Direction, Id, Labels};

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }

    fn selector(&mut self, key: &str) -> Value {
        match self.roll(4) {
            0 => json!({}),
            1 => json!({"matchExpressions": [{"key": key, "operator": "NotIn", "values": [self.pick(&["a", "b"])]}]}),
            2 => json!({"matchExpressions": [{"key": key, "operator": "Exists"}]}),
            _ => json!({"matchLabels": {key: self.pick(&["a", "b", "c"])}}),
        }
    }

    fn labels(&mut self, key: &str) -> Labels {
        if self.roll(5) == 0 {
            Labels::new()
        } else {
            [(key.to_owned(), self.pick(&["a", "b", "c"]).to_owned())].into()
        }
    }

    fn list(&mut self, mut one: impl FnMut(&mut Self) -> Value) -> Value {
        (0..self.roll(3)).map(|_| one(self)).collect()
    }

    fn peer(&mut self) -> Value {
        match self.roll(5) {
            0 => json!({"podSelector": self.selector("pod")}),
            1 => json!({"namespaceSelector": self.selector("ns")}),
            2 => json!({"namespaceSelector": self.selector("ns"), "podSelector": self.selector("pod")}),
            3 => json!({"ipBlock": {"cidr": "10.244.0.0/24", "except": ["10.244.0.4/30", "10.244.0.1/32"]}}),
            _ => json!({"ipBlock": {"cidr": format!("10.244.0.{}/30", self.roll(16))}}),
        }
    }

    fn port(&mut self) -> Value {
        let protocol = self.pick(&["TCP", "UDP"]);
        match self.roll(4) {
            0 => json!({"protocol": protocol}),
            1 => json!({"protocol": protocol, "port": self.pick(&["http", "dns"])}),
            2 => json!({"protocol": protocol, "port": 79 + self.roll(3)}),
            _ => json!({"protocol": protocol, "port": 50, "endPort": 79 + self.roll(3)}),
        }
    }

    fn policy(&mut self, id: &Id) -> Policy {
        let ingress = self.list(|d| json!({"from": d.list(Self::peer), "ports": d.list(Self::port)}));
        let egress = self.list(|d| json!({"to": d.list(Self::peer), "ports": d.list(Self::port)}));
        let types = [json!([]), json!(["Egress"]), json!(["Ingress"]), json!(["Ingress", "Egress"])];
        let spec = json!({"podSelector": self.selector("pod"), "policyTypes": types[self.roll(4)],
                          "ingress": ingress, "egress": egress});
        let object = json!({"metadata": {"namespace": id.namespace, "name": id.name}, "spec": spec});
        parse::policy(&serde_json::from_value(object).unwrap())
    }

    fn pod(&mut self, address: u8) -> Pod {
        let ports = [(TCP, "http", 80), (TCP, "http", 81), (UDP, "dns", 79)];
        let named = |(protocol, name, number): (u8, &str, u16)| NamedPort { protocol, name: name.to_owned(), number };
        let addresses = if self.roll(6) == 0 { vec![] } else { vec![IpAddr::V4(Ipv4Addr::new(10, 244, 0, address))] };
        let ports = ports.into_iter().filter(|_| self.roll(2) == 0).map(named).collect();
        Pod { labels: self.labels("pod"), addresses, local: address.is_multiple_of(2), ports }
    }
}

/// The objects, and what they mean without any index.
#[derive(Default)]
struct Truth {
    namespaces: BTreeMap<String, Labels>,
    pods: BTreeMap<Id, Pod>,
    policies: BTreeMap<Id, Policy>,
}

impl Truth {
    fn owner(&self, address: IpAddr) -> Option<(&Id, &Pod)> {
        self.pods.iter().find(|(_, pod)| pod.addresses.contains(&address))
    }

    fn allows(&self, packet: &Packet) -> bool {
        if packet.source == packet.destination {
            return true;
        }
        [(Direction::Egress, packet.source), (Direction::Ingress, packet.destination)].into_iter().all(
            |(d, address)| {
                let Some((id, pod)) = self.owner(address).filter(|(_, pod)| pod.local) else { return true };
                let selects = |p: &&Policy| {
                    p.id.namespace == id.namespace && p.subject.as_ref().is_some_and(|s| matches(s, &pod.labels))
                };
                let mut isolating = self.policies.values().filter(selects).filter_map(|p| p.allowances(d)).peekable();
                isolating.peek().is_none() || isolating.flatten().any(|a| self.fits(a, d, packet))
            },
        )
    }

    fn fits(&self, allowance: &Allowance, direction: Direction, packet: &Packet) -> bool {
        let other = if direction == Direction::Ingress { packet.source } else { packet.destination };
        let target = self.owner(packet.destination).map(|(_, pod)| pod);
        let number = |address: IpAddr| if let IpAddr::V4(v4) = address { u128::from(u32::from(v4)) } else { 0 };
        let mut peers = allowance.peers.iter().flatten();
        let who = |peer: &Peer| match peer {
            Peer::Block(_, ranges) => ranges.iter().any(|(a, b)| (*a..=*b).contains(&number(other))),
            Peer::Pods(peer) => self.owner(other).is_some_and(|(id, pod)| {
                let within = match &peer.namespaces {
                    Scope::Only(name) => *name == id.namespace,
                    Scope::Selected(s) => self.namespaces.get(&id.namespace).is_some_and(|labels| matches(s, labels)),
                };
                within && matches(&peer.pods, &pod.labels)
            }),
        };
        // A name that an egress rule gives is a pod's: of one that its peers select.
        let named_by_pod = |peer: &Peer| direction == Direction::Ingress || matches!(peer, Peer::Pods(_));
        let port = |allow_names: bool| {
            allowance.ports.as_ref().is_none_or(|ports| {
                ports.iter().filter(|p| p.protocol == packet.protocol).any(|p| match &p.numbers {
                    Numbers::All => true,
                    Numbers::Range(first, last) => (*first..=*last).contains(&packet.port),
                    Numbers::Named(name) => {
                        allow_names && target.is_some_and(|pod| pod.numbers(p.protocol, name).any(|n| n == packet.port))
                    }
                })
            })
        };
        // With everybody, names are those of pods of known namespaces.
        let known =
            || self.owner(packet.destination).is_some_and(|(id, _)| self.namespaces.contains_key(&id.namespace));
        match allowance.peers {
            None => port(direction == Direction::Ingress || known()),
            Some(_) => peers.any(|peer| who(peer) && port(named_by_pod(peer))),
        }
    }
}

const NAMESPACES: [&str; 3] = ["x", "y", "z"];

fn step(dice: &mut Dice, truth: &mut Truth, engine: &mut Engine) {
    let namespace = dice.pick(&NAMESPACES);
    match dice.roll(8) {
        0 => {
            let labels = if dice.roll(4) == 0 { None } else { Some(dice.labels("ns")) };
            match &labels {
                Some(labels) => drop(truth.namespaces.insert(namespace.to_owned(), labels.clone())),
                None => drop(truth.namespaces.remove(namespace)),
            }
            engine.set_namespace(namespace, labels);
        }
        1..=4 => {
            let number = u8::try_from(dice.roll(4)).unwrap();
            let id = Id::new(namespace, &format!("p{number}"));
            let index = NAMESPACES.iter().position(|n| *n == namespace).unwrap();
            let pod = (dice.roll(5) > 0).then(|| dice.pod(u8::try_from(index * 4).unwrap() + number));
            match &pod {
                Some(pod) => drop(truth.pods.insert(id.clone(), pod.clone())),
                None => drop(truth.pods.remove(&id)),
            }
            engine.set_pod(&id, pod);
        }
        _ => {
            let id = Id::new(namespace, dice.pick(&["p", "q", "r"]));
            let policy = (dice.roll(4) > 0).then(|| dice.policy(&id));
            match &policy {
                Some(policy) => drop(truth.policies.insert(id.clone(), policy.clone())),
                None => drop(truth.policies.remove(&id)),
            }
            engine.set_policy(&id, policy);
        }
    }
}

fn compare(truth: &Truth, engine: &Engine, context: &str) {
    let addresses: Vec<IpAddr> = (0..13).map(|last| IpAddr::V4(Ipv4Addr::new(10, 244, 0, last))).collect();
    for (source, destination) in addresses.iter().flat_map(|a| addresses.iter().map(move |b| (*a, *b))) {
        for (protocol, port) in [(TCP, 80), (TCP, 79), (UDP, 79), (UDP, 7), (1, 0)] {
            let packet = Packet::new(source, destination, protocol, port);
            let (got, expected) = (passes(engine.table(), &packet), truth.allows(&packet));
            assert_eq!(got, expected, "{context}: {packet:?}\n{:#?}\n{:#?}", truth.policies, truth.pods);
        }
    }
}

#[test]
fn any_order_of_changes_means_the_same() {
    for seed in 0..60 {
        let (mut dice, mut truth, mut engine) = (Dice(seed), Truth::default(), Engine::default());
        let mut kernel = engine.table().clone();
        for round in 0..40 {
            for _ in 0..=dice.roll(4) {
                step(&mut dice, &mut truth, &mut engine);
            }
            let context = format!("seed {seed}, round {round}");
            for one in engine.changes() {
                change(&mut kernel, &one);
            }
            assert_eq!(&kernel, engine.table(), "{context}: what was told is not what is wanted");
            compare(&truth, &engine, &context);
        }
        // When all is gone, nothing is left.
        let Truth { namespaces, pods, policies } = std::mem::take(&mut truth);
        namespaces.keys().for_each(|name| engine.set_namespace(name, None));
        for id in policies.keys() {
            assert!(engine.set_policy(id, None) && !engine.set_policy(id, None));
        }
        pods.keys().for_each(|id| engine.set_pod(id, None));
        assert_eq!(engine.table(), Engine::default().table(), "seed {seed}");
    }
}
