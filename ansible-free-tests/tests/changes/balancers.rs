//! Load balancers that share an address, one after another form of them; a machine that joins by itself; certificates.

use std::time::{Duration, Instant};

use ansible_free_tests::traffic::{Silence, Traffic, line};
use ansible_free_tests::{Lab, eventually};
use anyhow::ensure;

use super::{Changing, certificates, keys};

/// keepalived misses a balancer after 1.5 s; a call under way then waits for its client's patience.
const FAILOVER: Duration = Duration::from_secs(5);

#[test]
fn load_balancers_fail_over_and_change_their_form() {
    let lab = Lab::up("balance", 2, 1, 1).unwrap();
    let balancers = [("lb1", "loadbalancer"), ("lb2", "loadbalancer")];
    let nodes = [("cp1", "control-plane"), ("w1", "worker")];
    let mut cluster = Changing::start(&lab, &[&balancers[..], &nodes].concat());
    fails_over(&cluster);
    let shared = cluster.cluster_file.head.clone();
    let (before, address) = shared.split_once("  loadBalancer:\n").unwrap();
    cluster.cluster_file.head = format!("{before}  loadBalancer:\n    type: control-planes\n{address}");
    cluster.write(&nodes);
    cluster.change("apply", &[]);
    assert_eq!(lab.ssh("lb1", "ls -d /etc/haproxy/haproxy.cfg /etc/keepalived 2>/dev/null; true").unwrap(), "");
    cluster.cluster_file.head = format!("{before}  loadBalancer:\n    type: node-local\n");
    cluster.write(&nodes);
    cluster.change("apply", &[]);
    let server = lab.ssh("w1", "grep server: /etc/kubernetes/kubelet.conf").unwrap();
    assert!(server.contains("https://127.0.0.1:6443"), "{server}");
    let units = lab.ssh("cp1", "systemctl is-active haproxy keepalived; true").unwrap();
    assert_eq!(units, "inactive\ninactive\n");
    println!("-- two hosts, control planes, node-local: as wanted after each");
    cluster.write(&nodes[..1]);
    cluster.change("apply", &["--force"]);
    joins_by_itself(&cluster);
    control_plane_joins_by_itself(&cluster);
    certificates::end_and_are_renewed(&cluster);
    keys::renew_themselves(&cluster);
    keys::are_signed_elsewhere(&cluster);
    keys::are_kept_on_the_desk(&mut cluster);
    cluster.run("reset", &["--force"]).ok("kinit reset").unwrap();
    lab.down().unwrap();
}

/// The balancer that has the address loses power.
fn fails_over(cluster: &Changing<'_>) {
    let holder = eventually(Duration::from_secs(30), || {
        let status = cluster.run("status", &[]).ok("kinit status")?;
        let line = status.lines().find(|line| line.contains("loadbalancer*"));
        Ok(line
            .ok_or_else(|| anyhow::anyhow!("nobody has the address:\n{status}"))?
            .split(' ')
            .next()
            .unwrap()
            .to_owned())
    });
    let holder = holder.unwrap();
    let traffic = Traffic::start(&cluster.lab.dir.join("admin.conf")).unwrap();
    let ready = Instant::now();
    eventually(Duration::from_secs(60), || traffic.flows(ready)).unwrap();
    let begun = Instant::now();
    cluster.lab.playground("power-off", &[&holder]).unwrap().ok("power off").unwrap();
    let off = Instant::now();
    eventually(Duration::from_secs(60), || traffic.calls_flow(off + FAILOVER)).unwrap();
    let of_calls = traffic.longest_silence(begun).into_iter().filter(|silence| silence.of != "watches");
    let silences: Vec<Silence> = of_calls.collect();
    println!("-- {holder}, which had the address, off: longest silence: {}", line(&silences));
    assert!(silences.iter().all(|silence| silence.lasted < FAILOVER), "{}", line(&silences));
    let kept = eventually(Duration::from_secs(60), || traffic.no_write_is_lost()).unwrap();
    println!("   {kept} writes acknowledged, none lost");
    drop(traffic);
    let status = cluster.run("status", &["--connect-timeout", "3"]);
    assert!(status.code == 8 && status.out.contains(&format!("{holder} cannot be reached")), "{}", status.out);
    cluster.lab.playground("power-on", &[&holder]).unwrap().ok("power on").unwrap();
    cluster.is_as_wanted();
}

