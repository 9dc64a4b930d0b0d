//! What workloads find on a fresh cluster: volumes that keep their data, policies that hold, addresses that outlive
//! their node.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ansible_free_tests::{Kubectl, Lab, eventually};
use anyhow::{Context, Result, ensure};

const MINUTE: Duration = Duration::from_secs(60);
/// A node that has an address loses power: others take it over within 2.5 s, and connections are tried once a second.
const FAILOVER: Duration = Duration::from_secs(5);

/// Writes a line at each start, and serves them all.
const DATABASE: &str = r#"{"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {
  "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
  "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
    "name": "c", "image": "kinit.dev/demo:0.1.0", "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    "command": ["sh", "-c", "date >> /data/starts; exec httpd -f -p 8080 -h /data"]}]}},
  "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
    "resources": {"requests": {"storage": "1Mi"}}}}]}}"#;

/// Uses all the CPU that it may, twice what it asks for.
const BUSY: &str = r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "busy"}, "spec": {
  "selector": {"matchLabels": {"app": "busy"}}, "template": {"metadata": {"labels": {"app": "busy"}}, "spec": {
    "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "kinit.dev/demo:0.1.0",
    "command": ["sh", "-c", "while :; do :; done"],
    "resources": {"requests": {"cpu": "50m"}, "limits": {"cpu": "100m"}}}]}}}}"#;

/// Only friends reach the web.
const POLICY: &str = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "web"}, "spec": {
  "podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"],
  "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}], "ports": [{"port": 8080}]}]}}"#;

#[test]
fn workloads_find_what_they_expect() {
    let lab = Lab::standing().unwrap_or_else(|| Lab::up("work", 1, 1, 2).unwrap());
    let cluster = Workloads { file: with_a_pool(&lab), lab: &lab };
    cluster.run("init", &[]);
    cluster.data_survive();
    cluster.runtime_classes_choose_a_runtime();
    cluster.other_names_are_answered_as_the_settings_say();
    cluster.policies_hold();
    cluster.addresses_outlive_their_node();
    cluster.pods_follow_their_load();
    cluster.run("reset", &["--force"]);
    lab.down().unwrap();
}

/// The cluster file with addresses of the hosts' own network.
fn with_a_pool(lab: &Lab) -> String {
    lab.variant("workloads.yaml", |text| {
        let (_, rest) = text.split_once("    address: ").unwrap();
        let (network, _) = rest.lines().next().unwrap().rsplit_once('.').unwrap();
        let pool = format!("  loadBalancerPools:\n  - name: default\n    addresses: [{network}.200-{network}.203]\n");
        text.replacen("  hosts:\n", &format!("{pool}  hosts:\n"), 1)
    })
    .unwrap()
}

struct Workloads<'a> {
    lab: &'a Lab,
    file: String,
}

