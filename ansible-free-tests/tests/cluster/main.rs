//! A highly available cluster from its birth to its reset, as its operator sees it. One test, because the steps build
//! on each other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod availability;
mod verbs;

use std::time::Instant;

use ansible_free_tests::{Kubectl, Lab};

/// With `KINIT_LAB` (a playground's name) and `KINIT_PART` set, that part alone runs on a cluster that stands: for work
/// on the part.
#[test]
fn a_cluster_lives() {
    let (standing, only) = (Lab::standing(), std::env::var("KINIT_PART").ok());
    let lab = standing.unwrap_or_else(|| {
        let lab = Lab::up("life", 1, 3, 2).unwrap();
        lab.ssh("cp2", "sed -i '1i umask 077' ~/.bashrc").unwrap();
        println!("{}", lab.on_cluster("init", &[]).unwrap().ok("kinit init").unwrap());
        lab
    });
    let part = |name: &str, run: &dyn Fn(&Lab)| {
        if only.as_deref().is_none_or(|only| only == name) {
            let started = Instant::now();
            run(&lab);
            println!("-- {name}: {:.0} s", started.elapsed().as_secs_f64());
        }
    };
    part("nodes", &all_nodes_are_ready);
    part("modes", &a_shells_umask_changes_nothing);
    part("second init", &a_second_init_changes_nothing);
    part("demo", &pods_find_each_other_by_name);
    part("kubectl 1.32", &|lab| verbs::all_work(lab, Kubectl::Trixie));
    part("kubectl 1.36", &|lab| verbs::all_work(lab, Kubectl::Sid));
    part("loss of control planes", &availability::any_control_plane_may_die);
    part("a partition", &availability::etcds_leader_may_be_cut_off_from_its_peers);
    part("a worker cut off", &availability::a_worker_is_cut_off_and_comes_back);
    part("loss of a worker", &availability::a_worker_may_die);
    part("namespaces go", &verbs::namespaces_go);
    part("reset", &reset_leaves_nothing);
    if only.is_none() {
        lab.down().unwrap();
    }
}

fn all_nodes_are_ready(lab: &Lab) {
    let nodes = lab.kubectl(&["get", "nodes", "--no-headers"]).unwrap().ok("kubectl get nodes").unwrap();
    let ready = nodes.lines().filter(|l| l.split_whitespace().nth(1) == Some("Ready")).count();
    assert_eq!(ready, 5, "{nodes}");
}

/// cp2's root has a umask of 077, cp3's has not.
fn a_shells_umask_changes_nothing(lab: &Lab) {
    let list = |host: &str| {
        let places = "/etc/kubernetes /etc/containerd /etc/cni /etc/systemd/system /opt/cni /usr/local /var/lib/kinit";
        lab.ssh(host, &format!("find $(ls -d {places} 2>/dev/null) -printf '%m %u:%g %p\\n' | sort")).unwrap()
    };
    let (strict, plain) = (list("cp2"), list("cp3"));
    assert!(plain.contains("755 root:root /usr/local/bin"), "{plain}");
    let (strict, plain): (Vec<_>, Vec<_>) = (strict.lines().collect(), plain.lines().collect());
    let other: Vec<_> = strict.iter().filter(|line| !plain.contains(line)).collect();
    assert!(other.is_empty(), "{other:#?}");
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

fn reset_leaves_nothing(lab: &Lab) {
    let reset = lab.on_cluster("reset", &["--force"]).unwrap().ok("kinit reset").unwrap();
    assert!(reset.contains("no residue"), "{reset}");
    for host in ["lb1", "cp1", "w1"] {
        let left = lab.ssh(host, "ls -d /etc/kubernetes /var/lib/kinit /var/lib/etcd /var/lib/kubelet /usr/local/lib/kinit 2>/dev/null; dpkg-query -W -f='${Package}\\n' etcd-server haproxy containerd 2>/dev/null; true").unwrap();
        assert_eq!(left, "", "left on {host}");
    }
}
