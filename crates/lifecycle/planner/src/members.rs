//! etcd's members: observed, not assumed.
//!
//! ```text
//! no leader, no member that ever started   ─► bootstrap: all members start at once
//! a leader; the host is a member           ─► resources as in any other phase
//! a leader; the host is no member          ─► add a learner ─► start it ─► give it its vote
//! a leader; a member whose data is gone    ─► remove it, then as above (a machine that was installed anew)
//! ```
//!
//! A member that has lost its data must not come back under its old ID: it would have forgotten what it voted for
//! (etcd's operations guide, "Runtime reconfiguration").

use std::collections::BTreeSet;

use kinit_config::{Cluster, HostSpec, Role};
use kinit_manifests::{ETCD_START, Phase, etcd_member_dir, etcd_start};
use kinit_resource::{Change, Content, EtcdMember, EtcdStatus, Observed, Resource, UnitState};

use crate::lanes;
use crate::plan::{Action, Plan, Step};
use crate::refusal::PlanError;
use crate::situation::{HostObservation, Leaving, Situation};

/// What has to be done so that a host is a member.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    /// It is one, or it starts with all others.
    Member,
    /// It joins.
    Join {
        /// A member without data whose place it takes.
        replaces: Option<EtcdMember>,
        /// It is listed already, by a run that ended early.
        listed: bool,
        /// Data of a member that is none any more lies there.
        wipe: bool,
    },
    /// It runs and waits for its vote.
    Learner,
}

/// The steps of the phase `etcd`: dead members go, members are looked after, then hosts join, one after the other.
pub(crate) fn steps(
    cluster: &Cluster,
    seen: &Situation,
    demoted: &[Leaving],
    plan: &mut Plan,
    errors: &mut Vec<PlanError>,
) {
    let via = via(seen, demoted);
    let dead = seen.leaving.iter().filter(|leaving| leaving.seen.is_none());
    plan.push(Phase::Etcd, true, dead.filter_map(|leaving| removal(leaving, seen, &via)).collect());
    let mut joins: Vec<(&HostSpec, Entry)> = Vec::new();
    for host in cluster.hosts(Role::ControlPlane).filter(|host| seen.scope.covers(host, Phase::Etcd)) {
        let Some(own) = seen.hosts.get(&host.name) else { continue };
        match entry(host, own, seen) {
            Ok(Entry::Member) => {}
            Ok(other) => joins.push((host, other)),
            Err(error) => errors.push(error),
        }
    }
    let joining: BTreeSet<String> = joins.iter().map(|(host, _)| host.name.clone()).collect();
    lanes::steps(cluster, Phase::Etcd, seen, &joining, plan);
    let mut members = known(seen);
    let mut steps = Vec::new();
    for (host, entry) in joins {
        members.retain(|(_, url)| *url != host.peer_url());
        members.push((host.name.clone(), host.peer_url()));
        let own = seen.hosts.get(&host.name).into_iter().flatten().filter(|(phase, _, _)| *phase == Phase::Etcd);
        steps.extend(join(cluster, host, entry, own, &members, &via));
    }
    plan.push(Phase::Etcd, true, steps);
}

/// Removes the member of a host that leaves, if it has one.
pub(crate) fn removal(leaving: &Leaving, seen: &Situation, via: &str) -> Option<Step> {
    let peer_url = leaving.host.peer_url();
    let member = seen.etcd_view()?.by_peer_url(&peer_url)?;
    let action = Action::EtcdRemove { id: member.id, peer_url, via: via.to_owned() };
    let change = Change::new("remove", format!("etcd member {} of {}", member.hex(), leaving.host.name));
    Some(Step::of_cluster(action, change))
}

/// The host whose member is asked to change the membership: one that has a leader, and that stays a member if any does.
pub(crate) fn via(seen: &Situation, demoted: &[Leaving]) -> String {
    let leaves = |host: &str| seen.leaving.iter().chain(demoted).any(|leaving| leaving.host.name == host);
    let healthy = || seen.etcd.iter().filter(|(_, status)| status.leader != 0).map(|(host, _)| host);
    healthy().find(|host| !leaves(host)).or_else(|| healthy().next()).cloned().unwrap_or_default()
}

