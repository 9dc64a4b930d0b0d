use std::collections::BTreeMap;

use kinit_manifests::{Bundle, HostFacts, desired, retired};
use kinit_resource::{EtcdMember, EtcdStatus, Shared};

use super::*;
use crate::situation::{HostObservation, NodeState, Scope};

fn cluster() -> Cluster {
    kinit_config::load(kinit_config::example()).unwrap()
}

fn seen(cluster: &Cluster, see: impl Fn(&str, &Resource) -> Observed) -> BTreeMap<String, HostObservation> {
    let bundle = Bundle::sample();
    let facts = HostFacts { can_lower_oom_score: true, cgroup_v2: true, ..HostFacts::default() };
    let observe = |host: &HostSpec| {
        let gone = retired(cluster, host, &facts, &bundle).unwrap().into_iter();
        desired(cluster, host, &facts, &bundle)
            .unwrap()
            .into_iter()
            .chain(gone)
            .map(|(p, r)| {
                let o = match p {
                    Phase::CleanupNode => Observed::AsWanted,
                    _ => see(&host.name, &r),
                };
                (p, r, o)
            })
            .collect()
    };
    cluster.spec.hosts.iter().map(|h| (h.name.clone(), observe(h))).collect()
}

/// The plan of `apply`, in the order of its phases.
fn plan(cluster: &Cluster, seen: &Situation) -> Result<Plan, Refused> {
    let plan = super::plan(Operation::Apply, cluster, seen)?;
    assert!(Operation::Apply.has_order_of(&plan), "{plan}");
    Ok(plan)
}

/// A plan from what was seen on hosts alone.
fn init(
    cluster: &Cluster,
    hosts: &BTreeMap<String, HostObservation>,
    with_data: &BTreeSet<String>,
    objects: &[(Phase, ObjectId, ObjectState)],
    marked: &BTreeSet<String>,
) -> Result<Plan, Refused> {
    let node =
        |name: &String| (name.clone(), NodeState { labelled: true, tainted: true, ready: true, cordoned: false });
    let seen = Situation {
        hosts: hosts.clone(),
        with_data: with_data.clone(),
        objects: objects.to_vec(),
        nodes: marked.iter().map(node).collect(),
        ..Situation::default()
    };
    plan(cluster, &seen)
}

fn file_object() -> ObjectId {
    ObjectId { kind: "ConfigMap".into(), namespace: "kube-system".into(), name: "kinit-config".into() }
}

fn well(_: &str, resource: &Resource) -> Observed {
    match resource {
        Resource::Shared { .. } => Observed::Fingerprint("f".into()),
        _ => Observed::AsWanted,
    }
}

fn all_marked() -> BTreeSet<String> {
    ["cp1", "cp2", "cp3"].map(str::to_owned).into()
}

#[test]
fn fresh_hosts_get_everything() {
    let cluster = cluster();
    let hosts = seen(&cluster, |_, _| Observed::Missing);
    let objects = [(Phase::UploadConfig, file_object(), ObjectState::Missing)];
    insta::assert_snapshot!(init(&cluster, &hosts, &none(), &objects, &BTreeSet::new()).unwrap().to_string());
}

#[test]
fn a_cluster_that_is_as_wanted_gets_no_change() {
    let cluster = cluster();
    let plan = init(&cluster, &seen(&cluster, well), &none(), &[], &all_marked()).unwrap();
    assert_eq!(plan.changes(), 0, "{plan}");
}

#[test]
fn authorities_that_differ_are_refused() {
    let cluster = cluster();
    let hosts = seen(&cluster, |host, resource| match resource {
        Resource::Shared { .. } => Observed::Fingerprint(if host == "cp3" { "other" } else { "f" }.into()),
        _ => Observed::AsWanted,
    });
    let error = init(&cluster, &hosts, &none(), &[], &all_marked()).unwrap_err().to_string();
    assert!(error.contains("ca differs between cp1 and cp3"), "{error}");
}

fn none() -> BTreeSet<String> {
    BTreeSet::new()
}

