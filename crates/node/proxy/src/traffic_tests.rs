//! Real packets through real rules, between network namespaces.

use std::collections::BTreeMap;
use std::io::ErrorKind::ConnectionRefused;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::keeper::Keeper;
use crate::nets::{Answer, NODE, Net, ask, ask_from, listen, on_a_node};
use crate::planner_tests::options;
use crate::services::tests::{at, service, slice};
use crate::services::{ServicePort, service_ports};

type Pod = (&'static str, &'static str, bool, bool, bool);
const ONE: Pod = ("10.244.1.1", "here", true, true, false);
const TWO: Pod = ("10.244.1.2", "here", true, true, false);
const THREE: Pod = ("10.244.1.3", "elsewhere", true, true, false);

fn ports(spec: Value, endpoints: &[Pod]) -> Vec<ServicePort> {
    named("s", spec, endpoints)
}

fn named(name: &str, spec: Value, endpoints: &[Pod]) -> Vec<ServicePort> {
    let mut object = (*service(spec)).clone();
    object.metadata.name = Some(name.into());
    service_ports(&object, &[slice(endpoints)], at("here"))
}

/// Three pods, and a client outside with two addresses.
struct Lab {
    keeper: Keeper,
    one: Net,
    _others: [Net; 2],
    outside: Net,
}

impl Lab {
    fn new() -> Self {
        Self {
            keeper: Keeper::open(options()).unwrap(),
            one: Net::pod("pod1", &["10.244.1.1"]),
            _others: [Net::pod("pod2", &["10.244.1.2"]), Net::pod("pod3", &["10.244.1.3"])],
            outside: Net::new("out0", NODE, &["192.168.7.9", "192.168.7.200"]),
        }
    }

    fn set(&mut self, spec: Value, endpoints: &[Pod]) {
        self.keeper.planner.set("n/s", ports(spec, endpoints));
        self.keeper.apply().unwrap();
    }

    fn ask_outside(&self, from: &'static str, to: &'static str) -> Answer {
        self.outside.within(move || ask_from(from, to))
    }
}

fn with_ports(more: Value) -> Value {
    let mut spec = json!({"ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
    more.as_object().unwrap().iter().for_each(|(key, value)| spec[key] = value.clone());
    spec
}

#[test]
fn every_front_leads_to_the_endpoints() {
    on_a_node(|_| {
        let mut lab = Lab::new();
        let spec = with_ports(json!({"type": "LoadBalancer", "externalIPs": ["198.51.100.1"],
            "loadBalancerSourceRanges": ["192.168.7.9/32"]}));
        lab.set(spec.clone(), &[TWO]);
        let shown = crate::nets::command("nft list ruleset");
        println!("{shown}");
        for expected in [
            "dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 1 map @service-endpoints",
            "dnat ip to meta l4proto . th dport . numgen random mod 1 map @nodeport-endpoints",
            "10.96.0.10 . tcp . 80 : goto endpoints-1",
        ] {
            assert!(shown.contains(expected), "{expected} is missing in\n{shown}");
        }
        // A pod is seen as itself; who comes from outside as the node.
        assert_eq!(lab.one.ask("10.96.0.10:80"), Ok((2, "10.244.1.1".into())));
        assert_eq!(ask("10.96.0.10:80").map(|answer| answer.0), Ok(2), "from the node");
        assert_eq!(lab.ask_outside("192.168.7.9", "192.168.7.7:30080"), Ok((2, "10.244.1.254".into())));
        assert_eq!(ask("192.168.7.7:30080").map(|answer| answer.0), Ok(2), "the node port on the node");
        assert_eq!(lab.one.ask("192.168.7.7:30080").map(|answer| answer.0), Ok(2), "the node port from a pod");
        assert_eq!(lab.ask_outside("192.168.7.200", "198.51.100.1:80").map(|answer| answer.0), Ok(2));
        assert_eq!(lab.ask_outside("192.168.7.9", "192.0.2.7:80").map(|answer| answer.0), Ok(2));
        let refused = lab.ask_outside("192.168.7.200", "192.0.2.7:80");
        assert!(matches!(refused, Err(kind) if kind != ConnectionRefused), "dropped, not in the range: {refused:?}");
        assert_eq!(lab.one.ask("10.96.0.10:81"), Err(ConnectionRefused), "no such port");
        // Without endpoints all of it is refused.
        lab.set(spec, &[]);
        assert_eq!(lab.one.ask("10.96.0.10:80"), Err(ConnectionRefused));
        assert_eq!(lab.ask_outside("192.168.7.9", "192.168.7.7:30080"), Err(ConnectionRefused));
        assert_eq!(lab.ask_outside("192.168.7.200", "198.51.100.1:80"), Err(ConnectionRefused));
        lab.keeper.planner.set("n/s", Vec::new());
        lab.keeper.apply().unwrap();
        assert!(lab.one.ask("10.96.0.10:80").is_err(), "the Service is gone");
    });
}

#[test]
fn policy_local_keeps_clients_addresses_and_stays_here() {
    on_a_node(|_| {
        let mut lab = Lab::new();
        let spec = with_ports(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}));
        lab.set(spec.clone(), &[TWO, THREE]);
        for to in ["192.0.2.7:80", "192.168.7.7:30080"] {
            for _ in 0..8 {
                assert_eq!(lab.ask_outside("192.168.7.200", to), Ok((2, "192.168.7.200".into())), "{to}");
            }
            let answers: BTreeMap<u8, String> = (0..30).map(|_| lab.one.ask(to).unwrap()).collect();
            let seen = "10.244.1.1".to_owned();
            assert_eq!(answers, [(2, seen.clone()), (3, seen)].into(), "pods go anywhere, as themselves: {to}");
            assert!(ask(to).is_ok(), "the node, too");
        }
        // None here: outside is dropped, so that balancers look elsewhere.
        lab.set(spec, &[THREE]);
        assert!(matches!(lab.ask_outside("192.168.7.200", "192.0.2.7:80"), Err(kind) if kind != ConnectionRefused));
        assert_eq!(lab.one.ask("192.0.2.7:80").map(|answer| answer.0), Ok(3));
        // Inside likewise.
        let internal = json!({"internalTrafficPolicy": "Local"});
        lab.set(internal.clone(), &[TWO, THREE]);
        assert!((0..12).all(|_| lab.one.ask("10.96.0.10:80").is_ok_and(|answer| answer.0 == 2)));
        lab.set(internal, &[THREE]);
        assert!(lab.one.ask("10.96.0.10:80").is_err());
    });
}

