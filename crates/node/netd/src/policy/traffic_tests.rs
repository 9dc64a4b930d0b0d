//! Real packets between real network namespaces: the test's thread is the node, every pod has a thread and a
//! namespace, and routed links as the `ptp` plugin makes them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kinit_nftables::{Nftables, Observed};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::base::{self, FAMILY, TABLE};
use super::engine::Engine;
use super::feed::{Kind, News};
use super::keeper::{Keeper, Settings};
use super::metrics::Metrics;
use super::parse::{self, Policy};
use super::pods::{NamedPort, Pod, TCP};
use super::reach_tests::labels;
use super::{Id, Labels};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace with a thread in it.
struct Net {
    jobs: mpsc::Sender<Job>,
    address: &'static str,
}

fn command(line: &str) {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn nft(rules: &str) {
    let output = Command::new("nft").arg(rules).output().unwrap();
    assert!(output.status.success(), "{rules}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Net {
    /// Linked to the namespace of the calling thread.
    fn new(link: &str, address: &'static str) -> Self {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (reported, path) = mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            reported.send(format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid())).unwrap();
            todo.into_iter().for_each(|job| job());
        });
        let path = path.recv().unwrap();
        command(&format!("ip link add {link} type veth peer name peer0"));
        command(&format!("ip link set peer0 netns {path}"));
        command(&format!("ip addr add 10.244.1.1/32 dev {link}"));
        command(&format!("ip link set {link} up"));
        command(&format!("ip route add {address}/32 dev {link}"));
        let net = Self { jobs, address };
        net.within(move || {
            command("ip link set lo up");
            command(&format!("ip addr add {address}/32 dev peer0"));
            command("ip link set peer0 up");
            command("ip route add 10.244.1.1/32 dev peer0 scope link");
            command("ip route add default via 10.244.1.1");
        });
        for port in [80, 81, 8080, 9000] {
            net.within(move || serve(&format!("{address}:{port}")));
        }
        net
    }

    fn within<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(done.send(job())))).unwrap();
        result.recv().unwrap()
    }

    fn get(&self, to: &str, wait: Duration) -> Option<String> {
        let to = to.to_owned();
        self.within(move || get(&to, wait))
    }
}

/// Says over TCP who asks, and echoes over UDP.
fn serve(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.write_all(stream.peer_addr().unwrap().ip().to_string().as_bytes());
        }
    });
    let socket = UdpSocket::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}

fn get(to: &str, wait: Duration) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to.parse::<SocketAddr>().unwrap(), wait).ok()?;
    stream.set_read_timeout(Some(wait)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn echo(to: &str, wait: Duration) -> bool {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(wait)).unwrap();
    socket.connect(to).unwrap();
    socket.send(b"hello").unwrap();
    socket.recv(&mut [0; 16]).is_ok()
}

/// Long enough for what passes to pass on a busy machine, and for what is dropped not to.
fn wait(expected: bool) -> Duration {
    Duration::from_millis(if expected { 5000 } else { 400 })
}

/// A node with pods x/a, x/b and y/a, one elsewhere, y/far, and a machine outside.
struct Node {
    kernel: Nftables,
    engine: Engine,
    a: Net,
    b: Net,
    y: Net,
    far: Net,
    outside: Net,
    applied: bool,
}

const PODS: [(&str, &str, &str); 4] = [
    ("x/a", "a", "10.244.1.2"),
    ("x/b", "b", "10.244.1.3"),
    ("y/a", "a", "10.244.1.4"),
    ("y/far", "far", "10.244.2.9"),
];

fn id(text: &str) -> Id {
    let (namespace, name) = text.split_once('/').unwrap();
    Id::new(namespace, name)
}

fn pod(label: &str, address: &str) -> Pod {
    let port = |name: &str, number| NamedPort { protocol: TCP, name: name.to_owned(), number };
    Pod {
        labels: [("pod".to_owned(), label.to_owned())].into(),
        addresses: vec![address.parse::<IpAddr>().unwrap()],
        local: address.starts_with("10.244.1."),
        ports: vec![port("http", if label == "b" { 8080 } else { 80 })],
    }
}