/// Members by name and peer URL, but for those that leave before anybody joins.
fn known(seen: &Situation) -> Vec<(String, String)> {
    let dead: Vec<String> =
        seen.leaving.iter().filter(|leaving| leaving.seen.is_none()).map(|leaving| leaving.host.peer_url()).collect();
    let members = seen.etcd_view().into_iter().flat_map(|view| &view.members);
    let stays = |member: &&EtcdMember| !member.peer_urls.iter().any(|url| dead.contains(url));
    let pair = |member: &EtcdMember| Some((member.name.clone(), member.peer_urls.first()?.clone()));
    // One that has never started has no name that others could expect.
    members.filter(stays).filter(|member| !member.name.is_empty()).filter_map(pair).collect()
}

fn entry(host: &HostSpec, own: &HostObservation, seen: &Situation) -> Result<Entry, PlanError> {
    let has_data = seen.with_data.contains(&host.name);
    let Some(view) = seen.etcd_view() else {
        return match formed(seen).filter(|_| !has_data) {
            Some(why) => Err(PlanError::NoLeader { host: host.name.clone(), why }),
            None => Ok(Entry::Member),
        };
    };
    let answers = seen.etcd.get(&host.name).map(|status| status.id);
    Ok(match view.by_peer_url(&host.peer_url()) {
        None => Entry::Join { replaces: None, listed: false, wipe: has_data },
        Some(member) if answers == Some(member.id) && member.learner => Entry::Learner,
        Some(member) if answers == Some(member.id) => Entry::Member,
        // Added by a run that ended before it started.
        Some(member) if !member.has_started() && (!has_data || !runs(own)) => {
            Entry::Join { replaces: None, listed: true, wipe: has_data }
        }
        Some(member) if !has_data => Entry::Join { replaces: Some(member.clone()), listed: false, wipe: false },
        Some(member) if member.learner => Entry::Learner,
        Some(_) => Entry::Member,
    })
}

/// What tells that etcd's members once had a leader, so that a host without data must not start with them as if it had
/// been there: a member that knows others that have started, or an API server that was started after etcd.
fn formed(seen: &Situation) -> Option<String> {
    let knows = |status: &EtcdStatus| status.members.len() > 1 && status.members.iter().all(EtcdMember::has_started);
    if let Some((host, _)) = seen.etcd.iter().find(|(_, status)| knows(status)) {
        return Some(format!("The member on {host} knows a cluster and has no leader."));
    }
    let with_data = seen.with_data.iter().filter_map(|host| Some((host, seen.hosts.get(host)?)));
    let served = |own: &HostObservation| {
        own.iter().any(|(_, resource, observed)| match resource {
            Resource::Unit { name, state: UnitState::Running { .. } } => {
                name == "kube-apiserver.service" && matches!(observed, Observed::AsWanted | Observed::Differs(_))
            }
            _ => false,
        })
    };
    let (host, _) = with_data.into_iter().find(|(_, own)| served(own))?;
    Some(format!("{host} has the cluster's data."))
}

fn runs(own: &HostObservation) -> bool {
    own.iter().any(|(_, resource, observed)| match resource {
        Resource::Unit { name, .. } => name == "etcd.service" && *observed == Observed::AsWanted,
        _ => false,
    })
}

