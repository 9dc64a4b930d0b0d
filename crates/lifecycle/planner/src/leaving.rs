//! Hosts that leave, and what hosts have no more use for.
//!
//! ```text
//! load balancers forget it (before) ─► drain ─► etcd forgets it ─► the host is given back ─► its Node is deleted
//! ```
//!
//! A host that cannot be reached is forgotten in the same order, without what needs it.

use std::collections::BTreeSet;

use kinit_config::{Cluster, HostSpec, Role};
use kinit_manifests::Phase;
use kinit_resource::Change;

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

/// The steps of the phases after `verify`.
pub(crate) fn steps(cluster: &Cluster, seen: &Situation, demoted: &[Leaving], plan: &mut Plan) {
    let reached = || seen.leaving.iter().filter(|leaving| leaving.seen.is_some());
    let drains = reached().filter(|leaving| seen.nodes.contains_key(&leaving.host.name)).map(|leaving| {
        let name = leaving.host.name.clone();
        Step::of_cluster(Action::Drain(name.clone()), Change::new("drain", format!("node {name}")))
    });
    plan.push(Phase::Drain, true, drains.collect());
    let via = members::via(seen);
    let removals = reached().chain(demoted).filter_map(|leaving| members::removal(leaving, seen, &via));
    plan.push(Phase::RemoveEtcdMember, true, removals.collect());
    // What a host has no more use for.
    lanes::steps(cluster, Phase::CleanupNode, seen, &BTreeSet::new(), plan);
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
