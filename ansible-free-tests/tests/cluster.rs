//! A highly available cluster from its birth to its reset, as its operator sees it. One test, because the steps build on each other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use ansible_free_tests::{Lab, eventually};
use anyhow::ensure;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_cluster_lives() {
    let lab = Lab::up("life", 1, 3, 2).unwrap();
    let init = lab.on_cluster("init", &[]).unwrap().ok("kinit init").unwrap();
    println!("{init}");
    all_nodes_are_ready(&lab);
    a_second_init_changes_nothing(&lab);
    pods_find_each_other_by_name(&lab);
    kubectl_works_unmodified(&lab);
    it_survives_the_loss_of_a_control_plane(&lab);
    reset_leaves_nothing(&lab);
    lab.down().unwrap();
}

fn all_nodes_are_ready(lab: &Lab) {
    let nodes = lab.kubectl(&["get", "nodes", "--no-headers"]).unwrap().ok("kubectl get nodes").unwrap();
    let ready = nodes.lines().filter(|l| l.split_whitespace().nth(1) == Some("Ready")).count();
    assert_eq!(ready, 5, "{nodes}");
}

fn a_second_init_changes_nothing(lab: &Lab) {
    let again = lab.on_cluster("init", &[]).unwrap().ok("the second kinit init").unwrap();
    assert!(again.contains("0 changes in"), "{again}");
    let plan = lab.on_cluster("init", &["--dry-run"]).unwrap().ok("kinit init --dry-run").unwrap();
    assert!(plan.ends_with("0 changes\n"), "{plan}");
}

fn pods_find_each_other_by_name(lab: &Lab) {
    let demo = lab.playground("demo", &[]).unwrap().ok("kinit playground demo").unwrap();
    for worker in ["w1", "w2"] {
        assert!(demo.contains(&format!(" on {worker}\n")), "no replica on {worker}:\n{demo}");
    }
    assert_eq!(demo.lines().filter(|l| l.starts_with("  demo-") && !l.contains(" on ")).count(), 6, "{demo}");
}