/// With a token, from the machine itself; nobody logs in there.
fn joins_by_itself(cluster: &Changing<'_>) {
    let lab = cluster.lab;
    let admin = lab.dir.join("admin.conf").display().to_string();
    let token = ["token", "create", "--ttl", "10m", "--print-join-command", "--kubeconfig", &admin];
    let command = lab.kinit(&token).unwrap().ok("kinit token create").unwrap();
    lab.copy_bundle("w1", "/opt/kinit-bundle").unwrap();
    let on_machine = |command: &str| {
        let ran = lab.playground("ssh", &["w1", &format!("/opt/kinit-bundle/{} --yes", command.trim())]).unwrap();
        (ran.code, format!("{}{}", ran.out, ran.err))
    };
    let (_, pin) = command.trim().rsplit_once("sha256:").unwrap();
    let id = command.split("--token ").nth(1).unwrap().split('.').next().unwrap();
    for (wrong, words) in [
        (command.replace(pin, &"0".repeat(64)), "this is not the cluster that was meant"),
        (command.replace(&format!("--token {id}"), "--token zzzzzz"), "does not know the token zzzzzz"),
        (command.replace(&format!("sha256:{pin}"), "sha256:12"), "64 hexadecimal digits"),
        (format!("{} --node-name cp1", command.trim()), "give it another name"),
    ] {
        let (code, said) = on_machine(&wrong);
        assert!(code != 0 && said.contains(words), "{words}: {said}");
    }
    assert_eq!(lab.ssh("w1", "ls -d /etc/kubernetes 2>/dev/null; true").unwrap(), "", "nothing was changed");
    let (code, said) = on_machine(&command);
    assert!(code == 0 && said.contains("this machine is a node now"), "{said}");
    let ready = ["get", "node", "w1", "-o", "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}"];
    assert_eq!(lab.kubectl(&ready).unwrap().ok("get node").unwrap(), "True");
    // The same command again has nothing to do, and a token that is deleted is worth nothing.
    let (code, said) = on_machine(&command);
    assert!(code == 0 && said.contains("0 changes"), "{said}");
    lab.kinit(&["token", "delete", id, "--kubeconfig", &admin]).unwrap().ok("kinit token delete").unwrap();
    eventually(Duration::from_secs(30), || {
        let (code, said) = on_machine(&command);
        ensure!(code != 0 && said.contains("does not know the token"), "{said}");
        Ok(())
    })
    .unwrap();
    // From now on the desk looks after it.
    cluster.write(&[("cp1", "control-plane"), ("w1", "worker")]);
    cluster.change("apply", &[]);
    println!("-- w1 joined by itself, and is the desk's");
}

/// A second control plane, with the cluster's secrets from the API; then the desk knows it, and takes it away again.
fn control_plane_joins_by_itself(cluster: &Changing<'_>) {
    let lab = cluster.lab;
    let admin = lab.dir.join("admin.conf").display().to_string();
    let early = ["token", "create", "--print-join-command", "--certificate-key", "12", "--kubeconfig", &admin];
    let early = lab.kinit(&early).unwrap();
    assert!(early.code == 2 && early.err.contains("64 hexadecimal digits"), "{}", early.err);
    let key = "0f".repeat(32);
    let token = ["token", "create", "--print-join-command", "--certificate-key", &key, "--kubeconfig", &admin];
    let not_uploaded = lab.kinit(&token).unwrap().ok("kinit token create").unwrap();
    lab.copy_bundle("lb1", "/opt/kinit-bundle").unwrap();
    let on_machine = |command: &str| {
        let ran = lab.playground("ssh", &["lb1", &format!("/opt/kinit-bundle/{} --yes", command.trim())]).unwrap();
        (ran.code, format!("{}{}", ran.out, ran.err))
    };
    let (code, said) = on_machine(&not_uploaded);
    assert!(code != 0 && said.contains("kinit certs upload"), "{said}");
    let uploaded = lab.kinit(&["certs", "upload", "-f", &cluster.file]).unwrap().ok("kinit certs upload").unwrap();
    // The key of another upload.
    let (code, said) = on_machine(&not_uploaded);
    assert!(code != 0 && said.contains("another upload's"), "{said}");
    assert_eq!(lab.ssh("lb1", "ls -d /etc/kubernetes 2>/dev/null; true").unwrap(), "", "nothing was changed");
    let command = not_uploaded.replace(&key, uploaded.trim());
    let begun = Instant::now();
    let (code, said) = on_machine(&command);
    assert!(code == 0 && said.contains("this machine is a node now"), "{said}");
    println!("-- lb1 joined by itself as a control plane in {:.0} s", begun.elapsed().as_secs_f64());
    let (code, said) = on_machine(&command);
    assert!(code == 0 && said.contains("0 changes"), "{said}");
    let nodes = [("cp1", "control-plane"), ("lb1", "control-plane"), ("w1", "worker")];
    cluster.write(&nodes);
    cluster.change("apply", &[]);
    cluster.has_members(&["cp1", "lb1"]);
    // Two hours after the upload nothing of it is left, nor when somebody deletes what it belongs to.
    let owner =
        ["get", "secret", "kubeadm-certs", "-n", "kube-system", "-o", "jsonpath={.metadata.ownerReferences[0].name}"];
    let owner = lab.kubectl(&owner).unwrap().ok("kubectl get secret").unwrap();
    lab.kubectl(&["delete", "secret", &owner, "-n", "kube-system"]).unwrap().ok("kubectl delete secret").unwrap();
    eventually(Duration::from_secs(30), || {
        let left = lab.kubectl(&["get", "secret", "kubeadm-certs", "-n", "kube-system", "--ignore-not-found"])?;
        let left = left.ok("kubectl get secret")?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
    .unwrap();
    cluster.write(&[nodes[0], nodes[2]]);
    cluster.change("apply", &[]);
    cluster.has_members(&["cp1"]);
}
