use std::collections::BTreeMap;

use kinit_config::HostSpec;
use kinit_manifests::{Bundle, HostFacts, desired};
use kinit_resource::Observed;

use super::*;
use crate::situation::{HostObservation, NodeState};

fn cluster() -> Cluster {
    kinit_config::load(kinit_config::example()).unwrap()
}

/// Every program is another than the bundle's; everything else is as wanted. These hosts were done before.
fn seen(cluster: &Cluster, done: &[&str]) -> Situation {
    let observe = |host: &HostSpec| -> HostObservation {
        let wanted = desired(cluster, host, &HostFacts::default(), &Bundle::sample()).unwrap();
        let look = |resource: &Resource| match resource {
            Resource::Shared { .. } => Observed::Fingerprint("f".into()),
            Resource::Link { path, .. } if path.starts_with("/usr/local/bin/") && !done.contains(&&*host.name) => {
                Observed::Differs("links to another".into())
            }
            _ => Observed::AsWanted,
        };
        wanted.into_iter().map(|(phase, resource)| (phase, resource.clone(), look(&resource))).collect()
    };
    let node = |host: &HostSpec| {
        let control_plane = host.is(Role::ControlPlane);
        let state = NodeState { labelled: control_plane, tainted: control_plane, ready: true, cordoned: false };
        (host.name.clone(), state)
    };
    Situation {
        hosts: cluster.spec.hosts.iter().map(|host| (host.name.clone(), observe(host))).collect(),
        nodes: cluster.spec.hosts.iter().filter(|host| host.is_node()).map(node).collect(),
        ..Situation::default()
    }
}

fn how(direction: Direction, drain: &[&str]) -> Upgrade {
    Upgrade {
        direction,
        max_unavailable: 1,
        drain: drain.iter().map(|host| (*host).to_owned()).collect(),
        only_control_plane: false,
        backup: true,
    }
}

/// Phases, each with its hosts in the order of their turns.
fn turns(plan: &Plan) -> Vec<String> {
    let mut turns: Vec<String> = Vec::new();
    for stage in plan.stages.iter().filter(|stage| stage.steps.iter().any(|step| step.change.changes)) {
        let mut hosts: Vec<&str> = stage.steps.iter().map(|step| step.host.as_deref().unwrap_or("cluster")).collect();
        hosts.dedup();
        let how = if stage.serial { " then " } else { " and " };
        turns.push(format!("{}: {}", stage.phase.name(), hosts.join(how)));
    }
    turns
}

fn steps_of(plan: &Plan, host: &str, phase: Phase) -> Vec<String> {
    let stages = plan.stages.iter().filter(|stage| stage.phase == phase).flat_map(|stage| &stage.steps);
    stages.filter(|step| step.host.as_deref() == Some(host)).map(|step| step.change.to_string()).collect()
}

#[test]
fn control_planes_come_first_and_nodes_in_turns() {
    let cluster = cluster();
    let plan = upgrade(&cluster, &seen(&cluster, &[]), &how(Direction::Up, &["w1"])).unwrap();
    assert!(Operation::Upgrade.has_order_of(&plan), "{plan}");
    let expected = [
        "backup: cluster",
        "control-plane: cp1 then cp2 then cp3",
        "upgrade-node: cp1 then cp2 then cp3",
        "upgrade-node: w1",
        "upgrade-node: w2",
    ];
    assert_eq!(turns(&plan), expected, "{plan}");
    let w1 = steps_of(&plan, "w1", Phase::UpgradeNode);
    assert_eq!((w1.first().unwrap().as_str(), w1.last().unwrap().as_str()), ("drain node w1", "uncordon node w1"));
    assert!(w1.iter().any(|step| step == "wait for node w1 to be Ready"), "{w1:?}");
    assert!(!plan.to_string().contains("drain node w2"), "only those that need it");
    let cp1 = steps_of(&plan, "cp1", Phase::ControlPlane);
    let steady = "wait for kube-controller-manager.service to stay up for 3 s";
    let (server, manager) = (cp1.iter().position(|s| s.contains("6443/readyz")), cp1.iter().position(|s| s == steady));
    assert!(server.is_some() && server < manager, "{cp1:?}");
}

