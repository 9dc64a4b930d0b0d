//! What many Services cost. Printed, not judged: `cargo xtask bench proxy`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kinit_nftables::{Family, Nftables, diff};
use serde_json::{Value, json};

use crate::keeper::Keeper;
use crate::nets::{command, on_a_node};
use crate::planner_tests::options;
use crate::ruleset::TABLE;
use crate::services::tests::at;
use crate::services::{ServicePort, service_ports};

const SIZES: [u32; 3] = [1_000, 5_000, 10_000];
const ENDPOINTS: u32 = 3;
const TIMES: u32 = 200;

type Object = (Arc<Service>, [Arc<EndpointSlice>; 1]);

/// The texts of a Service and its slice; its endpoints are those from `first` on.
fn texts(number: u32, first: u32, count: u32, more: &Value) -> (String, String) {
    let ip = std::net::Ipv4Addr::from(0x0a60_0000 + number + 256);
    let mut spec = json!({"clusterIP": ip.to_string(), "clusterIPs": [ip.to_string()], "type": "ClusterIP",
        "selector": {"app": format!("app-{number}")}, "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
        "internalTrafficPolicy": "Cluster", "sessionAffinity": "None", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"});
    more.as_object().unwrap().iter().for_each(|(key, value)| spec[key] = value.clone());
    let protocol = spec["ports"][0]["protocol"].clone();
    let meta = |name: String, labels: Value| {
        json!({"name": name, "namespace": "bench", "uid": format!("00000000-0000-4000-8000-{number:012}"),
            "resourceVersion": number.to_string(), "creationTimestamp": "2026-01-01T00:00:00Z", "labels": labels})
    };
    let endpoints: Vec<Value> = (first..first + count)
        .map(|n| {
            let ip = std::net::Ipv4Addr::from(0x0af4_0000 + number * 16 + n).to_string();
            json!({"addresses": [ip], "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": if n == 0 { "here" } else { "there" },
                "targetRef": {"kind": "Pod", "name": format!("app-{number}-{n}"), "namespace": "bench"}})
        })
        .collect();
    let service = json!({"metadata": meta(format!("s-{number}"), json!({"app": "bench"})), "spec": spec, "status": {"loadBalancer": {}}});
    let labels = json!({"kubernetes.io/service-name": format!("s-{number}")});
    let slice = json!({"metadata": meta(format!("s-{number}-abcde"), labels), "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": protocol}]});
    (service.to_string(), slice.to_string())
}

fn decode((service, slice): &(String, String)) -> Object {
    (Arc::new(serde_json::from_str(service).unwrap()), [Arc::new(serde_json::from_str(slice).unwrap())])
}

fn object(number: u32, first: u32, count: u32, more: &Value) -> Object {
    decode(&texts(number, first, count, more))
}

fn ports((service, slices): &Object) -> Vec<ServicePort> {
    service_ports(service, slices, at("here"))
}

fn key(number: u32) -> String {
    format!("bench/s-{number}")
}

/// CPU time of this thread, the kernel's work for it included.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Resident memory, MiB.
fn memory() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Milliseconds of CPU, and elapsed.
fn measured<T>(work: impl FnOnce() -> T) -> (f64, f64, T) {
    let (begun, used) = (Instant::now(), cpu());
    let done = work();
    (milliseconds(cpu() - used), milliseconds(begun.elapsed()), done)
}

/// A line's name, and one figure for each size.
#[derive(Default)]
struct Report(Vec<(String, Vec<f64>)>);

