//! The next move of a rotation, from what is seen: a shared secret's successor takes its place stage by stage
//! ([`RotationStage`]). Every control plane reaches a stage, and everything that follows from it is brought about and
//! checked, before the first one goes on to the next.
//!
//! ```text
//! Old ──► Published ──► Signing ──► New     forwards
//! Old ◄── Published ◄── Signing             backwards, as long as both generations are kept
//! ```
//!
//! Where a rotation stands is what the hosts show, so that any desk can continue it.

use std::collections::{BTreeMap, BTreeSet};

use kinit_config::{Cluster, Role};
use kinit_manifests::Phase;
use kinit_resource::{Change, Place, RotationRecord, RotationSeen, RotationStage, Shared};

use crate::plan::{Action, Plan, Step};

/// What is known before a move.
#[derive(Debug, Clone)]
pub struct Rotating {
    /// Which secret.
    pub shared: Shared,
    /// Where it is to end.
    pub goal: RotationStage,
    /// What was seen on each control plane.
    pub hosts: BTreeMap<String, RotationSeen>,
    /// The other hosts that have the public half, with its SHA-256.
    pub public: BTreeMap<String, Option<String>>,
    /// Other secrets that are being rotated.
    pub others: BTreeSet<Shared>,
    /// The stage of which everything that follows from it has been seen in this run.
    pub settled: Option<RotationStage>,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Bring all hosts to a stage.
    Turn {
        /// Which.
        stage: RotationStage,
        /// By these steps.
        plan: Plan,
    },
    /// All hosts are at this stage: bring about what follows from it, and check.
    Settle(RotationStage),
    /// One generation is left: forget the other.
    Finish(Plan),
    /// The goal is reached, and both generations are kept.
    Done(RotationStage),
}

/// Why a rotation cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RotationRefused {
    /// Another one is under way.
    #[error("a rotation of {} is under way: finish it, or take it back with --rollback, before this one", .0.name())]
    Other(Shared),
    /// There is none.
    #[error("no rotation of {} is under way", .0.name())]
    None(Shared),
    /// Hosts keep different generations.
    #[error(
        "{one} and {other} keep different generations of {}: two rotations were begun. Remove /etc/kubernetes/pki/rotation from the control planes whose generations are not in force", .shared.name()
    )]
    Records {
        /// Which.
        shared: Shared,
        /// A host.
        one: String,
        /// One that differs.
        other: String,
    },
    /// A host has something else.
    #[error("{} of {host} is neither the old nor the new one", .shared.name())]
    Foreign {
        /// Which.
        shared: Shared,
        /// The host.
        host: String,
    },
    /// A host lacks the private half.
    #[error(
        "{host} has no {} that belongs to its public half: an authority that is kept elsewhere is rotated there", .shared.files().1
    )]
    NotWhole {
        /// Which.
        shared: Shared,
        /// The host.
        host: String,
    },
    /// Somebody else's rotation.
    #[error("{} of {host} holds several certificates or keys, and kinit does not know of a rotation: leave the first one alone in it on all hosts, run `kinit apply`, and try again", .shared.name())]
    Several {
        /// Which.
        shared: Shared,
        /// The host.
        host: String,
    },
    /// Hosts are further apart than a rotation brings them.
    #[error("{} is at stage {one:?} on one host and at {other:?} on another", .shared.name())]
    Apart {
        /// Which.
        shared: Shared,
        /// The first stage.
        one: RotationStage,
        /// The last stage.
        other: RotationStage,
    },
    /// It is further than was asked for.
    #[error("the rotation of {} is at stage {at:?} already; --rollback takes it back", .shared.name())]
    Beyond {
        /// Which.
        shared: Shared,
        /// Where it is.
        at: RotationStage,
    },
}

