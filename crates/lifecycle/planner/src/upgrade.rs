//! The plan of `kinit upgrade`: that of every other operation, in the order that the version-skew policy asks for.
//!
//! ```text
//! up    backup ─► control planes, one after the other ─► nodes: control planes' first, then workers, some at once
//! down  backup ─► nodes ─► control planes
//! ```
//!
//! Programs are placed on all hosts before anything changes, and switched within a host's turn.

use std::collections::{BTreeMap, BTreeSet};

use kinit_config::{Cluster, Role};
use kinit_manifests::Phase;
use kinit_resource::{Change, Resource};

use crate::cluster;
use crate::lanes::is_unit;
use crate::operation::Operation;
use crate::plan::{Action, Plan, PlanStage, Step};
use crate::refusal::Refused;
use crate::situation::Situation;
use crate::skew::Direction;

/// How an upgrade goes.
#[derive(Debug, Clone)]
pub struct Upgrade {
    /// To later versions, or back.
    pub direction: Direction,
    /// Workers that may be unavailable at once.
    pub max_unavailable: usize,
    /// Nodes that are drained before their turn.
    pub drain: BTreeSet<String>,
    /// Nodes are left as they are.
    pub only_control_plane: bool,
    /// A backup is made first.
    pub backup: bool,
}

/// How long a program must stay up that has no health check: those that fail at their start do so at once.
const STEADY: u32 = 3;

/// Makes the plan, or says everything that speaks against it.
pub fn upgrade(cluster: &Cluster, seen: &Situation, how: &Upgrade) -> Result<Plan, Refused> {
    let mut plan = cluster::plan(Operation::Apply, cluster, seen)?;
    for stage in plan.stages.iter_mut().filter(|stage| stage.phase == Phase::ControlPlane) {
        stage.steps = steadied(std::mem::take(&mut stage.steps));
        // Whatever else: API servers of two versions are side by side for as short as can be, and never all away.
        stage.serial = true;
    }
    let of_nodes = |stage: &PlanStage| matches!(stage.phase, Phase::KubeletStart | Phase::Network);
    let mut nodes: BTreeMap<String, Vec<Step>> = BTreeMap::new();
    for stage in plan.stages.extract_if(.., |stage| of_nodes(stage)) {
        for step in stage.steps {
            nodes.entry(step.host.clone().unwrap_or_default()).or_default().push(step);
        }
    }
    if how.only_control_plane {
        nodes.clear();
    }
    let stages = node_stages(cluster, seen, how, nodes);
    let operation = match how.direction {
        Direction::Up => Operation::Upgrade,
        Direction::Down => Operation::Rollback,
    };
    let at = operation.place(Phase::UpgradeNode, &plan);
    plan.stages.splice(at..at, stages);
    if how.backup && plan.changes() > 0 {
        let change = Change::new("make", "a backup, and prove that it can be restored");
        let steps = vec![Step::of_cluster(Action::Backup, change)];
        plan.stages.insert(0, PlanStage { phase: Phase::Backup, serial: false, steps });
    }
    Ok(plan)
}

/// Programs without a health check of their own are watched for a moment.
fn steadied(steps: Vec<Step>) -> Vec<Step> {
    let mut all = Vec::with_capacity(steps.len());
    for step in steps {
        let unit = match &step.action {
            Action::Apply(resource @ Resource::Unit { name, .. }) if is_unit(resource) => Some(name.clone()),
            _ => None,
        };
        let host = step.host.clone();
        all.push(step);
        if let Some(unit) = unit.filter(|unit| unit.ends_with(".service") && unit != "kube-apiserver.service") {
            let change = Change::wait(format!("{unit} to stay up for {STEADY} s"));
            let action = Action::Apply(Resource::Steady { unit, seconds: STEADY });
            all.push(Step { host, action, change });
        }
    }
    all
}

/// Nodes that change, as stages of those that may change at once; control planes one after the other.
fn node_stages(
    cluster: &Cluster,
    seen: &Situation,
    how: &Upgrade,
    mut steps: BTreeMap<String, Vec<Step>>,
) -> Vec<PlanStage> {
    let mut lane = |name: &str| lane(name, seen, how, steps.remove(name).unwrap_or_default());
    let (first, rest): (Vec<_>, Vec<_>) =
        cluster.spec.hosts.iter().filter(|host| host.is_node()).partition(|host| host.is(Role::ControlPlane));
    let servers: Vec<Step> = first.iter().flat_map(|host| lane(&host.name)).collect();
    let workers: Vec<Vec<Step>> = rest.iter().map(|host| lane(&host.name)).filter(|lane| !lane.is_empty()).collect();
    let mut stages = vec![PlanStage { phase: Phase::UpgradeNode, serial: true, steps: servers }];
    for group in workers.chunks(how.max_unavailable.max(1)) {
        stages.push(PlanStage { phase: Phase::UpgradeNode, serial: false, steps: group.concat() });
    }
    stages.retain(|stage| !stage.steps.is_empty());
    stages
}

/// A node's turn.
fn lane(name: &str, seen: &Situation, how: &Upgrade, steps: Vec<Step>) -> Vec<Step> {
    let node = seen.nodes.get(name);
    let restarts = steps.iter().any(|step| matches!(&step.action, Action::Apply(resource) if is_unit(resource)));
    let drains = restarts && node.is_some() && how.drain.contains(name);
    let mut lane = Vec::new();
    if drains {
        let change = Change::new("drain", format!("node {name}"));
        lane.push(Step::on(name, Action::Drain(name.to_owned()), change));
    }
    lane.extend(steps);
    if restarts {
        let change = Change::wait(format!("node {name} to be Ready"));
        lane.push(Step::on(name, Action::WaitForNodes(vec![name.to_owned()]), change));
    }
    // An earlier run may have been interrupted after it had cordoned the node.
    if drains || node.is_some_and(|node| node.cordoned) {
        let change = Change::new("uncordon", format!("node {name}"));
        lane.push(Step::on(name, Action::Uncordon(name.to_owned()), change));
    }
    lane
}

#[cfg(test)]
#[path = "upgrade_tests.rs"]
mod tests;
