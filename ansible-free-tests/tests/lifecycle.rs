//! What each verb costs: time, round trips and bytes per host, and what clients without retries notice of it.
//! `cargo xtask bench lifecycle` runs it; nothing fails for a figure.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use ansible_free_tests::{ClusterFile, Lab, Traffic, eventually};
use anyhow::ensure;
use serde_json::Value;

const CP1: (&str, &str) = ("cp1", "control-plane");
const ALWAYS: [(&str, &str); 2] = [("lb1", "loadbalancer"), ("w1", "worker")];

#[test]
#[ignore = "a benchmark: cargo xtask bench lifecycle"]
fn what_verbs_cost() {
    let lab = Lab::up("lifecycle", 1, 5, 2).unwrap();
    let bench = Bench { lab: &lab, file: ClusterFile::new(&lab, "bench.yaml").unwrap() };
    bench.installs_packages();
    bench.write(&[CP1]);
    println!("{:<44} {:>7}  per host at most: round trips, KB to and from", "verb", "seconds");
    let ssh = Instant::now();
    lab.ssh("cp1", "true").unwrap();
    println!("{:<44} {:>7.2}  1", "floor: one ssh command", ssh.elapsed().as_secs_f64());
    bench.runs("init, 1 control plane", &["init"]);
    bench.runs("init again: nothing to do", &["init"]);
    println!("\n{:<44} {:>7}  failed of calls, longest silence", "", "");
    let traffic = Traffic::start(&lab.dir.join("admin.conf")).unwrap();
    let control_planes =
        |n: usize| ["cp1", "cp2", "cp3", "cp4", "cp5"][..n].iter().map(|name| (*name, "control-plane"));
    for (what, n) in [("apply, 1 to 3 control planes", 3), ("apply, 3 to 5", 5), ("apply, 5 to 3", 3)] {
        bench.write(&control_planes(n).collect::<Vec<_>>());
        bench.during(&traffic, what, &["apply", "--yes"]);
    }
    let address = bench.file.address("w2");
    bench.during(
        &traffic,
        "join of a worker",
        &["join", "w2", "--address", &address, "--role", "worker", "--write", "--yes"],
    );
    bench.during(&traffic, "remove of a worker", &["remove", "w2", "--write", "--yes"]);
    bench.during(&traffic, "remove of the first control plane", &["remove", "cp1", "--write", "--yes"]);
    let back = bench.file.address("cp1");
    let joins = ["join", "cp1", "--address", &back, "--role", "control-plane", "--write", "--yes"];
    bench.during(&traffic, "join of a control plane", &joins);
    bench.during(&traffic, "certs renew --all", &["certs", "renew", "--all", "--yes"]);
    let kept = eventually(Duration::from_secs(60), || traffic.nothing_is_lost()).unwrap();
    println!("{kept} writes acknowledged, none lost");
    drop(traffic);
    bench.runs("reset", &["reset", "--force"]);
    lab.down().unwrap();
}

struct Bench<'a> {
    lab: &'a Lab,
    file: ClusterFile,
}

impl Bench<'_> {
    /// The figures are kinit's own work, not apt's.
    fn installs_packages(&self) {
        let command = format!(
            "DEBIAN_FRONTEND=noninteractive apt-get -qq -y install {} >/dev/null 2>&1",
            kinit_playground::HOST_PACKAGES.join(" ")
        );
        std::thread::scope(|all| {
            for host in ["lb1", "cp1", "cp2", "cp3", "cp4", "cp5", "w1", "w2"] {
                let command = &command;
                all.spawn(move || self.lab.ssh(host, command).unwrap());
            }
        });
    }

    fn write(&self, hosts: &[(&str, &str)]) {
        self.file.write(&[&ALWAYS[..], hosts].concat()).unwrap();
    }

    /// Runs a verb and prints its time, and what it cost the line of the host that it cost most.
    fn runs(&self, what: &str, arguments: &[&str]) {
        let started = Instant::now();
        let ran = self.lab.kinit(&[arguments, &["-f", &self.file.path, "--output", "jsonl"]].concat()).unwrap();
        let out = ran.ok(what).unwrap();
        let seconds = started.elapsed().as_secs_f64();
        let done: Value = out.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap();
        let most = |field: &str| {
            let hosts = done["wire"].as_object().into_iter().flat_map(|hosts| hosts.values());
            hosts.filter_map(|host| host[field].as_u64()).max().unwrap_or(0)
        };
        let (trips, sent, received) = (most("roundTrips"), most("sent") / 1000, most("received") / 1000);
        println!("{what:<44} {seconds:>7.2}  {trips}, {sent} and {received}");
    }

    /// The same while clients work, and what they noticed.
    fn during(&self, traffic: &Traffic, what: &str, arguments: &[&str]) {
        let ready = Instant::now();
        eventually(Duration::from_secs(60), || traffic.flows(ready)).unwrap();
        let begun = Instant::now();
        self.runs(what, arguments);
        let silences = traffic.longest_silence(begun);
        let (done, failed) = traffic.calls(begun);
        let longest = ansible_free_tests::traffic::line(&silences);
        println!("{:<44} {:>7}  {} of {}, {longest}", "", "", failed.len(), done + failed.len());
        eventually(Duration::from_secs(60), || {
            let status = self.lab.kinit(&["status", "-f", &self.file.path])?;
            ensure!(status.code == 0, "{}{}", status.out, status.err);
            Ok(())
        })
        .unwrap();
    }
}
