//! The plan of every operation that brings a cluster to what its file says: `init`, `apply`, `join`, `remove`. They
//! differ in what they were told and in what they accept, which the [`Situation`] holds; the steps are the same.

use std::collections::BTreeSet;

use kinit_config::{Cluster, HostSpec, Role};
use kinit_manifests::{BOOTSTRAP_KUBECONFIG, Phase};
use kinit_resource::{Change, Content, Observed, Resource};

use crate::operation::Operation;
use crate::plan::{Action, ObjectId, Plan, Step};
use crate::refusal::{PlanError, Refused};
use crate::situation::{Leaving, ObjectState, Situation};
use crate::{certs, lanes, leaving, members};

/// The object that keeps the cluster file. It is what tells the next run who leaves, so that it is changed last when
/// hosts do.
const CLUSTER_FILE: &str = "kinit-config";

/// Makes the plan of an operation, or says everything that speaks against it.
pub fn plan(operation: Operation, cluster: &Cluster, seen: &Situation) -> Result<Plan, Refused> {
    let mut errors = reachable(cluster, seen);
    let demoted = leaving::demoted(cluster, seen);
    let goes: Vec<&Leaving> = seen.leaving.iter().chain(&demoted).collect();
    members::quorum(members::joining(cluster, seen), &goes, seen, &mut errors);
    let mut plan = Plan::default();
    for phase in operation.phases() {
        match phase {
            Phase::Certs => {
                if let Err(error) = certs::steps(cluster, seen, &mut plan, &mut errors) {
                    errors.push(error);
                }
            }
            Phase::Etcd => members::steps(cluster, seen, &demoted, &mut plan, &mut errors),
            Phase::WaitControlPlane => plan.push(phase, false, vec![wait_for_api()]),
            Phase::UploadConfig | Phase::Addon => objects(phase, seen, &mut plan),
            Phase::BootstrapToken if needs_token(cluster, seen) => {
                let change = Change::new("create", "a bootstrap token for nodes without a certificate");
                plan.push(phase, false, vec![Step::of_cluster(Action::BootstrapToken, change)]);
            }
            Phase::MarkControlPlane => mark(cluster, seen, &mut plan),
            Phase::Verify => verify(cluster, seen, &mut plan),
            // Members and hosts that leave go in an order of their own.
            Phase::CleanupNode => leaving::steps(cluster, seen, &demoted, &mut plan),
            Phase::RecordCluster if leaves(seen) => {
                plan.push(phase, false, object_steps(seen, |id| id.name == CLUSTER_FILE).collect());
            }
            Phase::Drain | Phase::RemoveEtcdMember | Phase::RecordCluster | Phase::Backup | Phase::UpgradeNode => {}
            _ => lanes::steps(cluster, phase, seen, &BTreeSet::new(), &mut plan),
        }
    }
    if errors.is_empty() { Ok(plan) } else { Err(Refused(errors)) }
}

fn leaves(seen: &Situation) -> bool {
    !seen.leaving.is_empty()
}

/// Hosts that the run needs and that cannot be reached.
fn reachable(cluster: &Cluster, seen: &Situation) -> Vec<PlanError> {
    let control_planes_change = seen.leaving.iter().any(|leaving| leaving.host.is(Role::ControlPlane))
        || members::joining(cluster, seen) > 0
        || !leaving::demoted(cluster, seen).is_empty();
    // One of several may be down: its health checks find out who is gone, and its next run who is new.
    let balanced = cluster.hosts(Role::LoadBalancer).any(|host| !seen.unreachable.contains_key(&host.name));
    let missing = |host: &HostSpec| {
        let why = seen.unreachable.get(&host.name)?.clone();
        let host_name = host.name.clone();
        if seen.scope.covers(host, Phase::PrepareHosts) {
            return Some(PlanError::Unreachable { host: host_name, why });
        }
        let must_know = host.is(Role::LoadBalancer) && control_planes_change && !balanced;
        must_know.then_some(PlanError::LoadBalancerUnreachable { host: host_name, why })
    };
    let mut errors: Vec<PlanError> = cluster.spec.hosts.iter().filter_map(missing).collect();
    if seen.control_planes(cluster).next().is_none() {
        errors.push(PlanError::NoControlPlane);
    }
    errors
}