/// The next move.
///
/// # Errors
///
/// When what is seen is no state of one rotation.
pub fn rotation(cluster: &Cluster, seen: &Rotating) -> Result<Next, RotationRefused> {
    if let Some(other) = seen.others.first() {
        return Err(RotationRefused::Other(*other));
    }
    let Some((keeper, record)) = record(seen)? else { return begin(cluster, seen) };
    let mut at = BTreeMap::new();
    for (host, own) in &seen.hosts {
        let stage = stage_of(record, own.current.as_deref());
        at.insert(host, stage.ok_or_else(|| RotationRefused::Foreign { shared: seen.shared, host: host.clone() })?);
    }
    let (first, last) = (at.values().min().copied(), at.values().max().copied());
    let (Some(first), Some(last)) = (first, last) else { return Err(RotationRefused::None(seen.shared)) };
    if first.next().is_some_and(|next| last > next) {
        return Err(RotationRefused::Apart { shared: seen.shared, one: first, other: last });
    }
    let back = seen.goal == RotationStage::Old;
    if !back && first > seen.goal {
        return Err(RotationRefused::Beyond { shared: seen.shared, at: first });
    }
    let here = if back { first } else { last.min(seen.goal) };
    let ends = matches!(here, RotationStage::Old | RotationStage::New);
    // At the end of a rotation hosts forget the other generation one after the other.
    let keeps = |own: &RotationSeen| own.record.is_some() || (ends && here == seen.goal);
    let whole = seen
        .hosts
        .values()
        .all(|own| own.whole && keeps(own) && stage_of(record, own.current.as_deref()) == Some(here));
    let public = seen.public.values().all(|own| stage_of(record, own.as_deref()) == Some(here));
    if !(whole && public) {
        return Ok(Next::Turn { stage: here, plan: turn(cluster, seen, keeper, Some(record), here) });
    }
    // All programs know both generations since Published was settled: whatever does not come about with the new one is
    // no hindrance on the way back. After New it is: some may have forgotten the old one.
    let was_new = seen.hosts.values().any(|own| own.record.as_ref().is_some_and(|record| record.was_new));
    let may_leave = back && here == RotationStage::Signing && !was_new;
    if seen.settled != Some(here) && !may_leave {
        return Ok(Next::Settle(here));
    }
    if here == seen.goal {
        return Ok(if ends { Next::Finish(finish(seen)) } else { Next::Done(here) });
    }
    let stage = if back { here.previous() } else { here.next() }.unwrap_or(here);
    Ok(Next::Turn { stage, plan: turn(cluster, seen, keeper, Some(record), stage) })
}

/// The generations, and a host that keeps them.
fn record(seen: &Rotating) -> Result<Option<(&str, &RotationRecord)>, RotationRefused> {
    let mut found: Option<(&str, &RotationRecord)> = None;
    for (host, own) in &seen.hosts {
        let Some(record) = &own.record else { continue };
        match found {
            Some((one, known)) if known.id != record.id => {
                let (one, other) = (one.to_owned(), host.clone());
                return Err(RotationRefused::Records { shared: seen.shared, one, other });
            }
            Some(_) => {}
            None => found = Some((host, record)),
        }
    }
    Ok(found)
}

fn stage_of(record: &RotationRecord, shown: Option<&str>) -> Option<RotationStage> {
    let place = record.stages.iter().position(|stage| Some(stage.as_str()) == shown)?;
    RotationStage::ALL.get(place).copied()
}

/// The first move: a successor, on all control planes, accepted by all.
fn begin(cluster: &Cluster, seen: &Rotating) -> Result<Next, RotationRefused> {
    let shared = seen.shared;
    if seen.goal == RotationStage::Old {
        return Err(RotationRefused::None(shared));
    }
    let mut first: Option<(&String, &RotationSeen)> = None;
    for (host, own) in &seen.hosts {
        if !own.whole {
            return Err(RotationRefused::NotWhole { shared, host: host.clone() });
        }
        if own.halves > 1 {
            return Err(RotationRefused::Several { shared, host: host.clone() });
        }
        match first {
            Some((_, known)) if known.current != own.current => {
                return Err(RotationRefused::Foreign { shared, host: host.clone() });
            }
            Some(_) => {}
            None => first = Some((host, own)),
        }
    }
    let Some((host, _)) = first else { return Err(RotationRefused::None(shared)) };
    if seen.settled != Some(RotationStage::Old) {
        return Ok(Next::Settle(RotationStage::Old));
    }
    let stage = RotationStage::Published;
    Ok(Next::Turn { stage, plan: turn(cluster, seen, host, None, stage) })
}