#[test]
fn a_lost_key_is_never_made_anew() {
    let cluster = cluster();
    let lost = |wanted: Shared, observed: fn(&str) -> Observed| {
        seen(&cluster, |host, resource| match resource {
            Resource::Shared { shared, .. } if *shared == wanted => observed(host),
            other => well(host, other),
        })
    };
    let ca = Shared::Authority(kinit_pki::Authority::Kubernetes);
    let keyless = lost(ca, |_| Observed::Differs("/etc/kubernetes/pki/ca.key is missing".into()));
    let workers =
        lost(ca, |host| if host.starts_with('w') { Observed::Fingerprint("f".into()) } else { Observed::Missing });
    let gone = lost(Shared::EncryptionConfig, |_| Observed::Missing);
    let data: BTreeSet<String> = ["cp1", "cp2", "cp3"].map(str::to_owned).into();
    for (hosts, data, words) in [
        (&keyless, &none(), "ca is lost: cp1 has a part of it"),
        (&workers, &none(), "ca is lost: w1 has its public part"),
        (&gone, &data, "encryption-config is lost: cp1 has the cluster's data"),
    ] {
        let error = init(&cluster, hosts, data, &[], &all_marked()).unwrap_err().to_string();
        assert!(error.starts_with(words), "{error}");
    }
    // Without data nothing is lost: an interrupted first run goes on.
    let plan = init(&cluster, &gone, &none(), &[], &all_marked()).unwrap().to_string();
    assert!(plan.contains("create encryption-config"), "{plan}");
    // One control plane that has it is enough.
    let one = lost(ca, |host| match host {
        "cp2" => Observed::Fingerprint("f".into()),
        _ => Observed::Differs("/etc/kubernetes/pki/ca.key is missing".into()),
    });
    let plan = init(&cluster, &one, &data, &[], &all_marked()).unwrap().to_string();
    assert!(plan.contains("replace ca from cp2"), "{plan}");
}

#[test]
fn an_authority_that_one_host_has_is_copied_never_made_again() {
    let cluster = cluster();
    let hosts = seen(&cluster, |host, resource| match resource {
        Resource::Shared { .. } if host != "cp2" => Observed::Missing,
        other => well(host, other),
    });
    let plan = init(&cluster, &hosts, &none(), &[], &all_marked()).unwrap();
    let text = plan.to_string();
    assert!(!text.contains("create ca") && text.contains("cp1        copy ca from cp2"), "{text}");
}

#[test]
fn a_new_binary_restarts_what_runs_it_in_the_phases_after() {
    let cluster = cluster();
    let hosts = seen(&cluster, |host, resource| match resource {
        Resource::Link { path, .. } if path.ends_with("/kubelet") => Observed::Differs("links to another build".into()),
        other => well(host, other),
    });
    let text = init(&cluster, &hosts, &none(), &[], &all_marked()).unwrap().to_string();
    for host in ["cp1", "w2"] {
        let line = format!("{host:<10} restart kubelet.service (/usr/local/bin/kubelet changes)");
        assert!(text.contains(&line), "{line} is missing in:\n{text}");
    }
    assert!(!text.contains("restart kube-proxy.service"), "{text}");
}

#[test]
fn a_kubelet_restarts_when_it_is_led_elsewhere() {
    let cluster = cluster();
    let hosts = seen(&cluster, |host, resource| match resource {
        Resource::ClusterOf { .. } if host == "w1" => Observed::Differs("its server is not https://x".into()),
        other => well(host, other),
    });
    let text = init(&cluster, &hosts, &none(), &[], &all_marked()).unwrap().to_string();
    assert!(text.contains("w1         change /etc/kubernetes/kubelet.conf (its server is not https://x)"), "{text}");
    assert!(text.contains("w1         restart kubelet.service") && text.ends_with("2 changes\n"), "{text}");
}

#[test]
fn etcd_without_quorum_is_started_everywhere_at_once() {
    let cluster = cluster();
    // The first member runs and waits for its peers.
    let hosts = seen(&cluster, |host, resource| match resource {
        Resource::Healthy { .. } => Observed::Missing,
        Resource::Unit { name, .. } if name == "etcd.service" && host != "cp1" => {
            Observed::Differs("the distribution's runs".into())
        }
        other => well(host, other),
    });
    let plan = init(&cluster, &hosts, &none(), &[], &all_marked()).unwrap();
    assert!(!plan.stages.iter().find(|s| s.phase == Phase::Etcd).unwrap().serial, "{plan}");
}

