//! Real packets on a segment of its own: an API server, three nodes in network namespaces, and a client that asks.
//!
//! ```text
//! test's namespace   br0 192.0.2.1   API server, etcd, the client with its ARP socket
//!                     ├─ v1 ═ eth0 192.0.2.11   node n1
//!                     ├─ v2 ═ eth0 192.0.2.12   node n2
//!                     └─ v3 ═ eth0 192.0.2.13   node n3
//! ```

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kinit_component_base::Shutdown;
use kinit_test_support::{ControlPlane, TestApiServer, free_port, kube_client};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::agent::{Setup, run};
use super::arp::{Mac, Packet};
use super::interfaces::{Interface, scan};
use super::socket::ArpSocket;
use crate::metrics::Metrics;
use crate::run::watch_nodes;

const USER: &str = "system:kube-netd";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NAMES: [&str; 3] = ["n1", "n2", "n3"];

fn sh(line: &str) {
    let done = Command::new("sh").args(["-ec", line]).output().unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Runs a test where nothing of the host's network is.
fn on_a_segment<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs the right to make a network namespace");
        sh(
            "ip link set lo up; ip link add br0 type bridge forward_delay 0; ip addr add 192.0.2.1/24 dev br0; ip link set br0 up",
        );
        // Its threads are born in this namespace.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
        runtime.block_on(test());
        runtime.shutdown_background();
    });
    thread.join().unwrap();
}

struct Segment {
    server: TestApiServer,
    client: Client,
    nodes: Vec<(Shutdown, JoinHandle<()>)>,
    socket: ArpSocket,
    bridge: Interface,
    dir: tempfile::TempDir,
}

impl Segment {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut plane = ControlPlane::on(dir.path(), 6443);
        plane.address = GATEWAY.into();
        let server = TestApiServer::start_at(plane, free_port().unwrap()).await.unwrap();
        let client = kube_client(&server.kubeconfig_for("admin", &["system:masters"]).unwrap()).await.unwrap();
        rights(&client).await;
        let bridge = scan().unwrap().into_iter().find(|i| i.name == "br0");
        let mut this = Self {
            socket: ArpSocket::open().unwrap(),
            nodes: Vec::new(),
            // It runs from the first member on.
            bridge: bridge.unwrap_or_else(|| super::interfaces::tests::interface("br0", &[])),
            server,
            client,
            dir,
        };
        for number in 1..=3 {
            this.node(number).await;
        }
        this.bridge = scan().unwrap().into_iter().find(|i| i.name == "br0").unwrap();
        this
    }

    /// A node in a namespace, and a thread, of its own.
    async fn node(&mut self, number: usize) {
        let name = NAMES[number - 1];
        let node: Node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(ready)).await.unwrap();
        let kubeconfig = self.server.kubeconfig_for(USER, &[]).unwrap();
        let (reported, tid) = mpsc::channel();
        let (plug, plugged) = mpsc::channel::<()>();
        let shutdown = Shutdown::new();
        let ending = shutdown.clone();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            reported.send(nix::unistd::gettid()).unwrap();
            plugged.recv().unwrap();
            sh(&format!("ip link set lo up; ip addr add 192.0.2.1{number}/24 dev eth0; ip link set eth0 up"));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(announce(name, &kubeconfig, ending));
        });
        let tid = tid.recv().unwrap();
        sh(&format!(
            "ip link add v{number} type veth peer name eth0 netns {tid}; ip link set v{number} master br0; ip link set v{number} up"
        ));
        plug.send(()).unwrap();
        self.nodes.push((shutdown, thread));
    }

    /// A Service that has this address, as the controller leaves it.
    async fn service(&self, name: &str, address: &str, more: Value) {
        let mut spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
        more.as_object().unwrap().iter().for_each(|(k, v)| spec[k] = v.clone());
        let marked = json!({"name": name, "annotations": {"kinit.dev/load-balancer-pool": "default"}});
        let service = serde_json::from_value(json!({"metadata": marked, "spec": spec})).unwrap();
        let api: Api<Service> = Api::namespaced(self.client.clone(), "default");
        api.create(&PostParams::default(), &service).await.unwrap();
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]}}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    async fn endpoints(&self, nodes: &[&str]) {
        let list: Vec<Value> = nodes
            .iter()
            .map(|n| json!({"addresses": ["10.244.0.1"], "nodeName": n, "conditions": {"ready": true}}))
            .collect();
        let slice = json!({"metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
            "addressType": "IPv4", "endpoints": list});
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), "default");
        if api.get_opt("s-1").await.unwrap().is_none() {
            api.create(&PostParams::default(), &serde_json::from_value(slice).unwrap()).await.unwrap();
        } else {
            api.patch("s-1", &PatchParams::default(), &Patch::Merge(json!({"endpoints": list}))).await.unwrap();
        }
    }

    /// Who answers for an address within so many milliseconds.
    async fn ask(&self, address: &str, millis: u64) -> BTreeSet<Mac> {
        let address: Ipv4Addr = address.parse().unwrap();
        let question = Packet { request: true, sender: (self.bridge.mac, GATEWAY), target: (Mac([0; 6]), address) };
        self.socket.send(&self.bridge.link, &question.frame(Mac::ALL)).unwrap();
        let (end, mut who) = (Instant::now() + Duration::from_millis(millis), BTreeSet::new());
        while let Ok(heard) = tokio::time::timeout_at(end, self.socket.hear()).await {
            let (index, packet) = heard.unwrap();
            if index == self.bridge.index()
                && !packet.request
                && packet.claims(address)
                && packet.target.0 == self.bridge.mac
            {
                who.insert(packet.sender.0);
            }
        }
        who
    }

    /// Waits until one that is not among `not` answers; who, and after how long.
    async fn answered(&self, address: &str, not: &[Mac], seconds: u64) -> (Mac, Duration) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(seconds) {
            let who = self.ask(address, 40).await;
            assert!(who.len() <= 1, "two answer for {address}: {who:?}");
            if let Some(mac) = who.into_iter().find(|mac| !not.contains(mac)) {
                return (mac, begun.elapsed());
            }
        }
        panic!("nobody answers for {address} within {seconds} s, but for {not:?}");
    }

    /// The number of the node with this Ethernet address.
    fn number(&self, mac: Mac) -> usize {
        let output = Command::new("bridge").args(["fdb", "show", "br", "br0"]).output().unwrap();
        let table = String::from_utf8(output.stdout).unwrap();
        let line = table.lines().find(|l| l.starts_with(&mac.to_string()) && l.contains("dev v"));
        let port = line.unwrap_or_else(|| panic!("{mac} in {table}")).split("dev v").nth(1).unwrap();
        port[..1].parse().unwrap()
    }

    async fn reported(&self, reason: &str, text: &str) -> bool {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let all = events.list(&ListParams::default()).await.unwrap();
        let of =
            |e: &Event| e.reason.as_deref() == Some(reason) && e.message.as_deref().is_some_and(|m| m.contains(text));
        all.iter().any(of)
    }

    fn end(self) {
        for (shutdown, _) in &self.nodes {
            shutdown.cancel();
        }
        for (_, thread) in self.nodes {
            thread.join().unwrap();
        }
        drop(self.dir);
    }
}

