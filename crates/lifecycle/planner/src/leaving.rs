//! Hosts that leave, and what hosts have no more use for.
//!
//! ```text
//! load balancers forget it (before) ─► drain ─► its API server stops ─► etcd forgets it ─► the host is given back
//!                                                                                         ─► its Node is deleted
//! ```
//!
//! A host that cannot be reached is forgotten in the same order, without what needs it.

use std::collections::BTreeSet;

use kinit_config::{Cluster, HostSpec, Role};
use kinit_manifests::Phase;
use kinit_resource::{Change, Resource, UnitState};

use crate::lanes;
use crate::members;
use crate::plan::{Action, Plan, Step};
use crate::situation::{Leaving, Situation};

/// Hosts that stay without being control planes any more.
pub(crate) fn demoted<'a>(cluster: &'a Cluster, seen: &'a Situation) -> Vec<Leaving> {
    let Some(view) = seen.etcd_view() else { return Vec::new() };
    let no_more = |host: &&HostSpec| {
        !host.is(Role::ControlPlane)
            && seen.scope.covers(host, Phase::RemoveEtcdMember)
            && view.by_peer_url(&host.peer_url()).is_some()
    };
    let as_leaving = |host: &HostSpec| Leaving { host: host.clone(), seen: seen.hosts.get(&host.name).cloned() };
    cluster.spec.hosts.iter().filter(no_more).map(as_leaving).collect()
}

/// What uses a control plane's member of etcd: stopped while that still answers, so that clients' connections end
/// cleanly and etcd does not wait for them.
const SERVERS: [&str; 5] = [
    "metrics-server.service",
    "cloud-controller-manager.service",
    "kube-scheduler.service",
    "kube-controller-manager.service",
    "kube-apiserver.service",
];

fn stop(host: &str, unit: &str) -> Step {
    let resource = Resource::Unit { name: unit.to_owned(), state: UnitState::Stopped };
    Step::on(host, Action::Apply(resource), Change::new("stop", unit))
}

/// Takes the steps that stop [`SERVERS`] out of a plan.
fn servers_first(mut plan: Plan) -> (Vec<Step>, Plan) {
    let is_server = |step: &Step| match &step.action {
        Action::Apply(Resource::Unit { name, state: UnitState::Stopped }) => SERVERS.contains(&name.as_str()),
        _ => false,
    };
    let mut stops: Vec<Step> = Vec::new();
    for stage in &mut plan.stages {
        stops.extend(stage.steps.extract_if(.., |step| is_server(step)));
    }
    plan.stages.retain(|stage| !stage.steps.is_empty());
    (stops, plan)
}

/// The steps of the phases after `verify`.
pub(crate) fn steps(cluster: &Cluster, seen: &Situation, demoted: &[Leaving], plan: &mut Plan) {
    let reached = || seen.leaving.iter().filter(|leaving| leaving.seen.is_some());
    let drains = reached().filter(|leaving| seen.nodes.contains_key(&leaving.host.name)).map(|leaving| {
        let name = leaving.host.name.clone();
        Step::of_cluster(Action::Drain(name.clone()), Change::new("drain", format!("node {name}")))
    });
    plan.push(Phase::Drain, true, drains.collect());
    // What a host has no more use for.
    let mut cleanup = Plan::default();
    lanes::steps(cluster, Phase::CleanupNode, seen, &BTreeSet::new(), &mut cleanup);
    let (mut stops, rest) = servers_first(cleanup);
    let control_planes = reached().filter(|leaving| leaving.host.is(Role::ControlPlane));
    let has_pools = !cluster.spec.load_balancer_pools.is_empty();
    let is_measured = cluster.spec.metrics_server.enabled;
    let there = |unit: &&&str| match **unit {
        "metrics-server.service" => is_measured,
        "cloud-controller-manager.service" => has_pools,
        _ => true,
    };
    stops.extend(control_planes.flat_map(|leaving| {
        SERVERS.iter().filter(there).map(|unit| stop(&leaving.host.name, unit)).collect::<Vec<_>>()
    }));
    plan.push(Phase::RemoveEtcdMember, false, stops);
    let via = members::via(seen, demoted);
    let removals = reached().chain(demoted).filter_map(|leaving| members::removal(leaving, seen, &via));
    plan.push(Phase::RemoveEtcdMember, true, removals.collect());
    plan.stages.extend(rest.stages);
    let resets = reached().map(|leaving| {
        let change = Change::new("reset", "the host: everything of the cluster on it is deleted");
        Step::on(&leaving.host.name, Action::ResetHost, change)
    });
    plan.push(Phase::CleanupNode, false, resets.collect());
    let nodes = seen.leaving.iter().filter(|leaving| seen.nodes.contains_key(&leaving.host.name)).map(|leaving| {
        let name = leaving.host.name.clone();
        Step::of_cluster(Action::DeleteNode(name.clone()), Change::new("delete", format!("node {name}")))
    });
    plan.push(Phase::CleanupNode, false, nodes.collect());
}