fn wait_for_api() -> Step {
    Step::of_cluster(Action::WaitForApi, Change::wait("the API at the control-plane endpoint"))
}

fn objects(phase: Phase, seen: &Situation, plan: &mut Plan) {
    let wanted = |id: &ObjectId| match &seen.scope {
        crate::situation::Scope::All => !(leaves(seen) && id.name == CLUSTER_FILE),
        // A run that is limited to some hosts changes nothing else.
        crate::situation::Scope::Hosts(_) => !leaves(seen) && id.name == CLUSTER_FILE,
    };
    let of_phase = |id: &ObjectId| wanted(id) && seen.objects.iter().any(|(p, o, _)| *p == phase && o == id);
    plan.push(phase, false, object_steps(seen, of_phase).collect());
}

fn object_steps(seen: &Situation, wanted: impl Fn(&ObjectId) -> bool) -> impl Iterator<Item = Step> {
    let differ = seen.objects.iter().filter(move |(_, id, state)| *state != ObjectState::AsWanted && wanted(id));
    differ.map(|(_, id, state)| {
        let verb = match state {
            ObjectState::Missing => "create",
            ObjectState::Unwanted => "delete",
            ObjectState::AsWanted | ObjectState::Differs => "change",
        };
        Step::of_cluster(Action::Object(id.clone()), Change::new(verb, id.to_string()))
    })
}

fn needs_token(cluster: &Cluster, seen: &Situation) -> bool {
    let covered = cluster.spec.hosts.iter().filter(|host| seen.scope.covers(host, Phase::KubeletStart));
    covered.filter_map(|host| seen.hosts.get(&host.name)).flatten().any(|(_, resource, observed)| {
        matches!(resource, Resource::File(f) if f.content == Content::Secret(BOOTSTRAP_KUBECONFIG.to_owned()))
            && *observed != Observed::AsWanted
    })
}

/// Labels and taints of roles.
fn mark(cluster: &Cluster, seen: &Situation, plan: &mut Plan) {
    let covered = cluster.spec.hosts.iter().filter(|h| h.is_node() && seen.scope.covers(h, Phase::MarkControlPlane));
    let steps = covered.filter_map(|host| {
        let (control_plane, worker) = (host.is(Role::ControlPlane), host.is(Role::Worker));
        let state = seen.nodes.get(&host.name);
        let now = state.map(|state| (state.labelled, state.tainted));
        // A node that registers does so with its taints; a label of this kind it may not give itself.
        let wanted = (control_plane, control_plane && !worker);
        let differs = match now {
            Some(now) => now != wanted,
            None => control_plane,
        };
        if !differs || seen.unreachable.contains_key(&host.name) {
            return None;
        }
        let what = if control_plane { "as control plane" } else { "as a worker alone" };
        let action = Action::MarkNode { node: host.name.clone(), control_plane, worker };
        Some(Step::of_cluster(action, Change::new("label", format!("node {} {what}", host.name))))
    });
    plan.push(Phase::MarkControlPlane, false, steps.collect());
}

fn verify(cluster: &Cluster, seen: &Situation, plan: &mut Plan) {
    let covered = |host: &&HostSpec| {
        host.is_node() && seen.scope.covers(host, Phase::Verify) && !seen.unreachable.contains_key(&host.name)
    };
    let nodes: Vec<String> = cluster.spec.hosts.iter().filter(covered).map(|host| host.name.clone()).collect();
    let mut steps = Vec::new();
    if !nodes.is_empty() {
        let what = match seen.scope {
            crate::situation::Scope::All => "all nodes to be Ready".to_owned(),
            crate::situation::Scope::Hosts(_) => format!("{} to be Ready", nodes.join(", ")),
        };
        steps.push(Step::of_cluster(Action::WaitForNodes(nodes), Change::wait(what)));
    }
    if seen.scope == crate::situation::Scope::All {
        steps.push(Step::of_cluster(Action::WaitForDns, Change::wait("cluster DNS")));
    }
    if plan.steps().any(|step| step.action == Action::BootstrapToken) {
        let change = Change::new("revoke", "the bootstrap token");
        steps.push(Step::of_cluster(Action::RevokeBootstrapToken, change));
    }
    plan.push(Phase::Verify, false, steps);
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
