//! The plan of a restore, and of a cluster that goes on from one survivor's data: what runs is stopped, one control
//! plane gets the data and the secrets, and from there on it is the plan of every other operation, made for what will
//! be there then.
//!
//! ```text
//! stop servers and etcd ─► put old data aside ─► the seed: secrets, data ─► plan(what there is now)
//!                                                                           ├ secrets are copied from the seed
//!                                                                           ├ others join as learners
//!                                                                           └ servers, nodes, DNS as in init
//! ```
//!
//! An interrupted run is told by a marker on the seed, written when the data are in place: from then on they are not
//! put there again, and members that have joined it already are left alone.

use std::collections::{BTreeMap, BTreeSet};

use kinit_config::{Cluster, HostSpec, Role};
use kinit_manifests::{ETCD_START, Phase};
use kinit_resource::{Change, EtcdMember, EtcdStatus, Observed, Resource, Shared, UnitState};

use crate::cluster::plan;
use crate::operation::Operation;
use crate::plan::{Action, Plan, PlanStage, Step};
use crate::refusal::{PlanError, Refused};
use crate::situation::{HostObservation, ObjectState, Situation, seen_shared};

/// What is restored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restoring {
    /// Tells this restore from others.
    pub id: String,
    /// Fingerprints of the secrets that the backup has whole; the others stay as they are on the hosts.
    pub shared: BTreeMap<Shared, String>,
    /// Hosts with a marker, and whose it is.
    pub markers: BTreeMap<String, String>,
    /// The control plane whose own data are the source, where no backup is.
    pub from: Option<String>,
}

/// What was running on a control plane, in the order in which it is stopped.
const UNITS: [&str; 4] =
    ["kube-scheduler.service", "kube-controller-manager.service", "kube-apiserver.service", "etcd.service"];

/// Makes the plan, or says everything that speaks against it.
pub fn restore(cluster: &Cluster, seen: &Situation, restoring: &Restoring) -> Result<Plan, Refused> {
    let placed = restoring.markers.iter().find(|(_, id)| **id == restoring.id).map(|(host, _)| host.as_str());
    let first = || seen.control_planes(cluster).next().map(|(host, _)| host.name.as_str());
    let wanted = placed.or(restoring.from.as_deref()).or_else(first);
    let seed = wanted.and_then(|name| cluster.hosts(Role::ControlPlane).find(|host| host.name == name));
    let Some(seed) = seed.filter(|host| seen.hosts.contains_key(&host.name)) else {
        return Err(Refused(vec![PlanError::NoControlPlane]));
    };
    let new = New::of(cluster, seen, seed, placed.is_some());
    let mut own = Plan::default();
    stop(cluster, seen, &new, &mut own);
    put_aside(cluster, seen, seed, &new, &mut own);
    if placed.is_none() {
        place(cluster, seen, seed, restoring, &mut own);
    }
    let later = foreseen(cluster, seen, seed, &new, restoring);
    let mut whole = plan(Operation::Apply, cluster, &later)?;
    let at = Operation::Restore.place(Phase::Restore, &whole);
    whole.stages.splice(at..at, own.stages);
    finish(cluster, seed, restoring, &mut whole);
    Ok(whole)
}

/// Members of the restored cluster that run already; none before the data are in place.
struct New {
    members: BTreeSet<String>,
}

impl New {
    fn of(cluster: &Cluster, seen: &Situation, seed: &HostSpec, placed: bool) -> Self {
        let view = seen.etcd.get(&seed.name).filter(|status| placed && status.leader != 0);
        let Some(view) = view else { return Self { members: BTreeSet::new() } };
        let is_member = |host: &&HostSpec| {
            seen.etcd.get(&host.name).is_some_and(|status| view.members.iter().any(|m| m.id == status.id))
        };
        Self { members: cluster.hosts(Role::ControlPlane).filter(is_member).map(|host| host.name.clone()).collect() }
    }

    fn has(&self, host: &HostSpec) -> bool {
        self.members.contains(&host.name)
    }
}

/// Control planes that are no members of the restored cluster yet stop, all at once: none may answer from the old data
/// any more.
fn stop(cluster: &Cluster, seen: &Situation, new: &New, plan: &mut Plan) {
    let mut steps = Vec::new();
    for (host, own) in seen.control_planes(cluster).filter(|(host, _)| !new.has(host)) {
        for unit in UNITS.into_iter().filter(|unit| runs(own, unit)) {
            let resource = Resource::Unit { name: unit.to_owned(), state: UnitState::Stopped };
            steps.push(Step::on(&host.name, Action::Apply(resource), Change::new("stop", unit)));
        }
    }
    plan.push(Phase::Restore, false, steps);
}

fn runs(own: &HostObservation, unit: &str) -> bool {
    own.iter().any(|(_, resource, observed)| match resource {
        Resource::Unit { name, state: UnitState::Running { .. } } => name == unit && *observed != Observed::Missing,
        _ => false,
    })
}

/// Data of the old cluster that lie on hosts which are to join the new one.
fn put_aside(cluster: &Cluster, seen: &Situation, seed: &HostSpec, new: &New, plan: &mut Plan) {
    let data_dir = cluster.spec.etcd.data_dir.clone();
    let has_old = |host: &&HostSpec| host.name != seed.name && !new.has(host) && seen.with_data.contains(&host.name);
    let aside = |host: &HostSpec| {
        let change = Change::new("put aside", format!("{data_dir}/member")).because("data before the restore");
        Step::on(&host.name, Action::PutDataAside { data_dir: data_dir.clone() }, change)
    };
    plan.push(Phase::Restore, false, cluster.hosts(Role::ControlPlane).filter(has_old).map(aside).collect());
}