fn policy(name: &str, spec: Value) -> Policy {
    let Id { namespace, name } = id(name);
    let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
    parse::policy(&serde_json::from_value(object).unwrap())
}

fn ns(name: &str) -> Labels {
    labels(&json!({"ns": name}))
}

/// In a network namespace of its own, which dies with its thread.
fn on_a_node(test: impl FnOnce(Node) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs the right to make a network namespace");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        command("ip link set lo up");
        command("ip addr add 192.168.7.7/32 dev lo");
        serve("192.168.7.7:80");
        let mut engine = Engine::default();
        engine.set_own(&["10.244.1.0/24".parse().unwrap()]);
        for namespace in ["x", "y"] {
            engine.set_namespace(namespace, Some(ns(namespace)));
        }
        for (name, label, address) in PODS {
            engine.set_pod(&id(name), Some(pod(label, address)));
        }
        test(Node {
            kernel: Nftables::open().unwrap(),
            engine,
            a: Net::new("vetha", PODS[0].2),
            b: Net::new("vethb", PODS[1].2),
            y: Net::new("vethy", PODS[2].2),
            far: Net::new("vethfar", PODS[3].2),
            outside: Net::new("vethoutside", "192.168.9.9"),
            applied: false,
        });
    });
    thread.join().unwrap();
}

impl Node {
    fn apply(&mut self) -> usize {
        let changes = self.engine.changes();
        let sent = if self.applied {
            self.kernel.commit(FAMILY, TABLE, &changes).unwrap();
            changes.len()
        } else {
            self.kernel.apply(None, self.engine.table()).unwrap()
        };
        self.applied = true;
        let observed = self.kernel.read(FAMILY, TABLE).unwrap();
        assert_eq!(observed, Some(Observed::of(self.engine.table())), "the kernel has what is wanted");
        sent
    }

    fn set(&mut self, name: &str, spec: Value) {
        self.engine.set_policy(&id(name), (!spec.is_null()).then(|| policy(name, spec)));
        self.apply();
    }

    fn net(&self, name: &str) -> &Net {
        match name {
            "a" => &self.a,
            "b" => &self.b,
            "y" => &self.y,
            "far" => &self.far,
            _ => &self.outside,
        }
    }

    /// Whether a connects to b: `FROM>TO:PORT`, over UDP with a `/udp`.
    fn check(&self, expectations: &[(&str, bool)]) {
        for (what, expected) in expectations {
            let (path, udp) = what.strip_suffix("/udp").map_or((*what, false), |path| (path, true));
            let (from, to) = path.split_once('>').unwrap();
            let (to, port) = to.rsplit_once(':').unwrap();
            let address = if to.contains('.') { to } else { self.net(to).address };
            let target = format!("{address}:{port}");
            let net = self.net(from);
            let passed = if udp {
                net.within({
                    let wait = wait(*expected);
                    move || echo(&target, wait)
                })
            } else {
                net.get(&target, wait(*expected)).is_some()
            };
            assert_eq!(passed, *expected, "{what}\n{}", self.shown());
        }
    }

