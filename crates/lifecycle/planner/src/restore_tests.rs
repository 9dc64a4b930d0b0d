use kinit_manifests::{Bundle, HostFacts, desired, retired};

use super::*;

const ID: &str = "0123456789ab";

fn cluster() -> Cluster {
    kinit_config::load(kinit_config::example()).unwrap()
}

fn situation(cluster: &Cluster, see: impl Fn(&str, &Resource) -> Observed) -> Situation {
    let bundle = Bundle::sample();
    let facts = HostFacts { can_lower_oom_score: true, cgroup_v2: true, ..HostFacts::default() };
    let observe = |host: &HostSpec| {
        let wanted = desired(cluster, host, &facts, &bundle).unwrap().into_iter();
        let wanted = wanted.map(|(phase, resource)| {
            let observed = see(&host.name, &resource);
            (phase, resource, observed)
        });
        let gone = retired(cluster, host, &facts, &bundle).unwrap().into_iter();
        wanted.chain(gone.map(|(phase, resource)| (phase, resource, Observed::AsWanted))).collect()
    };
    let hosts = cluster.spec.hosts.iter().map(|h| (h.name.clone(), observe(h))).collect();
    Situation { hosts, ..Situation::default() }
}

fn well(_: &str, resource: &Resource) -> Observed {
    match resource {
        Resource::Shared { .. } => Observed::Fingerprint("f".into()),
        _ => Observed::AsWanted,
    }
}

fn fresh(host: &str, resource: &Resource) -> Observed {
    if host.starts_with("cp") { Observed::Missing } else { well(host, resource) }
}

fn backup() -> Restoring {
    let shared = Shared::ALL.into_iter().map(|shared| (shared, "f".to_owned())).collect();
    Restoring { id: ID.into(), shared, ..Restoring::default() }
}

fn member(id: u64, host: &HostSpec, learner: bool) -> EtcdMember {
    EtcdMember { id, learner, ..alone(host).members.pop().unwrap() }
}

/// All three run as one cluster.
fn running(cluster: &Cluster) -> Situation {
    let mut seen = situation(cluster, well);
    let all: Vec<&HostSpec> = cluster.hosts(Role::ControlPlane).collect();
    let members: Vec<EtcdMember> = all.iter().zip(11..).map(|(host, id)| member(id, host, false)).collect();
    for (host, id) in all.iter().zip(11..) {
        let status = EtcdStatus { id, leader: 11, members: members.clone(), ..EtcdStatus::default() };
        seen.etcd.insert(host.name.clone(), status);
        seen.with_data.insert(host.name.clone());
    }
    seen
}

fn lines(plan: &Plan) -> Vec<String> {
    plan.to_string().lines().map(|line| line.trim().to_owned()).collect()
}

fn at(lines: &[String], words: &str) -> usize {
    lines.iter().position(|line| line.contains(words)).unwrap_or_else(|| panic!("{words:?} is not in {lines:#?}"))
}

#[test]
fn fresh_control_planes_get_the_backups_secrets_and_data() {
    let cluster = cluster();
    let plan = restore(&cluster, &situation(&cluster, fresh), &backup()).unwrap();
    insta::assert_snapshot!(plan.to_string());
    assert!(!lines(&plan).iter().any(|line| line.contains("create ca")), "nothing is made anew: {plan}");
}

#[test]
fn a_cluster_that_runs_stops_before_anything_else_and_keeps_its_data() {
    let cluster = cluster();
    let plan = restore(&cluster, &running(&cluster), &backup()).unwrap();
    assert!(Operation::Restore.has_order_of(&plan), "{plan}");
    let lines = lines(&plan);
    for host in ["cp1", "cp2", "cp3"] {
        let stop = lines.iter().position(|line| line.starts_with(host) && line.contains("stop etcd.service")).unwrap();
        assert!(stop < at(&lines, "restore /var/lib/etcd/member"), "{plan}");
    }
    assert!(at(&lines, "put aside /var/lib/etcd/member") < at(&lines, "restore /var/lib/etcd/member"));
    assert_eq!(lines.iter().filter(|line| line.contains("put aside")).count(), 2, "{plan}");
    assert_eq!(lines.iter().filter(|line| line.contains("without a vote")).count(), 2, "{plan}");
    assert!(!lines.iter().any(|line| line.contains("from the backup") && line.contains(" ca ")), "it has them: {plan}");
    assert!(!lines.iter().any(|line| line.contains("remove etcd member")), "the old cluster is not asked: {plan}");
    assert!(lines.iter().any(|line| line.contains("start kube-apiserver")), "{plan}");
    assert_eq!(at(&lines, "finish the restore"), lines.len() - 2, "{plan}");
}