async fn announce(name: &str, kubeconfig: &str, shutdown: Shutdown) {
    kinit_component_base::runtime::install_tls_provider();
    let client = node_client(kubeconfig).await;
    let news = Arc::new(Notify::new());
    let (nodes, nodes_known) =
        watch_nodes(Api::all(client.clone()), [news.clone(), Arc::new(Notify::new())], &shutdown);
    let setup = Setup { client, node: name.to_owned(), nodes, nodes_known, news, metrics: Metrics::new() };
    run(setup, shutdown).await.unwrap();
}

/// As components have it, with the pings that find a dead server.
async fn node_client(kubeconfig: &str) -> Client {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), kubeconfig).unwrap();
    kinit_client::from_kubeconfig(file.path(), "kube-netd").await.unwrap()
}

/// No more rights than those that kinit gives (a test of crates/lifecycle/manifests reads the same file).
async fn rights(client: &Client) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let rules: Value = serde_json::from_str(include_str!("role.json")).unwrap();
    let space = super::lease::NAMESPACE;
    let binding = |kind: &str| {
        json!({"metadata": {"name": USER}, "roleRef": {"apiGroup": GROUP, "kind": kind, "name": USER},
            "subjects": [{"apiGroup": GROUP, "kind": "User", "name": USER}]})
    };
    let role = |rules: &Value| json!({"metadata": {"name": USER}, "rules": rules});
    let post = PostParams::default();
    let spaces: Api<Namespace> = Api::all(client.clone());
    spaces.create(&post, &serde_json::from_value(json!({"metadata": {"name": space}})).unwrap()).await.unwrap();
    let cluster: Api<ClusterRole> = Api::all(client.clone());
    cluster.create(&post, &serde_json::from_value(role(&rules["cluster"])).unwrap()).await.unwrap();
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    bindings.create(&post, &serde_json::from_value(binding("ClusterRole")).unwrap()).await.unwrap();
    let roles: Api<Role> = Api::namespaced(client.clone(), space);
    roles.create(&post, &serde_json::from_value(role(&rules[space])).unwrap()).await.unwrap();
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), space);
    bindings.create(&post, &serde_json::from_value(binding("Role")).unwrap()).await.unwrap();
}