#[test]
fn a_member_that_is_down_comes_before_those_that_serve() {
    let cluster = cluster();
    let hosts = seen(&cluster, |host, resource| match resource {
        Resource::Healthy { .. } if host == "cp3" => Observed::Missing,
        Resource::Unit { name, .. } if name == "etcd.service" => Observed::Differs("flags differ".into()),
        other => well(host, other),
    });
    let plan = init(&cluster, &hosts, &none(), &[], &all_marked()).unwrap();
    let stages: Vec<_> = plan.stages.iter().filter(|s| s.phase == Phase::Etcd).collect();
    let order = |stage: &crate::plan::PlanStage| {
        let mut hosts: Vec<_> = stage.steps.iter().filter_map(|s| s.host.clone()).collect();
        hosts.dedup();
        (stage.serial, hosts)
    };
    let stages: Vec<_> = stages.into_iter().map(order).collect();
    assert_eq!(stages, [(false, vec!["cp3".to_owned()]), (true, vec!["cp1".to_owned(), "cp2".to_owned()])]);
}

#[test]
fn a_changed_file_restarts_its_readers_one_host_after_the_other() {
    let cluster = cluster();
    let hosts = seen(&cluster, |host, resource| match resource {
        Resource::File(f) if f.path.ends_with("kube-apiserver.service") => Observed::Differs("content differs".into()),
        other => well(host, other),
    });
    let plan = init(&cluster, &hosts, &none(), &[], &all_marked()).unwrap();
    let stage = plan.stages.iter().find(|s| s.phase == Phase::ControlPlane && s.serial).unwrap();
    let cp1: Vec<String> =
        stage.steps.iter().filter(|s| s.host.as_deref() == Some("cp1")).map(|s| s.change.to_string()).collect();
    assert_eq!(cp1.len(), 3, "{cp1:?}");
    assert!(
        cp1[1].starts_with("restart kube-apiserver.service")
            && cp1[2].starts_with("wait for https://192.0.2.11:6443/readyz"),
        "{cp1:?}"
    );
}

/// What etcd says on each of these hosts, all of them members and well; cp1 leads.
fn etcd(members: &[&str]) -> BTreeMap<String, EtcdStatus> {
    let cluster = cluster();
    let spec = |name: &str| cluster.spec.hosts.iter().find(|h| h.name == name).unwrap();
    let member = |name: &&str| EtcdMember {
        id: id(name),
        name: (*name).to_owned(),
        peer_urls: vec![spec(name).peer_url()],
        client_urls: vec!["https://c:2379".to_owned()],
        learner: false,
    };
    let list: Vec<EtcdMember> = members.iter().map(member).collect();
    let status =
        |name: &&str| EtcdStatus { id: id(name), members: list.clone(), leader: id("cp1"), ..EtcdStatus::default() };
    members.iter().map(|name| ((*name).to_owned(), status(name))).collect()
}

fn id(name: &str) -> u64 {
    u64::from(name.as_bytes()[2])
}

/// A cluster that runs, with these members of etcd.
fn running(members: &[&str]) -> Situation {
    let cluster = cluster();
    let node = |host: &HostSpec| {
        let state = NodeState {
            labelled: host.is(Role::ControlPlane),
            tainted: host.is(Role::ControlPlane),
            ready: true,
            cordoned: false,
        };
        (host.name.clone(), state)
    };
    Situation {
        hosts: seen(&cluster, well),
        with_data: members.iter().map(|m| (*m).to_owned()).collect(),
        etcd: etcd(members),
        nodes: cluster.spec.hosts.iter().filter(|h| h.is_node()).map(node).collect(),
        ..Situation::default()
    }
}

fn leave(seen: &mut Situation, cluster: &mut Cluster, name: &str, reachable: bool) {
    let host = cluster.spec.hosts.iter().find(|h| h.name == name).unwrap().clone();
    cluster.spec.hosts.retain(|h| h.name != name);
    let own = seen.hosts.remove(name);
    if !reachable {
        seen.etcd.remove(name);
    }
    seen.leaving.push(Leaving { host, seen: own.filter(|_| reachable) });
}

