//! What a pod's change costs on a big cluster. Printed, not judged: `cargo test -p kinit-netd --lib bench -- --ignored
//! --nocapture`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use kinit_nftables::Nftables;
use serde_json::json;

use super::base::{FAMILY, TABLE};
use super::engine::Engine;
use super::pods::Pod;
use super::{Id, parse};

const NAMESPACES: u32 = 100;
const PODS: u32 = 10_000;
const POLICIES: u32 = 1_000;
/// Pods of this node.
const LOCAL: u32 = 110;
const APPS: u32 = 10;

fn pod(i: u32, app: u32) -> (Id, Pod) {
    let labels =
        [("app", format!("app{app}")), ("tier", format!("t{}", i % 3)), ("pod-template-hash", "5d59d67564".into())];
    let pod = Pod {
        labels: labels.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        addresses: vec![IpAddr::V4(Ipv4Addr::from(0x0af4_0000 + i))],
        local: i < LOCAL,
        ports: Vec::new(),
    };
    (Id::new(&format!("ns{}", i % NAMESPACES), &format!("pod-{i}")), pod)
}

/// Ten policies per namespace: by pods, by namespaces, by both, by addresses, with ports.
fn policy(i: u32) -> (Id, parse::Policy) {
    let id = Id::new(&format!("ns{}", i % NAMESPACES), &format!("policy-{i}"));
    let app = i / NAMESPACES % APPS;
    let from = json!([
        {"podSelector": {"matchLabels": {"app": format!("app{}", (app + 1) % APPS)}}},
        {"namespaceSelector": {"matchLabels": {"team": format!("team{}", i % 7)}}, "podSelector": {"matchLabels": {"tier": "t1"}}},
        {"ipBlock": {"cidr": "192.168.0.0/16", "except": ["192.168.4.0/24"]}}]);
    let to = json!([{"namespaceSelector": {"matchLabels": {"team": format!("team{}", (i + 3) % 7)}}}]);
    let spec = json!({"podSelector": {"matchLabels": {"app": format!("app{app}")}}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": from, "ports": [{"port": 80}, {"port": 443}]}], "egress": [{"to": to}]});
    let object = json!({"metadata": {"namespace": id.namespace, "name": id.name}, "spec": spec});
    let policy = parse::policy(&serde_json::from_value(object).unwrap());
    (id, policy)
}

/// CPU time of this thread, the kernel's work for it included.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn report(what: &str, times: u32, mut work: impl FnMut(u32) -> usize) {
    let (begun, used, mut changes) = (Instant::now(), cpu(), 0);
    for i in 0..times {
        changes += work(i);
    }
    let (took, used) = (begun.elapsed() / times, (cpu() - used) / times);
    println!("{what:<58} {:>9.1?} CPU {:>9.1?} elapsed {:>8.1} changes", used, took, changes as f64 / f64::from(times));
}

#[test]
#[ignore = "a measurement"]
fn cost_of_changes() {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs the right to make a network namespace");
        let kernel = Nftables::open().unwrap();
        let mut engine = Engine::default();
        engine.set_own(&["10.244.0.0/24".parse().unwrap()]);
        report("start: all objects into the engine", 1, |_| {
            for n in 0..NAMESPACES {
                let labels = [("team".to_owned(), format!("team{}", n % 7))].into();
                engine.set_namespace(&format!("ns{n}"), Some(labels));
            }
            (0..PODS).map(|i| pod(i, i / NAMESPACES % APPS)).for_each(|(id, pod)| engine.set_pod(&id, Some(pod)));
            for (id, policy) in (0..POLICIES).map(policy) {
                engine.set_policy(&id, Some(policy));
            }
            engine.table().chains.len()
        });
        report("start: the whole table into the kernel", 1, |_| {
            engine.changes();
            kernel.apply(None, engine.table()).unwrap()
        });
        println!("{:?}, {} chains, {} sets", engine.counts(), engine.table().chains.len(), engine.table().sets.len());
        changes(&kernel, &mut engine);
    });
    thread.join().unwrap();
}

fn changes(kernel: &Nftables, engine: &mut Engine) {
    let commit = |engine: &mut Engine| {
        let changes = engine.changes();
        kernel.commit(FAMILY, TABLE, &changes).unwrap();
        let _ = engine.counts();
        changes.len()
    };
    let far = |i: u32| LOCAL + i % (PODS - LOCAL);
    report("a pod elsewhere goes and comes (two transactions)", 500, |i| {
        let (id, pod) = pod(far(i * 37), i % APPS);
        engine.set_pod(&id, None);
        let gone = commit(engine);
        engine.set_pod(&id, Some(pod));
        gone + commit(engine)
    });
    // The pods of this node allow those of app 1 and 2 of their namespace.
    report("a pod elsewhere gets another label", 500, |i| {
        let (id, pod) = pod(far(i * 37), i % 2 + 1);
        engine.set_pod(&id, Some(pod));
        commit(engine)
    });
    report("a status that changes nothing", 500, |i| {
        let (id, pod) = pod(far(i * 37), i % 2 + 1);
        engine.set_pod(&id, Some(pod));
        commit(engine)
    });
    report("a pod of this node goes and comes (two transactions)", 100, |i| {
        let (id, pod) = pod(i % LOCAL, i % APPS);
        engine.set_pod(&id, None);
        let gone = commit(engine);
        engine.set_pod(&id, Some(pod));
        gone + commit(engine)
    });
    report("a policy of this node's pods changes", 100, |i| {
        let (id, mut policy) = policy(i);
        policy.uid = Some(format!("other-{i}"));
        engine.set_policy(&id, Some(policy));
        commit(engine)
    });
    report("a namespace gets another label (100 pods)", 20, |i| {
        let labels = [("team".to_owned(), format!("team{}", (i + 1) % 7))].into();
        engine.set_namespace(&format!("ns{i}"), Some(labels));
        commit(engine)
    });
}
