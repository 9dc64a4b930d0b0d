//! A cluster that changes: it grows, shrinks, loses machines for good, and gets others. Clients work through the load
//! balancer the whole time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod balancers;
mod certificates;
mod keys;
mod rotation;

use std::process::Stdio;
use std::time::{Duration, Instant};

use ansible_free_tests::{ClusterFile, Lab, Ran, Traffic, eventually};
use anyhow::{Result, ensure};
use serde_json::Value;

/// Without retries a call may meet a server that stops; a call after it finds another.
const SILENCE: Duration = Duration::from_secs(5);

#[test]
fn a_cluster_changes() {
    let standing = Lab::standing();
    let lab = standing.unwrap_or_else(|| Lab::up("change", 1, 4, 2).unwrap());
    let cluster = Changing::start(&lab, &[("lb1", "loadbalancer"), ("cp1", "control-plane"), ("w1", "worker")]);
    let traffic = Traffic::start(&lab.dir.join("admin.conf")).unwrap();
    let during = |what: &str, change: &dyn Fn()| traffic.during(what, SILENCE, change);
    during("from 1 to 3 control planes", &|| cluster.grows());
    during("the machine that the oldest connections lead to loses power", &|| cluster.loses_power(&traffic, "cp1"));
    during("a machine installed anew", &|| cluster.gets_a_machine_back());
    during("a machine lost for good, another in its place", &|| cluster.replaces_a_machine());
    let control_planes = ["cp1", "cp2", "cp4"];
    during("the cluster's authority replaced", &|| rotation::of_the_authority(&cluster, &traffic, &control_planes));
    during("keys replaced", &|| rotation::of_keys(&cluster, &control_planes));
    during("without the first control plane", &|| cluster.loses_its_first_control_plane());
    during("a worker becomes a control plane, and one again", &|| cluster.changes_roles());
    during("a worker leaves", &|| cluster.drains());
    cluster.refuses();
    let kept = eventually(Duration::from_secs(60), || traffic.nothing_is_lost()).unwrap();
    println!("   {kept} writes acknowledged, none lost");
    drop(traffic);
    let reset = cluster.run("reset", &["--force"]).ok("kinit reset").unwrap();
    assert!(reset.contains("no residue"), "{reset}");
    lab.down().unwrap();
}

/// A cluster whose file the test edits, as an operator would.
struct Changing<'a> {
    lab: &'a Lab,
    cluster_file: ClusterFile,
    /// Its path.
    file: String,
}

impl<'a> Changing<'a> {
    fn start(lab: &'a Lab, hosts: &[(&str, &str)]) -> Self {
        let cluster_file = ClusterFile::new(lab, "changing.yaml").unwrap();
        let cluster = Self { lab, file: cluster_file.path.clone(), cluster_file };
        cluster.write(hosts);
        cluster.run("init", &[]).ok("kinit init").unwrap();
        cluster
    }

    fn write(&self, hosts: &[(&str, &str)]) {
        self.cluster_file.write(hosts).unwrap();
    }

    fn address(&self, host: &str) -> String {
        self.cluster_file.address(host)
    }

    fn run(&self, verb: &str, arguments: &[&str]) -> Ran {
        self.lab.kinit(&[&[verb, "-f", &self.file], arguments].concat()).unwrap()
    }

    #[track_caller]
    fn change(&self, verb: &str, arguments: &[&str]) {
        self.run(verb, &[arguments, &["--yes"]].concat()).ok(verb).unwrap();
        self.is_as_wanted();
    }

    /// Nothing is left to do, and everything is well.
    #[track_caller]
    fn is_as_wanted(&self) {
        let plan = self.run("plan", &[]);
        assert_eq!(plan.code, 0, "{}{}", plan.out, plan.err);
        eventually(Duration::from_secs(60), || {
            let status = self.run("status", &[]);
            ensure!(status.code == 0, "{}{}", status.out, status.err);
            Ok(())
        })
        .unwrap();
    }