/// The steps of a plan, `host step` each.
fn lines(plan: &Plan) -> Vec<String> {
    let line = |s: &Step| format!("{} {}", s.host.as_deref().unwrap_or("cluster"), s.change);
    plan.steps().map(line).collect()
}

#[track_caller]
fn in_order(plan: &Plan, expected: &[&str]) {
    let lines = lines(plan);
    let mut rest = lines.iter();
    for line in expected {
        assert!(rest.any(|l| l.starts_with(line)), "{line:?} is missing, or out of order, in\n{}", lines.join("\n"));
    }
}

#[test]
fn a_cluster_that_runs_is_left_alone() {
    let plan = super::tests::plan(&cluster(), &running(&["cp1", "cp2", "cp3"])).unwrap();
    assert_eq!(plan.changes(), 0, "{plan}");
}

#[test]
fn hosts_join_etcd_as_learners_one_after_the_other() {
    let cluster = cluster();
    let mut seen = running(&["cp1"]);
    for host in ["cp2", "cp3"] {
        for (_, resource, observed) in seen.hosts.get_mut(host).unwrap() {
            if !matches!(resource, Resource::Absent { .. } | Resource::Shared { .. }) {
                *observed = Observed::Missing;
            }
        }
    }
    let plan = super::tests::plan(&cluster, &seen).unwrap();
    in_order(
        &plan,
        &[
            "cp2 add etcd member cp2",
            "cp2 create /etc/kubernetes/etcd.env",
            "cp2 start etcd.service",
            "cp2 promote etcd member cp2",
            "cp2 wait for http://127.0.0.1:2381",
            "cp3 add etcd member cp3",
            "cp3 promote etcd member cp3",
        ],
    );
    let start = plan.steps().filter_map(|s| match &s.action {
        Action::Apply(Resource::File(f)) if f.path.ends_with("etcd.env") => Some(format!("{:?}", f.content)),
        _ => None,
    });
    let start: Vec<String> = start.collect();
    assert!(
        start[0].contains("STATE=existing") && start[0].contains("cp1=https") && !start[0].contains("cp3="),
        "{start:?}"
    );
    assert!(start[1].contains("cp2=https") && start[1].contains("cp3=https"), "{start:?}");
    assert!(!lines(&plan).iter().any(|l| l.starts_with("cp1 ") && l.contains("etcd")), "{plan}");
    assert!(plan.stages.iter().filter(|s| s.phase == Phase::Etcd).all(|s| s.serial));
}

#[test]
fn an_interrupted_join_is_finished() {
    let cluster = cluster();
    // Added, never started.
    let mut seen = running(&["cp1", "cp2"]);
    let mut all = etcd(&["cp1", "cp2", "cp3"]);
    for status in all.values_mut() {
        let third = &mut status.members[2];
        (third.name, third.client_urls, third.learner) = (String::new(), vec![], true);
    }
    let third = all.remove("cp3").unwrap();
    seen.etcd = all.clone();
    let text = plan(&cluster, &seen).unwrap().to_string();
    assert!(!text.contains("add etcd member") && text.contains("promote etcd member cp3"), "{text}");
    // It runs, and has no vote yet.
    seen.etcd.insert("cp3".into(), third);
    seen.with_data.insert("cp3".into());
    let text = plan(&cluster, &seen).unwrap().to_string();
    assert!(!text.contains("etcd.env") && text.contains("promote etcd member cp3"), "{text}");
}

#[test]
fn a_member_without_its_data_comes_back_as_a_new_one() {
    let cluster = cluster();
    let mut seen = running(&["cp1", "cp2", "cp3"]);
    seen.with_data.remove("cp2");
    seen.etcd.remove("cp2");
    let plan = super::tests::plan(&cluster, &seen).unwrap();
    in_order(&plan, &["cp2 remove etcd member 32 (the host has no data", "cp2 add etcd member cp2", "cp2 promote"]);
    // Data of a member that was removed meanwhile is no use.
    let mut seen = running(&["cp1", "cp2", "cp3"]);
    seen.etcd = etcd(&["cp1", "cp2"]);
    let plan = super::tests::plan(&cluster, &seen).unwrap();
    in_order(
        &plan,
        &["cp3 stop etcd.service", "cp3 remove /var/lib/etcd/member (data of a member", "cp3 add etcd member"],
    );
}