#[test]
fn a_pod_reaches_itself() {
    on_a_node(|_| {
        let mut lab = Lab::new();
        lab.set(json!({}), &[ONE]);
        assert_eq!(lab.one.ask("10.96.0.10:80"), Ok((1, "10.244.1.254".into())), "it sees the node, not itself");
    });
}

#[test]
fn endpoints_get_equal_shares() {
    on_a_node(|_| {
        let mut lab = Lab::new();
        let shares = |lab: &Lab| {
            let mut shares: BTreeMap<u8, u32> = BTreeMap::new();
            for _ in 0..600 {
                *shares.entry(lab.one.ask("10.96.0.10:80").unwrap().0).or_default() += 1;
            }
            shares
        };
        lab.set(json!({}), &[ONE, TWO, THREE]);
        let three = shares(&lab);
        println!("three endpoints: {three:?}");
        // Of 600 draws with a third each, 200 +- 60 is more than five standard deviations.
        assert!(three.len() == 3 && three.values().all(|n| (140..=260).contains(n)), "{three:?}");
        // The first goes, the last takes its place.
        lab.set(json!({}), &[TWO, THREE]);
        let two = shares(&lab);
        println!("two endpoints: {two:?}");
        assert!(two.keys().copied().eq([2, 3]) && two.values().all(|n| (235..=365).contains(n)), "{two:?}");
    });
}

#[test]
fn a_client_stays_with_its_endpoint() {
    on_a_node(|_| {
        let mut lab = Lab::new();
        let sticky = with_ports(json!({"type": "NodePort", "sessionAffinity": "ClientIP"}));
        lab.set(sticky.clone(), &[ONE, TWO, THREE]);
        let stays = |lab: &Lab, with: u8| (0..15).all(|_| lab.one.ask("10.96.0.10:80").unwrap().0 == with);
        let first = lab.one.ask("10.96.0.10:80").unwrap().0;
        assert!(stays(&lab, first));
        assert_eq!(lab.one.ask("192.168.7.7:30080").unwrap().0, first, "by the node port too");
        // Another Service comes, changes and goes.
        for (endpoints, sticky) in [(&[ONE, TWO][..], false), (&[THREE], true), (&[], false)] {
            let mut spec = json!({"clusterIP": "10.96.0.11"});
            if sticky {
                spec["sessionAffinity"] = "ClientIP".into();
            }
            lab.keeper.planner.set("n/other", named("other", spec, endpoints));
            lab.keeper.apply().unwrap();
            assert!(stays(&lab, first), "another Service's change");
        }
        // One of the others goes.
        let all = [ONE, TWO, THREE];
        let other = usize::from(first % 3);
        let rest: Vec<Pod> = all.into_iter().filter(|pod| *pod != all[other]).collect();
        lab.set(sticky.clone(), &rest);
        assert!(stays(&lab, first), "an endpoint went that was not its own");
        lab.set(sticky.clone(), &all);
        assert!(stays(&lab, first), "and came back");
        // Its own goes.
        let rest: Vec<Pod> = all.into_iter().filter(|pod| !pod.0.ends_with(&first.to_string())).collect();
        lab.set(sticky, &rest);
        let second = lab.one.ask("10.96.0.10:80").unwrap().0;
        assert!(second != first && stays(&lab, second));
        // Without affinity it goes anywhere.
        lab.set(json!({}), &all);
        assert!(!stays(&lab, second));
    });
}

