//! Plugs are pulled: of each control plane in turn, then of each worker.

use std::time::{Duration, Instant};

use ansible_free_tests::traffic::{Traffic, line};
use ansible_free_tests::{Lab, eventually};
use anyhow::{Context, Result, ensure};
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);
/// Calls and watches move again within this.
const OUTAGE: Duration = Duration::from_secs(5);

/// Link down, then dead: clients go on, controllers and scheduler too, and the host comes back by itself.
pub fn any_control_plane_may_die(lab: &Lab) {
    let callers = Callers::start(lab);
    let begun = Instant::now();
    let traffic = Traffic::start(&lab.dir.join("admin.conf")).unwrap();
    for (host, replicas) in [("cp1", 4), ("cp2", 5), ("cp3", 4)] {
        let ready = Instant::now();
        eventually(MINUTE, || traffic.flows(ready)).unwrap();
        let pulled = Instant::now();
        lab.playground("unplug", &[host]).unwrap().ok("unplug").unwrap();
        std::thread::sleep(OUTAGE);
        lab.playground("power-off", &[host]).unwrap().ok("power off").unwrap();
        scales(lab, replicas);
        let carried_on = pulled.elapsed();
        let silences = traffic.longest_silence(pulled);
        println!(
            "   {host}: longest silence: {}; a Deployment scaled {carried_on:.1?} after the plug was pulled",
            line(&silences)
        );
        assert!(silences.iter().all(|silence| silence.lasted < OUTAGE), "{host}: {silences:?}");
        let on = Instant::now();
        lab.playground("power-on", &[host]).unwrap().ok("power on").unwrap();
        eventually(2 * MINUTE, || is_whole(lab)).unwrap();
        println!("   {host}: whole {:.1?} after its power came back", on.elapsed());
    }
    let kept = eventually(MINUTE, || traffic.nothing_is_lost()).unwrap();
    let (done, failed) = traffic.calls(begun);
    println!("   {kept} writes acknowledged, none lost; {} of {} calls failed", failed.len(), done + failed.len());
    // Their endpoints were never on the hosts that died.
    callers.silence_is_under(lab, OUTAGE);
    callers.end(lab);
}

/// The worst control plane to lose sight of: etcd's leader, which the balancer still reaches. Its API server must step
/// aside by itself.
pub fn etcds_leader_may_be_cut_off_from_its_peers(lab: &Lab) {
    /// Silence that an election may explain is waited for before a server says that it is not ready.
    const OUTAGE: Duration = Duration::from_secs(8);
    let traffic = Traffic::start(&lab.dir.join("admin.conf")).unwrap();
    let ready = Instant::now();
    eventually(MINUTE, || traffic.flows(ready)).unwrap();
    let (leaders, others): (Vec<_>, Vec<_>) =
        ["cp1", "cp2", "cp3"].into_iter().partition(|host| leads_etcd(lab, host).unwrap());
    let [leader] = leaders[..] else { panic!("etcd's leaders: {leaders:?}") };
    let cut = Instant::now();
    for other in others {
        lab.playground("partition", &[leader, other]).unwrap().ok("partition").unwrap();
    }
    // As with a pulled plug: a single call inside the outage may end with the server that it reached.
    std::thread::sleep(OUTAGE);
    scales(lab, 3);
    std::thread::sleep((2 * OUTAGE).saturating_sub(cut.elapsed()));
    let silences = traffic.longest_silence(cut);
    println!("   {leader}: longest silence: {}", line(&silences));
    assert!(silences.iter().all(|silence| silence.lasted < OUTAGE), "{leader}: {silences:?}");
    lab.playground("heal", &[]).unwrap().ok("heal").unwrap();
    let healed = Instant::now();
    eventually(MINUTE, || is_whole(lab)).unwrap();
    println!("   {leader}: whole {:.1?} after it was healed", healed.elapsed());
    let kept = eventually(MINUTE, || traffic.nothing_is_lost()).unwrap();
    println!("   {kept} writes acknowledged, none lost");
}

fn leads_etcd(lab: &Lab, host: &str) -> Result<bool> {
    let metrics = "exec 3<>/dev/tcp/127.0.0.1/2381; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    Ok(lab.ssh(host, metrics)?.lines().any(|line| line.trim_end() == "etcd_server_is_leader 1"))
}