#[test]
fn an_amnesiac_never_starts_among_members_without_a_leader() {
    let cluster = cluster();
    let mut seen = running(&["cp1", "cp2", "cp3"]);
    seen.etcd.clear();
    seen.with_data.remove("cp2");
    let error = plan(&cluster, &seen).unwrap_err().to_string();
    assert!(
        error.starts_with("cp2 cannot become a member of etcd: etcd has no leader. cp1 has the cluster's data"),
        "{error}"
    );
    // The first start of all members was interrupted: then it is no amnesiac.
    for (_, resource, observed) in seen.hosts.values_mut().flatten() {
        if matches!(resource, Resource::Unit { name, .. } if name == "kube-apiserver.service") {
            *observed = Observed::Missing;
        }
    }
    assert!(plan(&cluster, &seen).is_ok());
}

#[test]
fn a_control_plane_leaves_in_order() {
    let (mut cluster, mut seen) = (cluster(), running(&["cp1", "cp2", "cp3"]));
    for (_, resource, observed) in seen.hosts.get_mut("lb1").unwrap() {
        if matches!(resource, Resource::File(f) if f.path.ends_with("haproxy.cfg")) {
            *observed = Observed::Differs("content differs".into());
        }
    }
    seen.objects = vec![(Phase::UploadConfig, file_object(), ObjectState::Differs)];
    leave(&mut seen, &mut cluster, "cp1", true);
    let leaves = plan(&cluster, &seen).unwrap();
    in_order(
        &leaves,
        &[
            "lb1 change /etc/haproxy/haproxy.cfg",
            "lb1 reload haproxy.service",
            "cluster drain node cp1",
            "cp1 stop kube-apiserver.service",
            "cluster remove etcd member 31 of cp1",
            "cp1 reset the host",
            "cluster delete node cp1",
            "cluster change ConfigMap kube-system/kinit-config",
        ],
    );
    let via = leaves.steps().find_map(|s| match &s.action {
        Action::EtcdRemove { via, .. } => Some(via.clone()),
        _ => None,
    });
    assert_eq!(via.as_deref(), Some("cp2"), "not asked of the one that leaves");
}

#[test]
fn what_is_in_the_way_is_deleted() {
    let (cluster, mut seen) = (cluster(), running(&["cp1", "cp2", "cp3"]));
    let id = crate::plan::ObjectId {
        kind: "APIService".into(),
        namespace: String::new(),
        name: "v1beta1.metrics.k8s.io".into(),
    };
    seen.objects = vec![(Phase::UploadConfig, id, ObjectState::Unwanted)];
    in_order(&plan(&cluster, &seen).unwrap(), &["cluster delete APIService v1beta1.metrics.k8s.io"]);
}

#[test]
fn a_dead_control_plane_is_forgotten_before_another_joins() {
    let (mut cluster, mut seen) = (cluster(), running(&["cp1", "cp2"]));
    seen.etcd = etcd(&["cp1", "cp2", "cp3"]);
    let mut new = cluster.spec.hosts.iter().find(|h| h.name == "cp3").unwrap().clone();
    leave(&mut seen, &mut cluster, "cp3", false);
    (new.name, new.address) = ("cp4".into(), "192.0.2.14".into());
    seen.hosts.insert(
        "cp4".into(),
        super::tests::seen(
            &{
                let mut with = cluster.clone();
                with.spec.hosts.push(new.clone());
                with
            },
            |_, r| {
                if matches!(r, Resource::Shared { .. }) { Observed::Fingerprint("f".into()) } else { Observed::Missing }
            },
        )
        .remove("cp4")
        .unwrap(),
    );
    cluster.spec.hosts.push(new);
    let plan = super::tests::plan(&cluster, &seen).unwrap();
    in_order(&plan, &["cluster remove etcd member 33 of cp3", "cp4 add etcd member cp4", "cluster delete node cp3"]);
    let text = plan.to_string();
    assert!(!text.contains("drain") && !text.contains("reset the host"), "{text}");
}