/// Every call through the load balancer, with Debian's kubectl.
fn kubectl_works_unmodified(lab: &Lab) {
    let say =
        |arguments: &[&str]| lab.kubectl(arguments).unwrap().ok(&format!("kubectl {}", arguments.join(" "))).unwrap();
    assert!(say(&["version"]).contains("+kinit."), "kubectl version does not tell that this is kinit");
    assert!(say(&["api-resources"]).contains("deployments"));
    assert!(say(&["get", "deployment", "demo", "-o", "wide"]).contains("kinit.dev/demo:0.1.0"));
    assert_eq!(say(&["get", "service", "demo", "-o", "jsonpath={.spec.ports[0].port}"]), "80");
    assert!(say(&["describe", "deployment", "demo"]).contains("3 desired"));
    assert!(say(&["get", "--raw", "/readyz?verbose"]).ends_with("readyz check passed\n"));
    assert!(say(&["auth", "whoami"]).contains("kubernetes-admin"));
    assert_eq!(say(&["auth", "can-i", "create", "pods"]).trim(), "yes");
    say(&["create", "configmap", "c", "--from-literal=a=1"]);
    say(&["patch", "configmap", "c", "--type=merge", "-p", r#"{"data":{"a":"2"}}"#]);
    say(&["patch", "configmap", "c", "--type=json", "-p", r#"[{"op":"add","path":"/data/b","value":"3"}]"#]);
    say(&["label", "configmap", "c", "x=y"]);
    assert_eq!(say(&["get", "configmap", "-l", "x=y", "-o", "jsonpath={.items[*].data.a}{.items[*].data.b}"]), "23");
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: \"1\"}\n";
    for (text, expected) in [
        (manifest.to_owned(), "created"),
        (manifest.replace("\"1\"", "\"2\""), "configured"),
        (manifest.replace("\"1\"", "\"2\""), "unchanged"),
    ] {
        let out = lab.kubectl_with(&["apply", "-f", "-"], &text).unwrap().ok("kubectl apply").unwrap();
        assert!(out.contains(expected), "{out}");
    }
    say(&["scale", "deployment", "demo", "--replicas=4"]);
    say(&["rollout", "status", "deployment", "demo", "--timeout=60s"]);
    let pod = say(&["get", "pods", "-l", "app=demo", "-o", "name"]).lines().next().unwrap().to_owned();
    let name = say(&["exec", &pod, "--", "hostname"]);
    assert_eq!(format!("pod/{}", name.trim()), pod);
    assert!(say(&["logs", "visitor"]).contains("demo-"));
    assert!(say(&["get", "events"]).contains("Scheduled"));
    say(&["delete", "configmap", "c", "applied"]);
    let gone = lab.kubectl(&["get", "configmap", "c"]).unwrap();
    assert!(gone.code == 1 && gone.err.contains("NotFound"), "{}", gone.err);
}

/// Pulls the plug of a control plane: calls go on within seconds, what was written stays, and the host comes back by itself.
fn it_survives_the_loss_of_a_control_plane(lab: &Lab) {
    let write = |key: &str| {
        let ran = lab.kubectl(&["create", "configmap", key, "--request-timeout=3s"])?;
        ensure!(ran.code == 0 || ran.err.contains("AlreadyExists"), "{}", ran.err);
        Ok(())
    };
    write("before").unwrap();
    lab.playground("power-off", &["cp2"]).unwrap().ok("power off").unwrap();
    let off = Instant::now();
    eventually(MINUTE, || write("after")).unwrap();
    println!("writes went on {:.1} s after the power was off", off.elapsed().as_secs_f64());
    let kept = lab
        .kubectl(&["get", "configmap", "before", "after", "-o", "name"])
        .unwrap()
        .ok("read what was written")
        .unwrap();
    assert_eq!(kept.lines().count(), 2, "{kept}");
    // A DNS pod may have been on the host that is gone: resolvers ask it until its node is known to be lost.
    eventually(2 * MINUTE, || lab.playground("demo", &[])?.ok("Services while a control plane is off")).unwrap();
    // Controllers and scheduler carry on, whoever led before.
    lab.kubectl(&["scale", "deployment", "demo", "--replicas=5"]).unwrap().ok("scale").unwrap();
    eventually(2 * MINUTE, || {
        let ready = lab
            .kubectl(&["get", "deployment", "demo", "-o", "jsonpath={.status.readyReplicas}"])?
            .ok("get the Deployment")?;
        ensure!(ready == "5", "{ready} replicas are ready");
        Ok(())
    })
    .unwrap();
    lab.playground("power-on", &["cp2"]).unwrap().ok("power on").unwrap();
    eventually(2 * MINUTE, || {
        let members =
            lab.ssh("cp2", "exec 3<>/dev/tcp/127.0.0.1/2381; printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3")?;
        ensure!(members.contains("\"health\":\"true\""), "etcd on cp2 says {members}");
        let status = lab.kubectl(&["get", "node", "cp2", "--no-headers"])?.ok("get node cp2")?;
        ensure!(status.split_whitespace().nth(1) == Some("Ready"), "{status}");
        Ok(())
    })
    .unwrap();
}

fn reset_leaves_nothing(lab: &Lab) {
    let reset = lab.on_cluster("reset", &["--force"]).unwrap().ok("kinit reset").unwrap();
    assert!(reset.contains("no residue"), "{reset}");
    for host in ["lb1", "cp1", "w1"] {
        let left = lab.ssh(host, "ls -d /etc/kubernetes /var/lib/kinit /var/lib/etcd /var/lib/kubelet /usr/local/lib/kinit 2>/dev/null; dpkg-query -W -f='${Package}\\n' etcd-server haproxy containerd 2>/dev/null; true").unwrap();
        assert_eq!(left, "", "left on {host}");
    }
}