/// A worker whose cable is pulled for longer than the grace period is given up; with the cable back in, it and its pods
/// serve at once.
pub fn a_worker_is_cut_off_and_comes_back(lab: &Lab) {
    /// Connections and watches are made anew, and what was written about the node is put right.
    const BACK: Duration = Duration::from_secs(15);
    let here = |nodes: Vec<String>| nodes.iter().filter(|n| *n == "w2").count();
    let before = here(ready_endpoints(lab).unwrap());
    assert!(before > 0, "no endpoint on the worker that will be cut off");
    lab.playground("unplug", &["w2"]).unwrap().ok("unplug").unwrap();
    let pulled = Instant::now();
    eventually(2 * MINUTE, || {
        node_is(lab, "w2", "NotReady")?;
        let left = here(ready_endpoints(lab)?);
        ensure!(left == 0, "{left} endpoints are left on w2");
        Ok(())
    })
    .unwrap();
    println!("   w2 and its endpoints given up after {:.1?}", pulled.elapsed());
    lab.playground("heal", &[]).unwrap().ok("heal").unwrap();
    let healed = Instant::now();
    eventually(BACK, || node_is(lab, "w2", "Ready")).unwrap();
    println!("   w2 Ready {:.1?} after it was healed", healed.elapsed());
    eventually(BACK.saturating_sub(healed.elapsed()), || {
        let back = here(ready_endpoints(lab)?);
        ensure!(back == before, "{back} of {before} endpoints are back on w2");
        Ok(())
    })
    .unwrap();
    println!("   its endpoints back {:.1?} after it was healed", healed.elapsed());
}

fn node_is(lab: &Lab, name: &str, state: &str) -> Result<()> {
    let node = lab.kubectl(&["get", "node", name, "--no-headers"])?.ok("get a node")?;
    ensure!(node.split_whitespace().nth(1) == Some(state), "{node}");
    Ok(())
}

/// The nodes of the demonstration's ready endpoints, one for each.
fn ready_endpoints(lab: &Lab) -> Result<Vec<String>> {
    let path = "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].nodeName}";
    let nodes = lab
        .kubectl(&["get", "endpointslices", "-l", "kubernetes.io/service-name=demo", "-o", path])?
        .ok("get endpoints")?;
    Ok(nodes.split_whitespace().map(str::to_owned).collect())
}

/// Its node turns NotReady, its pods come up on the other, and its endpoints are left alone.
pub fn a_worker_may_die(lab: &Lab) {
    let toleration =
        |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3});
    let patch = json!({"spec": {"replicas": 4, "template": {"spec": {
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": "demo"}}}],
        "tolerations": [toleration("node.kubernetes.io/not-ready"), toleration("node.kubernetes.io/unreachable")],
    }}}});
    lab.kubectl(&["patch", "deployment", "demo", "--type=merge", "-p", &patch.to_string()])
        .unwrap()
        .ok("give the demonstration a short toleration")
        .unwrap();
    lab.kubectl(&["rollout", "status", "deployment", "demo", "--timeout=60s"]).unwrap().ok("roll out").unwrap();
    assert!(ready_pods_on(lab, "w1").unwrap() > 0, "no pod on the worker that will die");
    let callers = Callers::start(lab);
    lab.playground("power-off", &["w1"]).unwrap().ok("power off").unwrap();
    let off = Instant::now();
    eventually(MINUTE, || node_is(lab, "w1", "NotReady")).unwrap();
    println!("   w1 NotReady after {:.1?}", off.elapsed());
    eventually(Duration::from_secs(10), || {
        let nodes = ready_endpoints(lab)?;
        ensure!(!nodes.is_empty() && !nodes.iter().any(|n| n == "w1"), "endpoints on {nodes:?}");
        Ok(())
    })
    .unwrap();
    let dropped = Instant::now();
    println!("   the Service left w1 alone after {:.1?}", off.elapsed());
    eventually(MINUTE, || {
        let ready = ready_pods_on(lab, "w2")?;
        ensure!(ready == 4, "{ready} pods of 4 are Ready on w2");
        Ok(())
    })
    .unwrap();
    println!("   its pods were replaced on w2 after {:.1?}", off.elapsed());
    // Proxies hear of it at once; calls begun before may still wait for the dead.
    std::thread::sleep(Duration::from_secs(15));
    callers.silence_since_is_under(lab, dropped + Duration::from_secs(6), Duration::from_secs(3));
    lab.playground("power-on", &["w1"]).unwrap().ok("power on").unwrap();
    eventually(2 * MINUTE, || is_whole(lab)).unwrap();
    callers.end(lab);
}

/// Controllers and scheduler do their work.
fn scales(lab: &Lab, replicas: u32) {
    let replicas = replicas.to_string();
    lab.kubectl(&["scale", "deployment", "demo", "--replicas", &replicas]).unwrap().ok("scale").unwrap();
    eventually(MINUTE, || {
        let counts = "jsonpath={.status.readyReplicas} {.status.observedGeneration} {.metadata.generation}";
        let status = lab.kubectl(&["get", "deployment", "demo", "-o", counts])?.ok("get the Deployment")?;
        let words: Vec<&str> = status.split(' ').collect();
        ensure!(words[0] == replicas && words[1] == words[2], "ready, observed, generation: {status}");
        Ok(())
    })
    .unwrap();
}