/// The seed gets the secrets and the data.
fn place(cluster: &Cluster, seen: &Situation, seed: &HostSpec, restoring: &Restoring, plan: &mut Plan) {
    let own = seen.hosts.get(&seed.name);
    let differs = |shared: &Shared| {
        let wanted = restoring.shared.get(shared)?;
        let there = own.and_then(|own| seen_shared(own, *shared)).map(|(_, observed)| observed);
        (there != Some(&Observed::Fingerprint(wanted.clone()))).then_some(*shared)
    };
    let secrets = Shared::ALL.iter().filter_map(differs).map(|shared| {
        Step::on(
            &seed.name,
            Action::RestoreShared(shared),
            Change::new("restore", format!("{} from the backup", shared.name())),
        )
    });
    let mut steps: Vec<Step> = secrets.collect();
    let data_dir = cluster.spec.etcd.data_dir.clone();
    let what = match &restoring.from {
        Some(_) => format!("{data_dir}/member from a copy of its own data, as the only member"),
        None => format!("{data_dir}/member from the backup, as the only member; what is there is kept beside it"),
    };
    let action = Action::RestoreData {
        id: restoring.id.clone(),
        data_dir,
        name: seed.name.clone(),
        peer_url: seed.peer_url(),
        own: restoring.from.is_some(),
    };
    steps.push(Step::on(&seed.name, action, Change::new("restore", what)));
    plan.push(Phase::Restore, false, steps);
}

/// What will be seen when all of that is done.
fn foreseen(cluster: &Cluster, seen: &Situation, seed: &HostSpec, new: &New, restoring: &Restoring) -> Situation {
    let mut later = seen.clone();
    later.with_data.retain(|host| new.members.contains(host));
    later.with_data.insert(seed.name.clone());
    later.etcd.retain(|host, _| new.members.contains(host));
    if !new.has(seed) {
        later.etcd = BTreeMap::from([(seed.name.clone(), alone(seed))]);
        later.nodes.clear();
        later.objects.iter_mut().for_each(|(_, _, state)| *state = ObjectState::Missing);
    }
    for host in &cluster.spec.hosts {
        let Some(own) = later.hosts.get_mut(&host.name) else { continue };
        let reissued = changed(own, restoring);
        for (phase, resource, observed) in own.iter_mut() {
            match resource {
                Resource::Shared { shared, .. } if host.is(Role::ControlPlane) => {
                    secret(observed, restoring.shared.get(shared), host.name == seed.name);
                }
                Resource::Leaf(leaf) if reissued.contains(&Shared::Authority(leaf.leaf.authority())) => {
                    *observed = Observed::Missing;
                }
                _ if host.is(Role::ControlPlane) && !new.has(host) => {
                    stopped(*phase, resource, observed, host.name == seed.name);
                }
                _ => {}
            }
        }
    }
    later
}

/// A cluster of one.
fn alone(seed: &HostSpec) -> EtcdStatus {
    let client_urls = vec![format!("https://{}:2379", seed.address)];
    let member =
        EtcdMember { id: 1, name: seed.name.clone(), peer_urls: vec![seed.peer_url()], client_urls, learner: false };
    EtcdStatus { id: 1, leader: 1, members: vec![member], ..EtcdStatus::default() }
}

/// Authorities that will be others than the host has now.
fn changed(own: &HostObservation, restoring: &Restoring) -> BTreeSet<Shared> {
    let differs = |(shared, wanted): &(&Shared, &String)| match seen_shared(own, **shared) {
        Some((_, Observed::Fingerprint(there) | Observed::Public(there))) => there != *wanted,
        Some(_) => true,
        None => false,
    };
    restoring.shared.iter().filter(differs).map(|(shared, _)| *shared).collect()
}

/// A control plane's secret: the seed has the backup's, the others copy it where they have another one.
fn secret(observed: &mut Observed, wanted: Option<&String>, is_seed: bool) {
    let Some(wanted) = wanted else { return };
    if is_seed {
        *observed = Observed::Fingerprint(wanted.clone());
    } else if *observed != Observed::Fingerprint(wanted.clone()) {
        *observed = Observed::Missing;
    }
}

/// A resource of a control plane on which everything was stopped.
fn stopped(phase: Phase, resource: &Resource, observed: &mut Observed, is_seed: bool) {
    match resource {
        Resource::Unit { name, state: UnitState::Running { .. } } if UNITS.contains(&name.as_str()) => {
            *observed = Observed::Missing;
        }
        Resource::Healthy { .. } if matches!(phase, Phase::Etcd | Phase::ControlPlane) => *observed = Observed::Missing,
        // With data, etcd does not read it.
        Resource::File(file) if is_seed && file.path == ETCD_START => *observed = Observed::AsWanted,
        _ => {}
    }
}

/// Nodes of machines that are none any more go as soon as the API answers; the markers go last.
fn finish(cluster: &Cluster, seed: &HostSpec, restoring: &Restoring, plan: &mut Plan) {
    let keep = cluster.spec.hosts.iter().filter(|host| host.is_node()).map(|host| host.name.clone()).collect();
    let change = Change::new("delete", "nodes that are no hosts of the file");
    let step = Step::of_cluster(Action::DeleteOtherNodes { keep }, change);
    let at = Operation::Restore.place(Phase::WaitControlPlane, plan);
    plan.stages.insert(at, PlanStage { phase: Phase::WaitControlPlane, serial: false, steps: vec![step] });
    let marked = restoring.markers.keys().map(String::as_str).filter(|host| *host != seed.name);
    let done = |host: &str| Step::on(host, Action::FinishRestore, Change::new("finish", "the restore"));
    plan.push(Phase::Verify, false, marked.chain([seed.name.as_str()]).map(done).collect());
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