/// A Service that does not change is reachable at each moment while others do, and so is one that grows and shrinks.
#[test]
fn nothing_is_unreachable_while_services_change() {
    on_a_node(|_| {
        let mut lab = Lab::new();
        lab.set(json!({}), &[ONE, TWO]);
        let grows = |endpoints: &[Pod]| named("grows", json!({"clusterIP": "10.96.0.12"}), endpoints);
        lab.keeper.planner.set("n/grows", grows(&[TWO]));
        lab.keeper.apply().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let ask_on = |to: &'static str| {
            let stop = stop.clone();
            // A thread begun here has this namespace.
            std::thread::spawn(move || {
                let (mut good, mut bad) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    match ask(to) {
                        Ok(_) => good += 1,
                        Err(kind) => bad.push(kind),
                    }
                    if bad.len() > 20 {
                        break;
                    }
                }
                (good, bad)
            })
        };
        let clients = [ask_on("10.96.0.10:80"), ask_on("10.96.0.12:80")];
        for round in 0..400_usize {
            let endpoints: &[Pod] = [&[TWO][..], &[TWO, THREE], &[ONE, TWO, THREE], &[THREE, TWO]][round % 4];
            lab.keeper.planner.set("n/grows", grows(endpoints));
            let mut other = json!({"clusterIP": "10.96.0.11", "type": "LoadBalancer"});
            if round % 3 == 0 {
                other["sessionAffinity"] = "ClientIP".into();
            }
            let endpoints = if round % 5 == 0 { &[] } else { endpoints };
            lab.keeper.planner.set("n/other", named("other", other, endpoints));
            lab.keeper.apply().unwrap();
            if round % 100 == 99 {
                // As after a restart, or a repair: the whole table at once.
                lab.keeper.planner.tell_whole();
                lab.keeper.apply().unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            let (good, bad) = client.join().unwrap();
            println!("{good} connections, failed {bad:?}");
            assert!(good > 100 && bad.is_empty(), "{good} good, {bad:?}");
        }
    });
}

#[test]
fn udp_flows_follow_their_endpoints() {
    on_a_node(|_| {
        let mut lab = Lab::new();
        let udp = |name: &str, ip: &str, endpoints: &[Pod]| {
            let mut s = (*slice(endpoints)).clone();
            s.ports.as_mut().unwrap()[0].protocol = Some("UDP".into());
            let mut object = (*service(json!({"clusterIP": ip, "type": "NodePort",
                "ports": [{"name": "http", "port": 53, "protocol": "UDP", "nodePort": 30053}]})))
            .clone();
            if name != "s" {
                object.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].node_port = None;
            }
            object.metadata.name = Some(name.into());
            service_ports(&object, &[s.into()], at("here"))
        };
        let open = |net: &Net, address: &'static str| net.within(move || listen(address));
        let (one, two) = (open(&lab.one, "10.244.1.1:8080"), open(&lab._others[0], "10.244.1.2:8080"));
        let heard = |socket: &UdpSocket| socket.recv(&mut [0; 16]).is_ok();
        let client = |to: &'static str| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(to).unwrap();
            socket
        };
        let fronts = ["10.96.0.10:53", "192.168.7.7:30053"].map(client);
        let other = client("10.96.0.11:53");
        lab.keeper.planner.set("n/s", udp("s", "10.96.0.10", &[ONE]));
        lab.keeper.planner.set("n/other", udp("other", "10.96.0.11", &[ONE]));
        lab.keeper.apply().unwrap();
        assert_eq!(lab.keeper.forget_flows().unwrap(), 0);
        for socket in fronts.iter().chain([&other]) {
            socket.send(b"a").unwrap();
            assert!(heard(&one));
        }
        lab.keeper.planner.set("n/s", udp("s", "10.96.0.10", &[TWO]));
        lab.keeper.apply().unwrap();
        for socket in &fronts {
            socket.send(b"b").unwrap();
            assert!(heard(&one), "the kernel remembers the flow");
        }
        assert_eq!(lab.keeper.forget_flows().unwrap(), 2, "the address's and the node port's, not the other Service's");
        for socket in &fronts {
            socket.send(b"c").unwrap();
            assert!(heard(&two) && !heard(&one));
        }
        other.send(b"d").unwrap();
        assert!(heard(&one));
        // The last endpoint goes: the flow is refused, not sent to nobody.
        lab.keeper.planner.set("n/s", udp("s", "10.96.0.10", &[]));
        lab.keeper.apply().unwrap();
        assert_eq!(lab.keeper.forget_flows().unwrap(), 2);
        assert!(fronts[0].send(b"e").is_err() && !heard(&two));
    });
}