fn ready_pods_on(lab: &Lab, node: &str) -> Result<usize> {
    let path = "jsonpath={range .items[*]}{.metadata.deletionTimestamp} {.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}{end}";
    let selector = format!("spec.nodeName={node}");
    let pods = lab
        .kubectl(&["get", "pods", "-l", "app=demo", "--field-selector", &selector, "-o", path])?
        .ok("get the demonstration's pods")?;
    Ok(pods.lines().filter(|l| *l == " True").count())
}

/// Three etcd members, three API servers behind the balancer, five Ready nodes.
fn is_whole(lab: &Lab) -> Result<()> {
    for host in ["cp1", "cp2", "cp3"] {
        let health =
            lab.ssh(host, "exec 3<>/dev/tcp/127.0.0.1/2381; printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3")?;
        ensure!(health.contains("\"health\":\"true\""), "etcd on {host} says {health}");
        let states = lab.ssh(host, "systemctl is-active etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kube-netd || true")?;
        ensure!(states.lines().all(|l| l == "active"), "units of {host}: {states}");
    }
    let servers = lab
        .kubectl(&["get", "endpoints", "kubernetes", "-o", "jsonpath={.subsets[*].addresses[*].ip}"])?
        .ok("get the API servers' endpoints")?;
    ensure!(servers.split(' ').count() == 3, "API servers: {servers}");
    let nodes = lab.kubectl(&["get", "nodes", "--no-headers"])?.ok("get nodes")?;
    let ready = nodes.lines().filter(|l| l.split_whitespace().nth(1) == Some("Ready")).count();
    ensure!(ready == 5, "{nodes}");
    Ok(())
}

/// Pods that call the demonstration's Service twice a second, by address and by name.
struct Callers {
    started: Instant,
}

const CALLERS: [&str; 2] = ["caller-by-address", "caller-by-name"];

impl Callers {
    fn start(lab: &Lab) -> Self {
        let address = lab
            .kubectl(&["get", "service", "demo", "-o", "jsonpath={.spec.clusterIP}"])
            .unwrap()
            .ok("get the Service's address")
            .unwrap();
        for (pod, target) in CALLERS.iter().zip([address.as_str(), "demo.default.svc.cluster.local"]) {
            let call = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {target} 80 | tail -n 1 | grep demo");
            let script = format!("while true; do {call}; sleep 0.5; done");
            let object = json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod},
                "spec": {
                    "nodeName": "w2", "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "call", "image": "kinit.dev/demo:0.1.0", "command": ["sh", "-c", script]}],
                },
            });
            lab.run_kubectl(ansible_free_tests::Kubectl::Trixie, &["create", "-f", "-"], &object.to_string())
                .unwrap()
                .ok("create a caller")
                .unwrap();
        }
        let callers = Self { started: Instant::now() };
        eventually(MINUTE, || {
            for pod in CALLERS {
                let heard = lab.kubectl(&["logs", pod])?.ok("read a caller's log")?;
                ensure!(heard.contains("demo-"), "{pod} got no answer");
            }
            Ok(())
        })
        .unwrap();
        Self { started: Instant::now().max(callers.started) }
    }

    fn silence_is_under(&self, lab: &Lab, most: Duration) {
        self.silence_since_is_under(lab, self.started, most);
    }

    /// The longest time without an answer, from `since` to the last answer; the last must be recent.
    fn silence_since_is_under(&self, lab: &Lab, since: Instant, most: Duration) {
        let now = jiff::Timestamp::now();
        let since = now - jiff::SignedDuration::try_from(since.elapsed()).unwrap();
        for pod in CALLERS {
            let log = lab.kubectl(&["logs", pod, "--timestamps"]).unwrap().ok("read a caller's log").unwrap();
            let silence = silence(&log, since, now).unwrap();
            println!("   {pod}: longest silence {:.1} s", silence.as_secs_f64());
            assert!(silence < most, "{pod} waited {silence:?} for an answer");
        }
    }

    fn end(self, lab: &Lab) {
        lab.kubectl(&[&["delete", "pod", "--now"], &CALLERS[..]].concat()).unwrap().ok("end the callers").unwrap();
    }
}

fn silence(log: &str, since: jiff::Timestamp, until: jiff::Timestamp) -> Result<Duration> {
    let mut last = since;
    let mut longest = jiff::SignedDuration::ZERO;
    for line in log.lines() {
        let at: jiff::Timestamp = line.split(' ').next().context("an empty line")?.parse().context("a line's time")?;
        if at > since {
            longest = longest.max(at.duration_since(last));
            last = at;
        }
    }
    Ok(longest.max(until.duration_since(last)).try_into()?)
}
