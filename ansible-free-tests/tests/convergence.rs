//! `kill -9` of kinit at random moments, and a disk that fills in the middle: the same command finishes the cluster
//! every time, and reset leaves nothing of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Stdio;
use std::time::{Duration, Instant};

use ansible_free_tests::{Dice, Lab};

/// A sample; `KINIT_KILLS` takes a larger one.
const KILLS: usize = 8;
/// Rounds that begin on hosts without packages; the rest find them installed, and leave them.
const BARE: usize = 2;

#[test]
fn a_killed_init_is_finished_by_the_next() {
    let kills = std::env::var("KINIT_KILLS").map_or(KILLS, |kills| kills.parse().expect("KINIT_KILLS is a number"));
    let mut dice = Dice::from_environment();
    let lab = Lab::up("kill", 1, 3, 1).unwrap();
    let mut length = Duration::from_secs(30);
    for round in 0..kills {
        if round == BARE {
            install_packages(&lab);
            length = Duration::from_secs(12);
        }
        let moment = length.mul_f64(dice.roll());
        let last = kill_after(&lab, moment);
        let started = Instant::now();
        let finished = lab.on_cluster("init", &[]).unwrap().ok("kinit init after a kill").unwrap();
        let took = started.elapsed();
        let changes = finished.lines().find(|l| l.contains(" changes in ")).unwrap_or("?").to_owned();
        println!("{:>2}. killed after {moment:.1?} ({last}); then {changes}", round + 1);
        let again = lab.on_cluster("init", &[]).unwrap().ok("kinit init again").unwrap();
        assert!(again.contains("0 changes in"), "killed after {moment:?}: {again}");
        nodes_are_ready(&lab);
        let reset = lab.on_cluster("reset", &["--force"]).unwrap().ok("kinit reset").unwrap();
        assert!(reset.contains("no residue"), "{reset}");
        if round >= BARE {
            hosts_have_their_own_back(&lab);
            // Later kills hit all of a run, however fast this machine is.
            length = length.max(moment + took.min(Duration::from_secs(20)) / 2);
        }
    }
    a_full_disk_stops_a_run(&lab);
    lab.down().unwrap();
}

/// One control plane has no room for the programs: the run stops, says where, and leaves no part of an upload behind.
fn a_full_disk_stops_a_run(lab: &Lab) {
    let place = "/usr/local/lib/kinit";
    lab.ssh("cp2", &format!("mkdir {place} && mount -t tmpfs -o size=8m tmpfs {place}")).unwrap();
    let ran = lab.on_cluster("init", &[]).unwrap();
    assert_ne!(ran.code, 0, "{}", ran.out);
    for words in ["cp2", place, "No space left on device"] {
        assert!(ran.err.contains(words), "{words}: {}", ran.err);
    }
    let left =
        lab.ssh("cp2", &format!("df --output=used -k {place} | tail -1; find /run {place} -name '*.part'")).unwrap();
    assert_eq!(left.trim(), "0", "what was uploaded in part is still there");
    lab.ssh("cp2", &format!("umount {place} && rmdir {place}")).unwrap();
    lab.on_cluster("init", &[]).unwrap().ok("kinit init with room for all").unwrap();
    nodes_are_ready(lab);
    lab.on_cluster("reset", &["--force"]).unwrap().ok("kinit reset").unwrap();
    println!("a full disk: stopped, and finished by the same command");
}

/// Starts `kinit init`, kills it, and returns what it had said last.
fn kill_after(lab: &Lab, moment: Duration) -> String {
    let file = lab.file().display().to_string();
    let log = std::fs::File::create(lab.dir.join("killed.log")).unwrap();
    let mut init = lab
        .kinit_command(&["init", "-f", &file, "-v"])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    // The moment is what is tested: nothing to watch for.
    std::thread::sleep(moment);
    init.kill().unwrap();
    init.wait().unwrap();
    let said = std::fs::read_to_string(lab.dir.join("killed.log")).unwrap();
    said.lines().last().unwrap_or("nothing said yet").to_owned()
}

fn nodes_are_ready(lab: &Lab) {
    let nodes = lab.kubectl(&["get", "nodes", "--no-headers"]).unwrap().ok("kubectl get nodes").unwrap();
    let ready = nodes.lines().filter(|l| l.split_whitespace().nth(1) == Some("Ready")).count();
    assert_eq!(ready, 4, "{nodes}");
}

/// As an administrator would have: the packages, and the services Debian starts with them, are the hosts' own.
fn install_packages(lab: &Lab) {
    let packages = kinit_playground::HOST_PACKAGES.join(" ");
    let hosts = ["lb1", "cp1", "cp2", "cp3", "w1"];
    std::thread::scope(|all| {
        for host in hosts {
            let command = format!("DEBIAN_FRONTEND=noninteractive apt-get -qq -y install {packages} 2>&1 | tail -n 5");
            all.spawn(move || lab.ssh(host, &command).unwrap());
        }
    });
}

/// The administrator's packages run as they did, with what was theirs and nothing of the cluster's.
fn hosts_have_their_own_back(lab: &Lab) {
    let look = "systemctl is-active etcd haproxy containerd; ls /var/lib/etcd; ctr -n k8s.io images ls -q | grep -c kinit; true";
    assert_eq!(lab.ssh("cp2", look).unwrap(), "active\nactive\nactive\ndefault\n0\n");
}