impl Workloads<'_> {
    #[track_caller]
    fn run(&self, verb: &str, arguments: &[&str]) {
        self.lab.kinit(&[&[verb, "-f", &self.file], arguments].concat()).unwrap().ok(verb).unwrap();
    }

    fn try_kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.lab.kubectl(arguments)?.ok(&format!("kubectl {}", arguments.join(" ")))
    }

    #[track_caller]
    fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).unwrap()
    }

    #[track_caller]
    fn apply(&self, manifest: &str) {
        let applied = self.lab.run_kubectl(Kubectl::Trixie, &["apply", "-f", "-"], manifest);
        applied.unwrap().ok("kubectl apply").unwrap();
    }

    /// How often the database has started, as its volume tells.
    fn starts(&self) -> Result<usize> {
        Ok(self.try_kubectl(&["exec", "db-0", "--", "cat", "/data/starts"])?.lines().count())
    }

    /// A claim without a class gets a folder on its pod's node, which outlives pods and the kubelet, and goes with the
    /// claim.
    fn data_survive(&self) {
        self.apply(DATABASE);
        self.kubectl(&["rollout", "status", "statefulset/db", "--timeout=60s"]);
        assert_eq!(eventually(MINUTE, || self.starts()).unwrap(), 1);
        let node = self.kubectl(&["get", "pod", "db-0", "-o", "jsonpath={.spec.nodeName}"]);
        self.lab.ssh(&node, "systemctl restart kubelet").unwrap();
        for starts in [2, 3] {
            self.kubectl(&["delete", "pod", "db-0"]);
            eventually(MINUTE, || {
                ensure!(self.starts()? == starts, "not started {starts} times");
                Ok(())
            })
            .unwrap();
        }
        let folders = "ls /var/lib/kinit/local-path";
        assert!(self.lab.ssh(&node, folders).unwrap().starts_with("pvc-"));
        self.kubectl(&["delete", "statefulset/db", "pvc/data-db-0"]);
        eventually(MINUTE, || {
            let left = self.lab.ssh(&node, folders)?;
            ensure!(left.is_empty(), "left on {node}: {left}");
            Ok(())
        })
        .unwrap();
        assert_eq!(self.kubectl(&["get", "pv", "-o", "name"]), "");
    }

    /// The metrics server is there, kubectl reads it, and autoscalers follow it; and it goes where it is not wanted.
    /// containerd's own handler runs; one that it does not have is an event that names it.
    fn runtime_classes_choose_a_runtime(&self) {
        for (name, handler) in [("plain", "runc"), ("none", "kata")] {
            self.apply(&format!(
                r#"{{"apiVersion": "v1", "kind": "List", "items": [
                  {{"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {{"name": "{name}"}}, "handler": "{handler}"}},
                  {{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "class-{name}"}}, "spec": {{"runtimeClassName": "{name}",
                    "terminationGracePeriodSeconds": 0, "containers": [{{"name": "c", "image": "kinit.dev/demo:0.1.0",
                    "command": ["sleep", "1000"]}}]}}}}]}}"#
            ));
        }
        self.kubectl(&["wait", "--for=condition=Ready", "pod/class-plain", "--timeout=60s"]);
        eventually(MINUTE, || {
            let field = "involvedObject.name=class-none,reason=FailedCreatePodSandBox";
            let events =
                self.try_kubectl(&["get", "events", "--field-selector", field, "-o", "jsonpath={.items[*].message}"])?;
            ensure!(events.contains("kata"), "{events:?}");
            Ok(())
        })
        .unwrap();
        self.kubectl(&["delete", "pod", "class-plain", "class-none", "--force"]);
    }

    /// ConfigMap `kube-system/kube-dns` counts without a restart, in every server.
    fn other_names_are_answered_as_the_settings_say(&self) {
        self.pod("asks", "w1", "app=asks");
        self.kubectl(&["wait", "--for=condition=Ready", "pod/asks", "--timeout=60s"]);
        let finds = |name: &str, address: &str| {
            // Each server in its turn: all of them have to know.
            let asks = format!("for i in 1 2 3 4 5 6; do nslookup {name} | grep -q '{address}' || exit 1; done");
            self.lab.kubectl(&["exec", "asks", "--", "sh", "-c", &asks]).unwrap().code == 0
        };
        self.apply(
            r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-dns", "namespace": "kube-system"},
              "data": {"hosts": "192.0.2.20 registry.corp.example\n"}}"#,
        );
        eventually(MINUTE, || {
            ensure!(finds("registry.corp.example", "192.0.2.20"), "the new name is not found");
            Ok(())
        })
        .unwrap();
        assert!(finds("kubernetes.default.svc.cluster.local", "10.96.0.1"), "the cluster's own names are");
        self.kubectl(&["-n", "kube-system", "delete", "configmap", "kube-dns"]);
        self.kubectl(&["delete", "pod", "asks"]);
    }

    fn pods_follow_their_load(&self) {
        let begun = Instant::now();
        self.apply(BUSY);
        self.kubectl(&["autoscale", "deployment", "busy", "--cpu-percent=50", "--min=1", "--max=3"]);
        eventually(2 * MINUTE, || {
            let nodes = self.try_kubectl(&["top", "node", "--no-headers"])?;
            ensure!(nodes.lines().count() == 3, "not all nodes are measured: {nodes}");
            Ok(())
        })
        .unwrap();
        eventually(3 * MINUTE, || {
            let replicas =
                self.try_kubectl(&["get", "deployment", "busy", "-o", "jsonpath={.status.readyReplicas}"])?;
            let seen = self.try_kubectl(&["get", "hpa", "busy", "--no-headers"])?;
            ensure!(replicas == "3", "{replicas} replicas are ready: {seen}");
            Ok(())
        })
        .unwrap();
        println!("-- a busy Deployment has three pods {:.0} s after its creation", begun.elapsed().as_secs_f64());
        self.kubectl(&["delete", "hpa,deployment", "busy"]);
        let file = std::fs::read_to_string(&self.file).unwrap();
        let without = file.replacen("  hosts:\n", "  metricsServer:\n    enabled: false\n  hosts:\n", 1);
        std::fs::write(&self.file, without).unwrap();
        self.run("apply", &["--yes"]);
        let group = ["get", "apiservice", "v1beta1.metrics.k8s.io", "--ignore-not-found", "-o", "name"];
        assert_eq!(self.kubectl(&group), "");
        assert_eq!(self.lab.ssh("cp1", "systemctl is-active metrics-server; true").unwrap(), "inactive\n");
        assert_eq!(self.lab.kinit(&["plan", "-f", &self.file]).unwrap().code, 0, "something is left to do");
    }

    fn pod(&self, name: &str, node: &str, labels: &str) {
        let overrides = format!("{{\"spec\": {{\"nodeName\": \"{node}\", \"terminationGracePeriodSeconds\": 1}}}}");
        let run = ["run", name, "--image=kinit.dev/demo:0.1.0", "--labels", labels, "--overrides", &overrides];
        self.kubectl(&run);
    }

    /// On one node and between two.
    fn policies_hold(&self) {
        self.pod("web", "w1", "app=web");
        for (name, node, labels) in [
            ("friend1", "w1", "role=friend"),
            ("friend2", "w2", "role=friend"),
            ("stranger1", "w1", "role=stranger"),
            ("stranger2", "w2", "role=stranger"),
        ] {
            self.pod(name, node, labels);
        }
        let ready = ["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"];
        self.kubectl(&ready);
        let address = self.kubectl(&["get", "pod", "web", "-o", "jsonpath={.status.podIP}"]);
        let reaches = |pod: &str| {
            let get = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} 8080 | grep -q '200 OK'");
            self.lab.kubectl(&["exec", pod, "--", "sh", "-c", &get]).unwrap().code == 0
        };
        let all = ["friend1", "friend2", "stranger1", "stranger2"];
        eventually(MINUTE, || {
            let seen = all.map(reaches);
            ensure!(seen == [true; 4], "without a policy, {all:?}: {seen:?}");
            Ok(())
        })
        .unwrap();
        self.apply(POLICY);
        eventually(MINUTE, || {
            let seen = all.map(reaches);
            ensure!(seen == [true, true, false, false], "{all:?}: {seen:?}");
            Ok(())
        })
        .unwrap();
        self.kubectl(&["label", "pod", "stranger2", "--overwrite", "role=friend"]);
        eventually(MINUTE, || {
            ensure!(reaches("stranger2"), "a new friend does not reach it");
            Ok(())
        })
        .unwrap();
        self.kubectl(&["delete", "networkpolicy/web"]);
        eventually(MINUTE, || {
            ensure!(reaches("stranger1"), "the policy is gone");
            Ok(())
        })
        .unwrap();
        self.kubectl(&["delete", "pod", "--all"]);
    }

    /// Who answers for an address.
    fn announcer(&self, address: &str) -> Result<String> {
        let lease = format!("lease/address.{address}");
        let path = "jsonpath={.spec.holderIdentity}";
        let holder = self.try_kubectl(&["get", "-n", "kinit-load-balancer", &lease, "-o", path])?;
        ensure!(!holder.is_empty(), "nobody has {address}");
        Ok(holder)
    }

    fn addresses_outlive_their_node(&self) {
        self.kubectl(&["create", "service", "loadbalancer", "shop", "--tcp=80:8080"]);
        let address = eventually(MINUTE, || {
            let address =
                self.try_kubectl(&["get", "service", "shop", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}"])?;
            ensure!(address.ends_with(".200"), "the address is {address:?}");
            Ok(address)
        })
        .unwrap();
        let holder = eventually(MINUTE, || self.announcer(&address)).unwrap();
        // Its backend is on the other node: only the way to it breaks.
        let other = if holder == "w1" { "w2" } else { "w1" };
        self.pod("shop", other, "app=shop");
        self.kubectl(&["wait", "--for=condition=Ready", "pod/shop", "--timeout=60s"]);
        let clients = Clients::start(format!("{address}:80").parse().unwrap());
        eventually(MINUTE, || clients.flow()).unwrap();
        let off = Instant::now();
        self.lab.playground("power-off", &[&holder]).unwrap().ok("power off").unwrap();
        eventually(MINUTE, || clients.flow_since(off + FAILOVER)).unwrap();
        let silence = clients.longest_silence(off);
        println!("-- {holder}, which had {address}, off: longest silence {silence:.1?}");
        assert!(silence < FAILOVER, "{silence:?}");
        assert_eq!(self.announcer(&address).unwrap(), other);
        self.lab.playground("power-on", &[&holder]).unwrap().ok("power on").unwrap();
        self.kubectl(&["delete", "service/shop", "pod/shop"]);
        self.kubectl(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=90s"]);
    }
}

/// Ask for a page again and again, each time by a new connection from the desk.
struct Clients {
    answered: Arc<Mutex<Vec<Instant>>>,
    stop: Arc<AtomicBool>,
}

impl Clients {
    fn start(address: SocketAddr) -> Self {
        let clients = Self { answered: Arc::default(), stop: Arc::default() };
        let (answered, stop) = (clients.answered.clone(), clients.stop.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if get(address).is_ok() {
                    answered.lock().unwrap().push(Instant::now());
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        clients
    }

    fn flow(&self) -> Result<()> {
        self.flow_since(Instant::now().checked_sub(Duration::from_secs(1)).context("the clock has just begun")?)
    }

    fn flow_since(&self, since: Instant) -> Result<()> {
        ensure!(self.answered.lock().unwrap().last().is_some_and(|at| *at > since), "no answer");
        Ok(())
    }

    fn longest_silence(&self, since: Instant) -> Duration {
        let mut times = vec![since];
        times.extend(self.answered.lock().unwrap().iter().filter(|at| **at > since));
        times.windows(2).map(|pair| pair[1].duration_since(pair[0])).max().unwrap_or_default()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn get(address: SocketAddr) -> Result<()> {
    let second = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&address, second)?;
    stream.set_read_timeout(Some(second))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains("200 OK"), "{answer}");
    Ok(())
}