    fn shown(&self) -> String {
        let output = Command::new("nft").args(["list", "table", "inet", TABLE]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

#[test]
fn ingress_is_denied_and_allowed() {
    on_a_node(|mut node| {
        node.apply();
        node.check(&[("a>b:80", true), ("far>a:80", true), ("outside>a:80", true), ("b>a:81/udp", true)]);
        let to_a = |from: Value| json!({"podSelector": {"matchLabels": {"pod": "a"}}, "ingress": from});
        node.set("x/p", to_a(json!([])));
        println!("{}", node.shown());
        node.check(&[("b>a:80", false), ("b>a:80/udp", false), ("far>a:80", false), ("outside>a:80", false)]);
        node.check(&[("a>b:80", true), ("b>y:80", true), ("a>a:80", true), ("a>far:80/udp", true)]);
        // Probes: the node reaches its own pods, and they it.
        assert!(get("10.244.1.2:80", wait(true)).is_some());
        node.check(&[("a>192.168.7.7:80", true)]);

        node.set("x/p", to_a(json!([{"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}]}])));
        node.check(&[("b>a:80", true), ("b>a:80/udp", true), ("y>a:80", false), ("far>a:80", false)]);
        let by_namespace = json!({"namespaceSelector": {"matchLabels": {"ns": "y"}}});
        node.set("x/p", to_a(json!([{"from": [by_namespace]}])));
        node.check(&[("b>a:80", false), ("y>a:80", true), ("far>a:80", true)]);
        let block = json!({"ipBlock": {"cidr": "192.168.0.0/16", "except": ["192.168.9.0/28"]}});
        node.set("x/p", to_a(json!([{"from": [block]}])));
        node.check(&[("outside>a:80", false)]);
        let block = json!({"ipBlock": {"cidr": "192.168.0.0/16", "except": ["192.168.9.16/28"]}});
        node.set("x/p", to_a(json!([{"from": [block]}])));
        node.check(&[("outside>a:80", true), ("far>a:80", false)]);
        node.set("x/p", json!(null));
        node.check(&[("b>a:80", true), ("outside>a:80", true)]);
    });
}

#[test]
fn ports_are_matched() {
    on_a_node(|mut node| {
        let x = |ports: Value| json!({"podSelector": {}, "ingress": [{"ports": ports}]});
        node.set("x/p", x(json!([{"port": "http"}])));
        node.check(&[
            ("y>a:80", true),
            ("y>a:8080", false),
            ("y>b:8080", true),
            ("y>b:80", false),
            ("y>a:80/udp", false),
        ]);
        node.set("x/p", x(json!([{"port": 81, "endPort": 8080}])));
        node.check(&[
            ("y>a:80", false),
            ("y>a:81", true),
            ("y>a:8080", true),
            ("y>a:9000", false),
            ("y>a:81/udp", false),
        ]);
        node.set("x/p", x(json!([{"port": 80}, {"port": 9000, "endPort": 65535}, {"port": 81, "protocol": "UDP"}])));
        node.check(&[
            ("y>a:80", true),
            ("y>a:81", false),
            ("y>a:9000", true),
            ("y>a:81/udp", true),
            ("y>a:80/udp", false),
        ]);
    });
}

#[test]
fn egress_is_judged_on_the_backend() {
    on_a_node(|mut node| {
        let out = |rules: Value| json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Egress"], "egress": rules});
        // As kube-proxy translates: before routing.
        nft("add table ip services");
        nft("add chain ip services prerouting { type nat hook prerouting priority -100; }");
        nft("add rule ip services prerouting ip daddr 10.96.0.10 tcp dport 443 dnat to 10.244.2.9:8080");
        nft("add rule ip services prerouting ip daddr 10.96.0.11 tcp dport 443 dnat to 10.244.1.3:8080");
        node.set("x/p", out(json!([])));
        node.check(&[("a>b:80", false), ("a>far:80", false), ("a>outside:80", false), ("a>10.96.0.10:443", false)]);
        node.check(&[("b>a:80", true), ("far>a:80", true), ("y>far:80", true), ("a>192.168.7.7:80", true)]);

        let far =
            json!({"namespaceSelector": {"matchLabels": {"ns": "y"}}, "podSelector": {"matchLabels": {"pod": "far"}}});
        node.set("x/p", out(json!([{"to": [far], "ports": [{"port": 8080}]}])));
        node.check(&[
            ("a>far:8080", true),
            ("a>far:80", false),
            ("a>10.96.0.10:443", true),
            ("a>10.96.0.11:443", false),
        ]);
        // By name: 8080 of b, 80 of y/a.
        node.set("x/p", out(json!([{"to": [{"namespaceSelector": {}}], "ports": [{"port": "http"}]}])));
        node.check(&[
            ("a>b:8080", true),
            ("a>b:80", false),
            ("a>y:80", true),
            ("a>10.96.0.11:443", true),
            ("a>outside:80", false),
        ]);
        node.set("x/p", out(json!([{"to": [{"ipBlock": {"cidr": "192.168.9.9/32"}}]}])));
        node.check(&[("a>outside:80", true), ("a>outside:80/udp", true), ("a>b:8080", false)]);
        // A client's own address counts, although its Service is translated.
        node.set("x/p", json!(null));
        node.set(
            "x/q",
            json!({"podSelector": {"matchLabels": {"pod": "b"}},
                               "ingress": [{"from": [{"podSelector": {"matchLabels": {"pod": "a"}}}]}]}),
        );
        node.check(&[("a>10.96.0.11:443", true), ("y>10.96.0.11:443", false)]);
    });
}

/// What was begun before a policy goes on; what begins after it does not. What is not known waits.
#[test]
fn established_flows_go_on_and_unknown_addresses_wait() {
    on_a_node(|mut node| {
        node.apply();
        let talk = |stream: &mut TcpStream| {
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0; 1]).is_ok()
        };
        node.a.within(|| {
            let listener = TcpListener::bind("10.244.1.2:7000").unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let mut byte = [0; 1];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
                }
            });
        });
        let mut stream = node.b.within(|| TcpStream::connect("10.244.1.2:7000").unwrap());
        stream.set_read_timeout(Some(wait(true))).unwrap();
        assert!(talk(&mut stream));
        node.set("x/p", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
        assert!(talk(&mut stream), "established");
        node.check(&[("b>a:7000", false)]);

        // A pod that runs, and of which the API does not say the address yet.
        let late = Net::new("vethlate", "10.244.1.50");
        assert!(late.get("10.244.2.9:80", wait(false)).is_none(), "it may be isolated");
        node.check(&[("far>10.244.1.50:80", false)]);
        assert!(get("10.244.1.50:80", wait(true)).is_some(), "the node reaches it");
        node.engine.set_pod(&id("y/late"), Some(pod("late", "10.244.1.50")));
        assert_eq!(node.apply(), 1, "its address, and nothing else");
        assert!(late.get("10.244.2.9:80", wait(true)).is_some());
        node.check(&[("far>10.244.1.50:80", true)]);
        // Nobody is isolated: nothing waits.
        node.engine.set_pod(&id("y/late"), None);
        node.set("x/p", json!(null));
        assert!(late.get("10.244.2.9:80", wait(true)).is_some());
    });
}

/// An isolated pod does not get out, or in, under another's address.
#[test]
fn nobody_passes_for_somebody_else() {
    on_a_node(|mut node| {
        node.apply();
        let send = |net: &Net, from: &'static str, to: &'static str| {
            net.within(move || {
                let socket = UdpSocket::bind((from, 0)).unwrap();
                socket.send_to(b"x", to).unwrap();
            });
        };
        let hears = |net: &Net, address: &'static str| {
            let (reported, heard) = mpsc::channel();
            net.within(move || {
                let socket = UdpSocket::bind(address).unwrap();
                std::thread::spawn(move || {
                    while let Ok((_, from)) = socket.recv_from(&mut [0; 4]) {
                        let _ = reported.send(from.ip().to_string());
                    }
                });
            });
            move |expected: bool| heard.recv_timeout(wait(expected)).ok()
        };
        for (net, address) in [(&node.a, "192.168.9.9/32"), (&node.a, "10.244.1.3/32"), (&node.a, "10.99.9.9/32")] {
            net.within(move || command(&format!("ip addr add {address} dev lo")));
        }
        let (far, y) = (hears(&node.far, "10.244.2.9:5000"), hears(&node.y, "10.244.1.4:5000"));
        send(&node.a, "192.168.9.9", "10.244.2.9:5000");
        assert_eq!(far(true).as_deref(), Some("192.168.9.9"), "nobody is isolated");
        node.set("x/p", json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Egress"]}));
        node.set(
            "y/p",
            json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "192.168.9.9/32"}},
            {"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": "b"}}}]}]}),
        );
        for from in ["192.168.9.9", "10.244.1.3", "10.99.9.9"] {
            send(&node.a, from, "10.244.2.9:5000");
            send(&node.a, from, "10.244.1.4:5000");
        }
        assert_eq!((far(false), y(false)), (None, None));
        send(&node.b, "10.244.1.3", "10.244.1.4:5000");
        assert_eq!(y(true).as_deref(), Some("10.244.1.3"), "the real one");
        send(&node.outside, "192.168.9.9", "10.244.1.4:5000");
        assert_eq!(y(true).as_deref(), Some("192.168.9.9"), "the real one");
    });
}