/// One host's way into etcd.
fn join<'a>(
    cluster: &Cluster,
    host: &HostSpec,
    entry: Entry,
    own: impl Iterator<Item = &'a (Phase, Resource, Observed)>,
    members: &[(String, String)],
    via: &str,
) -> Vec<Step> {
    let (name, peer_url) = (host.name.as_str(), host.peer_url());
    let on = |action: Action, change: Change| Step::on(name, action, change);
    let mut steps = Vec::new();
    if let Entry::Join { replaces, listed, wipe } = &entry {
        if let Some(old) = replaces {
            let action = Action::EtcdRemove { id: old.id, peer_url: peer_url.clone(), via: via.to_owned() };
            let change = Change::new("remove", format!("etcd member {}", old.hex()));
            steps.push(on(action, change.because("the host has no data of it any more")));
        }
        if *wipe {
            let unit = Resource::Unit { name: "etcd.service".to_owned(), state: UnitState::Stopped };
            steps.push(on(Action::Apply(unit), Change::new("stop", "etcd.service")));
            let path = etcd_member_dir(cluster);
            let change = Change::new("remove", path.clone()).because("data of a member that is none any more");
            steps.push(on(Action::Apply(Resource::Absent { path }), change));
        }
        if !listed {
            let action = Action::EtcdAdd { peer_url: peer_url.clone(), via: via.to_owned() };
            steps.push(on(action, Change::new("add", format!("etcd member {name} (without a vote)"))));
        }
    }
    let promote = || {
        let action = Action::EtcdPromote { peer_url: peer_url.clone(), via: via.to_owned() };
        on(action, Change::new("promote", format!("etcd member {name}, once it has caught up")))
    };
    let forced = own.map(|(phase, resource, observed)| forced(phase, resource, observed, &entry, members));
    let forced: Vec<_> = forced.collect();
    let lane = lanes::lane(name, "", forced.iter(), BTreeSet::new());
    let (waits, brought): (Vec<Step>, Vec<Step>) =
        lane.into_iter().partition(|step| matches!(&step.action, Action::Apply(Resource::Healthy { .. })));
    steps.extend(brought);
    steps.push(promote());
    steps.extend(waits);
    steps
}

/// A joining host's resource: etcd starts anew, as a member of what is there.
fn forced(
    phase: &Phase,
    resource: &Resource,
    observed: &Observed,
    entry: &Entry,
    members: &[(String, String)],
) -> (Phase, Resource, Observed) {
    let (mut resource, mut observed) = (resource.clone(), observed.clone());
    if matches!(entry, Entry::Join { .. }) {
        match &mut resource {
            Resource::File(file) if file.path == ETCD_START => {
                file.content = Content::Text(etcd_start(members, "existing"));
                file.unless_exists = None;
                observed = Observed::Missing;
            }
            Resource::Unit { state: UnitState::Running { .. }, .. } => observed = Observed::Missing,
            _ => {}
        }
    }
    if matches!(resource, Resource::Healthy { .. }) {
        observed = Observed::Missing;
    }
    (*phase, resource, observed)
}

/// Refuses removals after which etcd could not go on. Who joins before is counted as healthy: otherwise the run ends
/// before anything is removed.
pub(crate) fn quorum(joining: usize, leaving: &[&Leaving], seen: &Situation, errors: &mut Vec<PlanError>) {
    let Some(view) = seen.etcd_view() else { return };
    let healthy = seen.healthy_voters();
    let mut voters: Vec<u64> = view.members.iter().filter(|m| !m.learner).map(|m| m.id).collect();
    for leaving in leaving {
        let Some(member) = view.by_peer_url(&leaving.host.peer_url()).filter(|member| !member.learner) else {
            continue;
        };
        voters.retain(|id| *id != member.id);
        let joined = if leaving.seen.is_some() { joining } else { 0 };
        let (count, well) = (voters.len() + joined, voters.iter().filter(|id| healthy.contains(id)).count() + joined);
        let host = leaving.host.name.clone();
        if count == 0 {
            errors.push(PlanError::LastControlPlane { host });
        } else if well < count / 2 + 1 {
            errors.push(PlanError::Quorum { host, healthy: well, voters: count });
        }
    }
}

/// Hosts of the file that are no members yet.
pub(crate) fn joining(cluster: &Cluster, seen: &Situation) -> usize {
    let Some(view) = seen.etcd_view() else { return 0 };
    let covered = cluster.hosts(Role::ControlPlane).filter(|host| seen.scope.covers(host, Phase::Etcd));
    covered.filter(|host| view.by_peer_url(&host.peer_url()).is_none_or(|member| member.learner)).count()
}