#[test]
fn secrets_that_changed_since_are_the_backups_again_and_leaves_are_reissued() {
    let cluster = cluster();
    let etcd = Shared::Authority(kinit_pki::Authority::Etcd);
    let mut seen = running(&cluster);
    for own in seen.hosts.values_mut() {
        for (_, resource, observed) in own.iter_mut() {
            if matches!(resource, Resource::Shared { shared, .. } if *shared == etcd) {
                *observed = Observed::Fingerprint("rotated".into());
            }
        }
    }
    let plan = restore(&cluster, &seen, &backup()).unwrap();
    let lines = lines(&plan);
    assert!(at(&lines, "restore etcd-ca from the backup") < at(&lines, "copy etcd-ca from cp1"), "{plan}");
    for leaf in ["etcd/server.crt", "etcd/peer.crt", "apiserver-etcd-client.crt"] {
        assert_eq!(lines.iter().filter(|line| line.contains(leaf)).count(), 3, "{leaf}: {plan}");
    }
    assert!(!lines.iter().any(|line| line.contains("apiserver.crt")), "{plan}");
}

#[test]
fn an_interrupted_restore_goes_on_where_it_was() {
    let cluster = cluster();
    let hosts: Vec<&HostSpec> = cluster.hosts(Role::ControlPlane).collect();
    let mut restoring = backup();
    restoring.markers.insert("cp1".into(), ID.into());
    // The data are in place, and nothing runs.
    let stopped = |host: &str, resource: &Resource| match resource {
        Resource::Unit { name, .. } if host.starts_with("cp") && UNITS.contains(&name.as_str()) => Observed::Missing,
        _ => well(host, resource),
    };
    let mut seen = situation(&cluster, stopped);
    seen.with_data.insert("cp1".into());
    let plan = restore(&cluster, &seen, &restoring).unwrap();
    let all = lines(&plan);
    assert!(!all.iter().any(|line| line.contains("restore /var/lib") || line.contains("put aside")), "{plan}");
    assert!(all.iter().any(|line| line.starts_with("cp1") && line.contains("start etcd")), "{plan}");
    // One has joined and runs; the third still runs with the old data.
    let mut seen = running(&cluster);
    let members = vec![member(21, hosts[0], false), member(22, hosts[1], false)];
    for (host, id) in [("cp1", 21), ("cp2", 22)] {
        let status = EtcdStatus { id, leader: 21, members: members.clone(), ..EtcdStatus::default() };
        seen.etcd.insert(host.into(), status);
    }
    let plan = restore(&cluster, &seen, &restoring).unwrap();
    let all = lines(&plan);
    assert!(all.iter().filter(|line| line.contains("stop ")).all(|line| line.starts_with("cp3")), "{plan}");
    assert!(all.iter().any(|line| line.starts_with("cp3") && line.contains("put aside")), "{plan}");
    assert!(all.iter().filter(|line| line.contains("without a vote")).all(|line| line.starts_with("cp3")), "{plan}");
    // Another backup's marker is none of ours.
    restoring.markers.insert("cp1".into(), "another".into());
    let plan = restore(&cluster, &seen, &restoring).unwrap().to_string();
    assert!(plan.contains("restore /var/lib/etcd/member"), "{plan}");
}

#[test]
fn a_survivors_data_make_a_cluster() {
    let mut cluster = cluster();
    cluster.spec.hosts.retain(|host| host.name != "cp1");
    let mut seen = running(&cluster);
    seen.etcd.values_mut().for_each(|status| status.leader = 0);
    let restoring = Restoring { id: "recover-cp3".into(), from: Some("cp3".into()), ..Restoring::default() };
    let plan = restore(&cluster, &seen, &restoring).unwrap();
    let lines = lines(&plan);
    assert!(lines.iter().any(|line| line.starts_with("cp3") && line.contains("a copy of its own data")), "{plan}");
    assert!(lines.iter().any(|line| line.starts_with("cp2") && line.contains("put aside")), "{plan}");
    assert!(lines.iter().any(|line| line.starts_with("cp2") && line.contains("without a vote")), "{plan}");
    assert!(lines.iter().any(|line| line.contains("delete nodes that are no hosts of the file")), "{plan}");
    let nowhere = Restoring { from: Some("cp9".into()), ..restoring };
    assert_eq!(restore(&cluster, &seen, &nowhere).unwrap_err().0, [PlanError::NoControlPlane]);
}