#[test]
fn another_node_answers_when_one_dies() {
    on_a_segment(|| async {
        let segment = Segment::start().await;
        segment.service("s", "192.0.2.100", json!({})).await;
        let (first, took) = segment.answered("192.0.2.100", &[], 20).await;
        println!("first answer after {took:?}");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(segment.reported("NodeAssigned", "answers for 192.0.2.100 on eth0").await);
        // Power off: the cable of the node that answers.
        let dead = segment.number(first);
        sh(&format!("ip link set v{dead} down"));
        let (second, took) = segment.answered("192.0.2.100", &[first], 10).await;
        println!("another node answers {took:?} after the first lost power");
        assert!(took < Duration::from_secs(3), "{took:?}");
        // Cut off from the API, but not from the segment: it is silent before another speaks, and two never do.
        let cut = segment.number(second);
        sh(&format!(
            "nft add table ip cut; nft add chain ip cut in '{{ type filter hook input priority 0; }}'; \
             nft add rule ip cut in ip saddr 192.0.2.1{cut} tcp dport 6443 drop"
        ));
        let begun = Instant::now();
        let third = loop {
            let who = segment.ask("192.0.2.100", 30).await;
            assert!(who.len() <= 1 && !who.contains(&first), "{who:?} at {:?}", begun.elapsed());
            match who.into_iter().next() {
                Some(mac) if mac != second => break mac,
                _ => assert!(begun.elapsed() < Duration::from_secs(4), "nobody takes over from a node that is cut off"),
            }
        };
        println!("another node answers {:?} after the second was cut off from the API", begun.elapsed());
        for _ in 0..20 {
            assert_eq!(segment.ask("192.0.2.100", 50).await, BTreeSet::from([third]), "it stays with one");
        }
        // Back: what it had is another's, and stays so.
        sh(&format!("nft delete table ip cut; ip link set v{dead} up"));
        for _ in 0..60 {
            assert_eq!(segment.ask("192.0.2.100", 50).await, BTreeSet::from([third]), "it stays with one");
        }
        segment.end();
    });
}

#[test]
fn without_an_api_the_node_that_has_an_address_goes_on() {
    on_a_segment(|| async {
        let segment = Segment::start().await;
        segment.service("s", "192.0.2.101", json!({})).await;
        let (first, _) = segment.answered("192.0.2.101", &[], 20).await;
        sh("nft add table ip cut; nft add chain ip cut in '{ type filter hook input priority 0; }'; \
            nft add rule ip cut in iifname br0 tcp dport 6443 drop");
        let begun = Instant::now();
        let mut silent = 0;
        while begun.elapsed() < Duration::from_secs(9) {
            let who = segment.ask("192.0.2.101", 50).await;
            assert!(who.is_empty() || who == BTreeSet::from([first]), "{who:?}");
            silent += usize::from(who.is_empty());
        }
        println!("no answer to {silent} questions of {:?}", begun.elapsed());
        assert!(silent > 20, "nobody keeps silent: {silent}");
        assert_eq!(segment.ask("192.0.2.101", 50).await, BTreeSet::from([first]));
        sh("nft delete table ip cut");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(6) {
            let who = segment.ask("192.0.2.101", 50).await;
            assert!(who.len() <= 1, "{who:?}");
        }
        segment.answered("192.0.2.101", &[], 5).await;
        segment.end();
    });
}

#[test]
fn local_traffic_goes_where_endpoints_are() {
    on_a_segment(|| async {
        let segment = Segment::start().await;
        segment.endpoints(&[]).await;
        segment.service("s", "192.0.2.102", json!({"externalTrafficPolicy": "Local"})).await;
        for _ in 0..30 {
            assert!(segment.ask("192.0.2.102", 50).await.is_empty(), "there is no endpoint");
        }
        segment.endpoints(&["n2"]).await;
        let (mac, _) = segment.answered("192.0.2.102", &[], 5).await;
        assert_eq!(segment.number(mac), 2);
        segment.endpoints(&["n3"]).await;
        let (other, took) = segment.answered("192.0.2.102", &[mac], 5).await;
        println!("the answer moves {took:?} after the endpoint");
        assert_eq!(segment.number(other), 3);
        segment.endpoints(&[]).await;
        timeout(Duration::from_secs(5), async { while !segment.ask("192.0.2.102", 50).await.is_empty() {} })
            .await
            .unwrap();
        segment.end();
    });
}

#[test]
fn an_address_that_somebody_has_is_left_to_them() {
    on_a_segment(|| async {
        let segment = Segment::start().await;
        sh("ip addr add 192.0.2.103/24 dev br0");
        segment.service("s", "192.0.2.103", json!({})).await;
        let begun = Instant::now();
        while !segment.reported("AddressConflict", "192.0.2.103 is in use").await {
            assert!(begun.elapsed() < Duration::from_secs(20), "no event");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(segment.ask("192.0.2.103", 500).await.is_empty(), "no node answers");
        // Others are not held up.
        segment.service("t", "192.0.2.104", json!({})).await;
        segment.answered("192.0.2.104", &[], 10).await;
        sh("ip addr del 192.0.2.103/24 dev br0");
        segment.answered("192.0.2.103", &[], 15).await;
        let api: Api<Service> = Api::namespaced(segment.client.clone(), "default");
        api.delete("t", &Default::default()).await.unwrap();
        timeout(Duration::from_secs(10), async {
            while !segment.ask("192.0.2.104", 50).await.is_empty() {}
            let leases: Api<k8s_openapi::api::coordination::v1::Lease> =
                Api::namespaced(segment.client.clone(), super::lease::NAMESPACE);
            loop {
                let all = leases.list(&ListParams::default()).await.unwrap();
                if !all.iter().any(|l| l.name_any() == "address.192.0.2.104") {
                    break;
                }
            }
        })
        .await
        .unwrap();
        segment.end();
    });
}