fn keeper(own: Option<&str>) -> (Keeper, Arc<AtomicBool>, watch::Sender<Option<Vec<ipnet::IpNet>>>) {
    let in_force = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = watch::channel(own.map(|own| vec![own.parse().unwrap()]));
    let cluster = "10.244.0.0/16".parse().unwrap();
    let settings = Settings { node: "here".into(), cluster, in_force: in_force.clone(), own: receiver };
    (Keeper::open(settings, Metrics::new()).unwrap(), in_force, sender)
}

fn all_news(spec: Option<Value>) -> Vec<News> {
    let mut news = vec![News::Namespace("x".into(), Some(ns("x"))), News::Namespace("y".into(), Some(ns("y")))];
    news.extend(PODS.map(|(name, label, address)| News::Pod(id(name), Some(Box::new(pod(label, address))))));
    news.extend(spec.map(|spec| News::Policy(id("x/p"), Some(Box::new(policy("x/p", spec))))));
    news.extend(Kind::ALL.map(News::Complete));
    news
}

/// Looks until it is so, for ten seconds.
async fn soon(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn the_keeper_starts_closed_repairs_and_leaves_its_rules() {
    on_a_node(|node| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut first, in_force, own) = keeper(None);
            // After a boot: policies are not known.
            node.check(&[("far>a:80", false), ("a>outside:80", false)]);
            assert!(get("10.244.1.2:80", wait(true)).is_some(), "the node's own");
            let (news, queue) = tokio::sync::mpsc::channel(64);
            let following = tokio::spawn(async move { first.follow(queue).await });
            let deny_a = json!({"podSelector": {"matchLabels": {"pod": "a"}}});
            for one in all_news(Some(deny_a.clone())) {
                news.send(one).await.unwrap();
            }
            nft("flush ruleset");
            let has = |chains: usize| {
                let read = node.kernel.read(FAMILY, TABLE).unwrap();
                read.is_some_and(|table| table.chains.len() == chains)
            };
            soon("the gate, again", || has(base::gate(&"10.244.0.0/16".parse().unwrap()).chains.len())).await;
            assert!(!in_force.load(Ordering::Acquire), "the node's networks are not known");
            own.send(Some(vec!["10.244.1.0/24".parse().unwrap()])).unwrap();
            soon("the policy", || in_force.load(Ordering::Acquire)).await;
            node.check(&[("far>a:80", false), ("far>b:80", true), ("a>outside:80", true)]);

            let whole = node.kernel.read(FAMILY, TABLE).unwrap();
            for vandal in [
                "flush ruleset",
                "flush chain inet kinit-netd judge-4",
                "delete element inet kinit-netd ingress-4 { 10.244.1.2 }",
            ] {
                nft(vandal);
                soon(vandal, || node.kernel.read(FAMILY, TABLE).unwrap() == whole).await;
                node.check(&[("far>a:80", false), ("far>b:80", true)]);
            }
            // Without this program the rules stay; the next one puts its own in their place.
            drop(news);
            following.await.unwrap();
            node.check(&[("far>a:80", false), ("far>b:80", true)]);
            let (mut second, in_force, _own) = keeper(Some("10.244.1.0/24"));
            node.check(&[("far>a:80", false), ("far>b:80", true)]);
            let (news, queue) = tokio::sync::mpsc::channel(64);
            let following = tokio::spawn(async move { second.follow(queue).await });
            for one in all_news(None) {
                news.send(one).await.unwrap();
            }
            soon("the second's rules", || in_force.load(Ordering::Acquire)).await;
            node.check(&[("far>a:80", true)]);
            drop(news);
            following.await.unwrap();
            super::remove().await.unwrap();
            assert!(!node.kernel.has_table(FAMILY, TABLE).unwrap());
        });
    });
}