/// Brings all hosts to a stage: what the hosts keep first, then the control planes, then who has the public half alone.
fn turn(
    cluster: &Cluster,
    seen: &Rotating,
    keeper: &str,
    record: Option<&RotationRecord>,
    stage: RotationStage,
) -> Plan {
    let (shared, name) = (seen.shared, seen.shared.name());
    let mut plan = Plan::default();
    if record.is_none() {
        let change = Change::new("create", format!("the successor of {name}"));
        plan.push(Phase::Certs, false, vec![Step::on(keeper, Action::BeginRotation(shared), change)]);
    }
    let lack = seen.hosts.iter().filter(|(host, own)| own.record.is_none() && host.as_str() != keeper);
    let share = |(host, _): (&String, &RotationSeen)| {
        let change = Change::new("copy", format!("the successor of {name} from {keeper}"));
        Step::on(host, Action::ShareRotation { shared, from: keeper.to_owned() }, change)
    };
    plan.push(Phase::Certs, false, lack.map(share).collect());
    let is_there = |shown: Option<&str>| record.and_then(|record| stage_of(record, shown)) == Some(stage);
    let differ = seen.hosts.iter().filter(|(_, own)| !(own.whole && is_there(own.current.as_deref())));
    let what = words(shared, stage);
    let set = |(host, _): (&String, &RotationSeen)| {
        let change = Change::new("change", format!("{name}: {what}"));
        Step::on(host, Action::SetRotation { shared, stage }, change)
    };
    plan.push(Phase::Certs, false, differ.map(set).collect());
    let others = seen.public.iter().filter(|(host, own)| {
        !is_there(own.as_deref()) && cluster.spec.hosts.iter().any(|h| h.name == **host && !h.is(Role::ControlPlane))
    });
    let copy = |(host, _): (&String, &Option<String>)| {
        let action = Action::Copy { shared, from: keeper.to_owned(), place: Place::Public };
        Step::on(host, action, Change::new("replace", format!("{name}.crt from {keeper}")))
    };
    plan.push(Phase::Certs, false, others.map(copy).collect());
    plan
}

/// What a stage is, for people.
fn words(shared: Shared, stage: RotationStage) -> &'static str {
    match (shared, stage) {
        (Shared::EncryptionConfig, RotationStage::Published) => "read with both keys, write with the old one",
        (Shared::EncryptionConfig, RotationStage::Signing) => "read with both keys, write with the new one",
        (_, RotationStage::Old) => "the old one alone",
        (_, RotationStage::Published) => "trust both, sign with the old one",
        (_, RotationStage::Signing) => "trust both, sign with the new one",
        (_, RotationStage::New) => "the new one alone",
    }
}

fn finish(seen: &Rotating) -> Plan {
    let mut plan = Plan::default();
    let name = seen.shared.name();
    let generation = if seen.goal == RotationStage::Old { "successor" } else { "predecessor" };
    let keep = seen.hosts.iter().filter(|(_, own)| own.record.is_some());
    let end = |(host, _): (&String, &RotationSeen)| {
        let change = Change::new("forget", format!("the {generation} of {name}"));
        Step::on(host, Action::EndRotation(seen.shared), change)
    };
    plan.push(Phase::Certs, false, keep.map(end).collect());
    plan
}

#[cfg(test)]
#[path = "rotation_tests.rs"]
mod tests;
