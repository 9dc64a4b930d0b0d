//! Resources of a phase that differ, for all hosts. What serves must go on serving: first the hosts that do not serve,
//! all at once; then those that do, one after the other.

use std::collections::BTreeSet;

use kinit_config::{Cluster, HostSpec};
use kinit_manifests::{PKI, Phase};
use kinit_resource::{Observed, Resource, UnitState, compare};

use crate::certs::signer;
use crate::plan::{Action, Plan, Step};
use crate::situation::{HostObservation, Situation};

/// Adds the steps of a phase for all hosts that the run covers, but for those in `without`.
pub(crate) fn steps(cluster: &Cluster, phase: Phase, seen: &Situation, without: &BTreeSet<String>, plan: &mut Plan) {
    let by = signer(cluster, seen);
    let (mut at_once, mut in_turn) = (Vec::new(), Vec::new());
    let covered = |host: &&HostSpec| seen.scope.covers(host, phase) && !without.contains(&host.name);
    for host in cluster.spec.hosts.iter().filter(covered) {
        let Some(own) = seen.hosts.get(&host.name) else { continue };
        let resources = own.iter().filter(|(p, _, _)| *p == phase);
        let lane = lane(&host.name, &by, resources, written_before(plan, &host.name));
        let disrupts = lane.iter().any(|step| matches!(&step.action, Action::Apply(resource) if is_unit(resource)));
        if disrupts && serves(phase, own) { in_turn.extend(lane) } else { at_once.extend(lane) }
    }
    plan.push(phase, false, at_once);
    plan.push(phase, true, in_turn);
}

/// What a host's earlier steps write.
pub(crate) fn written_before(plan: &Plan, host: &str) -> BTreeSet<String> {
    plan.steps().filter(|s| s.host.as_deref() == Some(host)).filter_map(|s| written(&s.action)).collect()
}

/// One host's steps of a phase. A unit that runs well now must still be restarted when this run changes a file that it
/// reads, and then be waited for.
pub(crate) fn lane<'a>(
    host: &str,
    signer: &str,
    seen: impl Iterator<Item = &'a (Phase, Resource, Observed)>,
    mut changed: BTreeSet<String>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut restarted = false;
    for (_, resource, observed) in seen {
        let touched = match (resource, observed) {
            (Resource::Unit { state: UnitState::Running { reads, .. }, .. }, Observed::AsWanted) => {
                reads.iter().find(|r| changed.contains(*r))
            }
            _ => None,
        };
        let change = match (compare(resource, observed), touched) {
            (Some(change), _) => Some(change),
            (None, Some(file)) => compare(resource, &Observed::Differs(format!("{file} changes"))),
            (None, None) if restarted && matches!(resource, Resource::Healthy { .. }) => {
                compare(resource, &Observed::Missing)
            }
            (None, None) => None,
        };
        let Some(change) = change else { continue };
        restarted |= is_unit(resource);
        let action = match resource {
            Resource::Leaf(leaf) if matches!(observed, Observed::Signed(_)) => Action::Install(leaf.clone()),
            Resource::Leaf(leaf) => Action::Issue { leaf: leaf.clone(), by: signer.to_owned() },
            other => Action::Apply(other.clone()),
        };
        changed.extend(written(&action));
        steps.push(Step::on(host, action, change));
    }
    steps
}

/// Whether users of the phase's units would miss this host: its health checks pass or, where there are none, a unit
/// runs.
fn serves(phase: Phase, seen: &HostObservation) -> bool {
    let of = |wanted: fn(&Resource) -> bool| seen.iter().filter(move |(p, r, _)| *p == phase && wanted(r));
    let mut checks = of(|r| matches!(r, Resource::Healthy { .. })).peekable();
    if checks.peek().is_some() {
        return checks.all(|(_, _, o)| *o == Observed::AsWanted);
    }
    of(is_unit).any(|(_, _, o)| matches!(o, Observed::AsWanted | Observed::Differs(_)))
}

pub(crate) fn is_unit(resource: &Resource) -> bool {
    matches!(resource, Resource::Unit { state: UnitState::Running { .. }, .. })
}

fn written(action: &Action) -> Option<String> {
    match action {
        Action::Apply(Resource::File(file)) => Some(file.path.clone()),
        Action::Apply(Resource::Link { path, .. } | Resource::Blob { path, .. }) => Some(path.clone()),
        Action::Apply(Resource::ClusterOf { stamp, .. }) => Some(stamp.clone()),
        Action::Apply(Resource::PackageVersions { program, .. }) => Some(program.clone()),
        Action::Issue { leaf, .. } | Action::Install(leaf) => Some(leaf.path()),
        Action::Copy { shared, .. } => Some(format!("{PKI}/{}", shared.files().0?)),
        _ => None,
    }
}