impl Report {
    fn add(&mut self, name: &str, figure: f64) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, figures)) => figures.push(figure),
            None => self.0.push((name.to_owned(), vec![figure])),
        }
    }

    fn print(&self) {
        println!("\n{ENDPOINTS} endpoints a Service; CPU of the proxy's thread with the kernel's work in its calls\n");
        println!("{:<66} {:>9} {:>9} {:>9} {:>11}", "", SIZES[0], SIZES[1], SIZES[2], "per 1,000");
        for (name, figures) in &self.0 {
            let slope = (figures[2] - figures[0]) * 1000.0 / f64::from(SIZES[2] - SIZES[0]);
            println!("{name:<66} {:>9.3} {:>9.3} {:>9.3} {slope:>11.4}", figures[0], figures[1], figures[2]);
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn cost_of_services() {
    let mut report = Report::default();
    for size in SIZES {
        let (reported, figures) = std::sync::mpsc::channel();
        on_a_node(move |_| {
            let mut add = |name: &str, figure: f64| reported.send((name.to_owned(), figure)).unwrap();
            let mut keeper = cold(size, &mut add);
            changes(size, &mut keeper, &mut add);
            watchfulness(&mut keeper, &mut add);
        });
        figures.into_iter().for_each(|(name, figure)| report.add(&name, figure));
    }
    report.print();
}

fn cold(size: u32, add: &mut dyn FnMut(&str, f64)) -> Keeper {
    let texts: Vec<_> = (0..size).map(|number| texts(number, 0, ENDPOINTS, &json!({}))).collect();
    let before = memory();
    let (decoding, _, objects) = measured(|| texts.iter().map(decode).collect::<Vec<_>>());
    let held = memory();
    let mut keeper = Keeper::open(options()).unwrap();
    let (planning, planned, ()) = measured(|| {
        for (number, object) in (0..size).zip(&objects) {
            keeper.planner.set(&key(number), ports(object));
        }
    });
    let planner = memory();
    let (sending, sent, _) = measured(|| keeper.apply().unwrap());
    add("cold sync: CPU, ms", planning + sending);
    add("  of it: rules from objects, ms", planning);
    add("  of it: one transaction, ms", sending);
    add("cold sync: elapsed, ms", planned + sent);
    let changes = diff(None, keeper.planner.table());
    let kernel = Nftables::open().unwrap();
    keeper.deafen();
    kernel.delete(Family::Ip, TABLE).unwrap();
    let (floor, _, ()) = measured(|| kernel.commit(Family::Ip, TABLE, &changes).unwrap());
    add("  floor: the same bytes encoded and sent, by a plain transaction, ms", floor);
    add("decoding of the objects (JSON, by the client), ms", decoding);
    add("memory: the proxy's state, MiB", planner - held);
    add("memory: the objects, MiB", held - before);
    add("memory: after the first transaction, MiB more", memory() - planner);
    keeper.planner.tell_whole();
    keeper.apply().unwrap();
    keeper.read_backs = 0;
    keeper
}

/// Mean CPU of a change, and of sending what it sends by a plain transaction.
fn change(
    keeper: &mut Keeper,
    times: u32,
    name: &str,
    add: &mut dyn FnMut(&str, f64),
    step: impl Fn(u32) -> (u32, Option<Object>),
) {
    let steps: Vec<_> = (0..times).map(step).collect();
    let (used, _, ()) = measured(|| {
        for (number, object) in &steps {
            keeper.planner.set(&key(*number), object.as_ref().map(ports).unwrap_or_default());
            assert!(keeper.apply().unwrap() > 0);
            keeper.forget_flows().unwrap();
        }
    });
    assert!(!keeper.planner.is_whole() && keeper.read_backs == 0);
    add(name, used / f64::from(times));
}

fn changes(size: u32, keeper: &mut Keeper, add: &mut dyn FnMut(&str, f64)) {
    let none = json!({});
    let spread = |i: u32| i * 37 % size;
    change(keeper, TIMES, "an endpoint is replaced, ms", add, |i| {
        (spread(i), Some(object(spread(i), 1, ENDPOINTS, &none)))
    });
    change(keeper, TIMES, "an endpoint more, ms", add, |i| {
        (spread(i), Some(object(spread(i), 1, ENDPOINTS + 1, &none)))
    });
    change(keeper, TIMES, "an endpoint less, ms", add, |i| (spread(i), Some(object(spread(i), 2, ENDPOINTS, &none))));
    change(keeper, TIMES, "a Service comes, ms", add, |i| (size + i, Some(object(size + i, 0, ENDPOINTS, &none))));
    change(keeper, TIMES, "a Service goes, ms", add, |i| (size + i, None));
    let balancer = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.1"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}]});
    change(keeper, 2, "a LoadBalancer Service (Local, node port) comes, ms", add, |i| {
        (size + 1, Some(object(size + 1, i, ENDPOINTS, &balancer)))
    });
    let sticky = json!({"sessionAffinity": "ClientIP"});
    change(keeper, TIMES, "an endpoint of a Service with affinity is replaced, ms", add, |i| {
        (size, Some(object(size, i % 2, ENDPOINTS, &sticky)))
    });
    let udp = json!({"ports": [{"name": "http", "port": 53, "protocol": "UDP"}]});
    change(keeper, TIMES, "an endpoint of a UDP Service is replaced, ms", add, |i| {
        (size, Some(object(size, i % 2, ENDPOINTS, &udp)))
    });
    floors(keeper, add);
}

/// The same elements by plain transactions of the library alone.
fn floors(keeper: &Keeper, add: &mut dyn FnMut(&str, f64)) {
    let kernel = Nftables::open().unwrap();
    let table = keeper.planner.table();
    let mut floor = |set: &str, name: &str| {
        let Some((key, data)) = table.sets[set].elements.iter().next() else { return };
        let mut one = kinit_nftables::Set { elements: [(key.clone(), data.clone())].into(), ..table.sets[set].clone() };
        let put = kinit_nftables::Change::AddElements(set.into(), one.clone());
        one.elements.values_mut().for_each(|data| *data = kinit_nftables::Data::None);
        let changes = [kinit_nftables::Change::DeleteElements(set.into(), one), put];
        let (used, _, ()) = measured(|| (0..TIMES).for_each(|_| kernel.commit(Family::Ip, TABLE, &changes).unwrap()));
        add(name, used / f64::from(TIMES));
    };
    floor(crate::ruleset::ENDPOINTS, "  floor: an element out and in, by a plain transaction, ms");
    floor(crate::ruleset::SERVICE_IPS, "  floor: the same of a verdict (the kernel checks all chains), ms");
}

fn watchfulness(keeper: &mut Keeper, add: &mut dyn FnMut(&str, f64)) {
    // The floors were somebody else's, too.
    assert!(keeper.is_right());
    let (read_backs, kernel) = (keeper.read_backs, Nftables::open().unwrap());
    let changes = [kinit_nftables::Change::AddTable];
    let others = || kernel.commit(Family::Ip, "other", &changes).unwrap();
    let (alone, _, ()) = measured(|| (0..TIMES).for_each(|_| others()));
    let (both, _, ()) = measured(|| {
        for _ in 0..TIMES {
            others();
            assert!(keeper.is_right());
        }
    });
    assert_eq!(keeper.read_backs, read_backs);
    add("somebody changes another table, ms", (both - alone) / f64::from(TIMES));
    command("nft add element ip kube-proxy cluster-ips { 192.0.2.99 }");
    let (looking, _, right) = measured(|| keeper.is_right());
    assert!(!right);
    add("somebody changes ours: it is read back, ms", looking);
    let (repairing, _, _) = measured(|| keeper.apply().unwrap());
    add("  and made anew, ms", repairing);
}