#[test]
fn workers_are_unavailable_together_as_far_as_that_is_allowed() {
    let cluster = cluster();
    let two = Upgrade { max_unavailable: 2, backup: false, ..how(Direction::Up, &[]) };
    let plan = upgrade(&cluster, &seen(&cluster, &["cp1", "cp2", "cp3"]), &two).unwrap();
    assert_eq!(turns(&plan), ["upgrade-node: w1 and w2"], "what was done before is not done again");
}

#[test]
fn the_way_back_begins_with_the_nodes() {
    let cluster = cluster();
    let plan = upgrade(&cluster, &seen(&cluster, &[]), &how(Direction::Down, &[])).unwrap();
    assert!(Operation::Rollback.has_order_of(&plan), "{plan}");
    let turns = turns(&plan);
    assert_eq!(turns.first().unwrap(), "backup: cluster");
    assert!(turns.last().unwrap().starts_with("control-plane: "), "{turns:?}");
}

#[test]
fn nodes_may_stay_as_they_are() {
    let cluster = cluster();
    let only = Upgrade { only_control_plane: true, ..how(Direction::Up, &["w1"]) };
    let plan = upgrade(&cluster, &seen(&cluster, &[]), &only).unwrap();
    assert_eq!(turns(&plan), ["backup: cluster", "control-plane: cp1 then cp2 then cp3"]);
}

#[test]
fn nothing_to_do_is_nothing_done() {
    let cluster = cluster();
    let all = ["cp1", "cp2", "cp3", "w1", "w2"];
    let mut seen = seen(&cluster, &all);
    let plan = upgrade(&cluster, &seen, &how(Direction::Up, &all)).unwrap();
    assert_eq!(plan.changes(), 0, "not even a backup: {plan}");
    // An interrupted run has left a node cordoned.
    seen.nodes.get_mut("w1").unwrap().cordoned = true;
    let plan = upgrade(&cluster, &seen, &how(Direction::Up, &all)).unwrap();
    assert_eq!(steps_of(&plan, "w1", Phase::UpgradeNode), ["uncordon node w1"]);
    // With a node that nobody can reach, no plan.
    seen.unreachable = BTreeMap::from([("w2".to_owned(), "no route".to_owned())]);
    assert!(upgrade(&cluster, &seen, &how(Direction::Up, &all)).is_err());
}

/// etcd, the balancer and the container runtime come from the bundle too: each within its host's turn, with the unit
/// that runs it restarted and waited for.
#[test]
fn packages_are_upgraded_in_turns_and_their_units_restarted() {
    let cluster = cluster();
    let mut bundle = Bundle::sample();
    bundle.packages.insert("debian-trixie".into(), "an index".into());
    let facts = HostFacts { release: "debian-trixie".into(), ..HostFacts::default() };
    let mut seen = seen(&cluster, &["cp1", "cp2", "cp3", "w1", "w2"]);
    for host in &cluster.spec.hosts {
        let look = |resource: &Resource| match resource {
            Resource::Shared { .. } => Observed::Fingerprint("f".into()),
            Resource::PackageVersions { .. } => Observed::Differs("1 -> 2".into()),
            _ => Observed::AsWanted,
        };
        let wanted = desired(&cluster, host, &facts, &bundle).unwrap();
        let observed = wanted.into_iter().map(|(phase, resource)| (phase, resource.clone(), look(&resource)));
        seen.hosts.insert(host.name.clone(), observed.collect());
    }
    let plan = upgrade(&cluster, &seen, &how(Direction::Up, &[])).unwrap();
    assert!(Operation::Upgrade.has_order_of(&plan), "{plan}");
    let expected = [
        "backup: cluster",
        "etcd: cp1 then cp2 then cp3",
        "load-balancer: lb1",
        "upgrade-node: cp1 then cp2 then cp3",
        "upgrade-node: w1",
        "upgrade-node: w2",
    ];
    assert_eq!(turns(&plan), expected, "{plan}");
    assert_eq!(
        steps_of(&plan, "cp2", Phase::Etcd),
        [
            "upgrade packages etcd-server (1 -> 2)",
            "restart etcd.service (/usr/bin/etcd changes)",
            "wait for http://127.0.0.1:2381/health",
        ]
    );
    let w1 = steps_of(&plan, "w1", Phase::UpgradeNode);
    assert_eq!(w1[0], "upgrade packages containerd runc containernetworking-plugins (1 -> 2)");
    assert_eq!(w1[1], "restart containerd.service (/usr/bin/containerd changes)");
    assert_eq!(w1.last().unwrap(), "wait for node w1 to be Ready");
}