    #[track_caller]
    fn has_members(&self, expected: &[&str]) {
        let list = self.lab.kinit(&["etcd", "member", "list", "-f", &self.file, "--output", "jsonl"]).unwrap();
        let list = list.ok("kinit etcd member list").unwrap();
        let members: Vec<Value> = list.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert!(members.iter().all(|m| m["state"] == "started"), "{list}");
        let mut names: Vec<&str> = members.iter().map(|m| m["member"]["name"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, expected);
    }

    fn grows(&self) {
        let hosts = [
            ("lb1", "loadbalancer"),
            ("cp1", "control-plane"),
            ("cp2", "control-plane"),
            ("cp3", "control-plane"),
            ("w1", "worker"),
            ("w2", "worker"),
        ];
        self.write(&hosts);
        // A new cluster's verb is not for this one.
        let init = self.run("init", &[]);
        assert!(init.code == 6 && init.err.contains("cp2 is new") && init.err.contains("kinit apply"), "{}", init.err);
        let saved = self.lab.dir.join("plan.json").display().to_string();
        assert_eq!(self.run("plan", &["-o", &saved]).code, 2);
        // A plan is for the file that it was made for.
        self.write(&hosts[..5]);
        let stale = self.run("apply", &["--yes", "--plan", &saved]);
        assert!(stale.code == 6 && stale.err.contains("nothing was changed"), "{}", stale.err);
        self.write(&hosts);
        self.change("apply", &["--plan", &saved]);
        self.has_members(&["cp1", "cp2", "cp3"]);
        let again = self.run("apply", &["--yes", "--plan", &saved]);
        assert!(again.code == 6 && again.err.contains("not as it was"), "{}", again.err);
    }

    /// Of the balancer's process that has made them only these connections are left: it checks no server any more.
    fn loses_power(&self, traffic: &Traffic, host: &str) {
        self.lab.playground("power-off", &[host]).unwrap().ok("power off").unwrap();
        let off = Instant::now();
        eventually(Duration::from_secs(30), || traffic.flows(off + SILENCE)).unwrap();
        self.lab.playground("power-on", &[host]).unwrap().ok("power on").unwrap();
        self.is_as_wanted();
    }

    fn gets_a_machine_back(&self) {
        self.lab.playground("reinstall", &["cp2"]).unwrap().ok("reinstall").unwrap();
        assert_eq!(self.run("status", &[]).code, 8);
        self.change("apply", &[]);
        self.has_members(&["cp1", "cp2", "cp3"]);
    }

    fn replaces_a_machine(&self) {
        self.lab.playground("power-off", &["cp3"]).unwrap().ok("power off").unwrap();
        let fast = ["--connect-timeout", "3"];
        let apply = self.run("apply", &[&["--yes"], &fast[..]].concat());
        assert!(apply.code == 6 && apply.err.contains("kinit remove cp3"), "{}", apply.err);
        let quorum = self.run("remove", &[&["cp1", "--yes"], &fast[..]].concat());
        assert!(quorum.code == 6 && quorum.err.contains("1 healthy of 2 members"), "{}", quorum.err);
        let removed = self.run("remove", &[&["cp3", "--yes", "--write"], &fast[..]].concat());
        assert!(
            removed.code == 0 && removed.err.contains("holds the cluster's keys"),
            "{}{}",
            removed.out,
            removed.err
        );
        self.has_members(&["cp1", "cp2"]);
        let address = self.address("cp4");
        self.change("join", &["cp4", "--address", &address, "--role", "control-plane", "--write"]);
        self.has_members(&["cp1", "cp2", "cp4"]);
    }

    fn loses_its_first_control_plane(&self) {
        self.change("remove", &["cp1", "--write"]);
        self.has_members(&["cp2", "cp4"]);
        let left = self.lab.ssh("cp1", "ls -d /etc/kubernetes /var/lib/etcd /var/lib/kinit 2>/dev/null; true").unwrap();
        assert_eq!(left, "", "left on cp1");
    }

    /// With a run that is killed in the middle, at a moment that the clock chooses: the same command finishes.
    fn changes_roles(&self) {
        let with = |roles: &str| {
            let hosts = [("lb1", "loadbalancer"), ("cp2", "control-plane"), ("cp4", "control-plane"), ("w1", "worker")];
            self.write(&[&hosts[..], &[("w2", roles)]].concat());
        };
        with("control-plane, worker");
        let millis = u64::from(jiff::Timestamp::now().subsec_millisecond().unsigned_abs());
        let moment = Duration::from_millis(3000 + millis * 8);
        let mut apply = self.lab.kinit_command(&["apply", "-f", &self.file, "--yes"]);
        let mut apply = apply.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // The moment is what is tested: nothing to watch for.
        std::thread::sleep(moment);
        apply.kill().unwrap();
        apply.wait().unwrap();
        println!("   apply killed after {moment:.1?}");
        self.change("apply", &[]);
        self.has_members(&["cp2", "cp4", "w2"]);
        let taints = self.lab.kubectl(&["get", "node", "w2", "-o", "jsonpath={.spec.taints}"]).unwrap();
        assert_eq!(taints.ok("get node").unwrap(), "", "it takes workloads still");
        with("worker");
        self.change("apply", &[]);
        self.has_members(&["cp2", "cp4"]);
        let look = "ls /etc/kubernetes/pki; ls -d /var/lib/etcd 2>&1; systemctl is-active etcd kube-apiserver; true";
        let left = self.lab.ssh("w2", look).unwrap();
        assert!(left.starts_with("ca.crt\nls: cannot access"), "{left}");
        assert!(left.ends_with("inactive\ninactive\n"), "{left}");
    }

    fn drains(&self) {
        self.lab.playground("demo", &[]).unwrap().ok("kinit playground demo").unwrap();
        let budget = ["create", "pdb", "demo", "--selector", "app=demo", "--min-available", "2"];
        self.lab.kubectl(&budget).unwrap().ok("create a budget").unwrap();
        let alone = ["run", "alone", "--image=kinit.dev/demo:0.1.0", "--overrides={\"spec\":{\"nodeName\":\"w2\"}}"];
        self.lab.kubectl(&alone).unwrap().ok("run a pod").unwrap();
        // Nobody makes that pod again: a person has to decide.
        let refused = self.run("remove", &["w2", "--yes"]);
        assert!(refused.code == 6 && refused.err.contains("pod default/alone has no controller"), "{}", refused.err);
        self.change("remove", &["w2", "--write", "--force"]);
        let path = "jsonpath={.status.readyReplicas}";
        eventually(Duration::from_secs(60), || {
            let ready = self.lab.kubectl(&["get", "deployment", "demo", "-o", path])?.ok("get the Deployment")?;
            ensure!(ready == "3", "{ready} replicas are ready");
            Ok(())
        })
        .unwrap();
    }

    fn refuses(&self) {
        let file = std::fs::read_to_string(&self.file).unwrap();
        for (verb, arguments, words) in [
            ("remove", &["nobody"][..], "there is no host \"nobody\""),
            ("remove", &["cp2", "cp4"], "no host has the role control-plane"),
            ("remove", &["lb1"], "which is lb1"),
            ("join", &["w9"], "--address is needed"),
            ("join", &["w9", "--address", "192.0.2.1", "--role", "king"], "\"king\" is none of"),
            ("join", &["w1", "--role", "control-plane"], "change it there"),
            ("apply", &["--host", "w9"], "there is no host \"w9\""),
            ("apply", &["--plan", "/nowhere"], "read /nowhere"),
        ] {
            let ran = self.run(verb, &[arguments, &["--yes"]].concat());
            assert!(ran.code != 0 && ran.err.contains(words), "{verb} {arguments:?}: {}{}", ran.out, ran.err);
        }
        std::fs::write(
            &self.file,
            file.replacen("  hosts:", "  networking:\n    podSubnet: 10.245.0.0/16\n  hosts:", 1),
        )
        .unwrap();
        let fixed = self.run("apply", &["--yes"]);
        assert!(fixed.code == 6 && fixed.err.contains("spec.networking.podSubnet"), "{}", fixed.err);
        std::fs::write(&self.file, file).unwrap();
        self.etcd_is_looked_after().unwrap();
        self.is_as_wanted();
    }

    fn etcd_is_looked_after(&self) -> Result<()> {
        let etcd = |arguments: &[&str]| self.lab.kinit(&[&["etcd"], arguments, &["-f", &self.file]].concat());
        ensure!(etcd(&["status"])?.ok("etcd status")?.contains("leader"), "no leader");
        ensure!(etcd(&["alarm", "list"])?.ok("alarm list")? == "no alarms\n", "alarms");
        ensure!(etcd(&["defrag"])?.ok("defrag")?.lines().count() == 2, "two members");
        let snapshot = self.lab.dir.join("snapshot.db").display().to_string();
        etcd(&["snapshot", "save", &snapshot])?.ok("snapshot save")?;
        ensure!(etcd(&["snapshot", "save", &snapshot])?.code != 0, "a snapshot is never overwritten");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&snapshot)?.permissions());
        ensure!(mode & 0o777 == 0o600, "mode {mode:o}");
        Ok(())
    }
}