#[test]
fn etcd_never_loses_its_quorum() {
    // Two healthy of three: the healthy ones stay.
    let (mut cluster, mut seen) = (cluster(), running(&["cp1", "cp2", "cp3"]));
    seen.etcd.remove("cp3");
    leave(&mut seen, &mut cluster, "cp2", true);
    let error = plan(&cluster, &seen).unwrap_err().to_string();
    assert!(error.starts_with("removing etcd's member on cp2 would leave 1 healthy of 2 members"), "{error}");
    // The last one stays too.
    let (mut cluster, mut seen) = (super::tests::cluster(), running(&["cp1"]));
    cluster.spec.hosts.retain(|h| !["cp2", "cp3"].contains(&h.name.as_str()));
    leave(&mut seen, &mut cluster, "cp1", true);
    let error = plan(&cluster, &seen).unwrap_err().to_string();
    assert!(error.contains("cp1 is the last control plane"), "{error}");
}

#[test]
fn hosts_that_a_run_does_not_need_may_be_down() {
    let (mut cluster, mut seen) = (cluster(), running(&["cp1", "cp2", "cp3"]));
    seen.hosts.remove("w2");
    seen.unreachable.insert("w2".into(), "no route to host".into());
    let error = plan(&cluster, &seen).unwrap_err().to_string();
    assert!(error.starts_with("w2 cannot be reached: no route to host"), "{error}");
    seen.scope = Scope::Hosts(["w1".to_owned()].into());
    assert!(plan(&cluster, &seen).is_ok());
    // A dead worker is removed.
    seen.scope = Scope::Hosts(BTreeSet::new());
    leave(&mut seen, &mut cluster, "w2", false);
    let plan = super::tests::plan(&cluster, &seen).unwrap();
    assert_eq!(lines(&plan), ["cluster wait for the API at the control-plane endpoint", "cluster delete node w2"]);
}

#[test]
fn a_control_plane_becomes_a_worker() {
    let (mut cluster, mut seen) = (cluster(), running(&["cp1", "cp2", "cp3"]));
    cluster.spec.hosts.iter_mut().find(|h| h.name == "cp2").unwrap().roles = vec![Role::Worker];
    seen.hosts = super::tests::seen(&cluster, well);
    for (phase, resource, observed) in seen.hosts.get_mut("cp2").unwrap() {
        if *phase == Phase::CleanupNode && !matches!(resource, Resource::Unit { name, .. } if name == "haproxy.service")
        {
            *observed = Observed::Differs("is left".into());
        }
    }
    let plan = super::tests::plan(&cluster, &seen).unwrap();
    in_order(
        &plan,
        &[
            "cluster label node cp2 as a worker alone",
            "cp2 stop kube-apiserver.service",
            "cluster remove etcd member 32 of cp2",
            "cp2 stop etcd.service",
            "cp2 remove /etc/kubernetes/pki/ca.key",
        ],
    );
    assert!(!plan.to_string().contains("drain"), "{plan}");
    // A member is not asked to remove itself.
    let (mut cluster, mut seen) = (super::tests::cluster(), running(&["cp1", "cp2", "cp3"]));
    cluster.spec.hosts.iter_mut().find(|h| h.name == "cp1").unwrap().roles = vec![Role::Worker];
    seen.hosts = super::tests::seen(&cluster, well);
    let plan = super::tests::plan(&cluster, &seen).unwrap();
    let via = plan.steps().find_map(|s| match &s.action {
        Action::EtcdRemove { via, .. } => Some(via.as_str()),
        _ => None,
    });
    assert_eq!(via, Some("cp2"));
}

#[test]
fn a_plan_survives_being_written_down() {
    let cluster = cluster();
    let plan = init(&cluster, &seen(&cluster, |_, _| Observed::Missing), &none(), &[], &BTreeSet::new()).unwrap();
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    assert!(!text.contains("PRIVATE KEY"));
}
