//! Shared secrets are made once and copied; then leaf certificates.

use std::collections::BTreeSet;

use kinit_config::Cluster;
use kinit_manifests::Phase;
use kinit_resource::{Change, Observed, Place, Shared};

use crate::plan::{Action, DESK, Plan, Step};
use crate::refusal::PlanError;
use crate::situation::{Situation, seen_shared};
use crate::{desk_keys, external, lanes};

/// The steps of the phase `certs`. What needs signatures of authorities that are kept elsewhere is refused for all of
/// them at once.
pub(crate) fn steps(
    cluster: &Cluster,
    seen: &Situation,
    plan: &mut Plan,
    errors: &mut Vec<PlanError>,
) -> Result<(), PlanError> {
    let (mut made, mut copied) = (Vec::new(), Vec::new());
    plan.push(Phase::Certs, false, desk_keys::kept(cluster, seen));
    for shared in Shared::ALL {
        if desk_keys::is_desks(cluster, shared) {
            desk_keys::steps(cluster, seen, shared, &mut made, &mut copied)?;
            continue;
        }
        let whole = origin(cluster, seen, shared)?;
        let external = if whole.is_none() { external::source(cluster, seen, shared)? } else { None };
        if let (Some((host, _)), true) = (&external, seen.keys_on_desk) {
            // They were on the desk so far.
            copied.extend(desk_keys::returned(cluster, seen, shared, host));
            continue;
        }
        errors.extend(external.as_ref().and_then(|(host, _)| external::refusal(cluster, seen, shared, host)));
        let is_external = external.is_some();
        let (source, fingerprint) = match whole.or(external) {
            Some(origin) => origin,
            None => {
                if let Some((host, sign)) = sign_of_life(seen, shared) {
                    return Err(PlanError::Lost { shared, host, sign });
                }
                let host = maker(cluster, seen);
                made.push(Step::on(&host, Action::Generate(shared), Change::new("create", shared.name())));
                (host, String::new())
            }
        };
        for host in cluster.spec.hosts.iter().filter(|h| h.name != source && seen.scope.covers(h, Phase::Certs)) {
            let Some(own) = seen.hosts.get(&host.name) else { continue };
            let Some((place, observed)) = seen_shared(own, shared) else { continue };
            let verb = match observed {
                Observed::Fingerprint(f) if *f == fingerprint => continue,
                Observed::Public(f) if is_external && *f == fingerprint => continue,
                Observed::Missing => "copy",
                _ => "replace",
            };
            let place = if is_external { Place::Public } else { place };
            let what = if place == Place::Whole { shared.name().to_owned() } else { format!("{}.crt", shared.name()) };
            let action = Action::Copy { shared, from: source.clone(), place };
            copied.push(Step::on(&host.name, action, Change::new(verb, format!("{what} from {source}"))));
        }
    }
    plan.push(Phase::Certs, false, made);
    plan.push(Phase::Certs, false, copied);
    lanes::steps(cluster, Phase::Certs, seen, &BTreeSet::new(), plan);
    Ok(())
}

/// The host that makes what no host has: the one that signs, if one does.
fn maker(cluster: &Cluster, seen: &Situation) -> String {
    let signer = signer(cluster, seen);
    if signer != DESK {
        return signer;
    }
    seen.control_planes(cluster).next().map(|(host, _)| host.name.clone()).unwrap_or_default()
}

/// The host that signs: a control plane that has the authority, or else the first that can be reached.
pub(crate) fn signer(cluster: &Cluster, seen: &Situation) -> String {
    if cluster.signs_on_desk() {
        return DESK.to_owned();
    }
    let authority = Shared::Authority(kinit_pki::Authority::Kubernetes);
    let has_it = origin(cluster, seen, authority).ok().flatten().map(|(host, _)| host);
    if has_it.is_none() && seen.keys_on_desk && external::source(cluster, seen, authority).ok().flatten().is_some() {
        return DESK.to_owned();
    }
    has_it.or_else(|| seen.control_planes(cluster).next().map(|(host, _)| host.name.clone())).unwrap_or_default()
}

/// What tells that a secret was made before: a half of it, or the data of the cluster it belongs to.
pub(crate) fn sign_of_life(seen: &Situation, shared: Shared) -> Option<(String, String)> {
    let half = seen.hosts.iter().find_map(|(host, own)| match seen_shared(own, shared)?.1 {
        Observed::Differs(why) => Some((host.clone(), format!("has a part of it ({why})"))),
        Observed::Fingerprint(_) | Observed::Public(_) => Some((host.clone(), "has its public part".to_owned())),
        _ => None,
    });
    half.or_else(|| seen.with_data.first().map(|host| (host.clone(), "has the cluster's data".to_owned())))
}

/// The control plane that has a shared secret whole, with its fingerprint. Two that differ are two clusters.
fn origin(cluster: &Cluster, seen: &Situation, shared: Shared) -> Result<Option<(String, String)>, PlanError> {
    let mut found: Option<(String, String)> = None;
    for (host, own) in seen.control_planes(cluster) {
        let Some((Place::Whole, Observed::Fingerprint(fingerprint))) = seen_shared(own, shared) else { continue };
        match &found {
            Some((one, other)) if other != fingerprint => {
                return Err(PlanError::Conflict { shared, one: one.clone(), other: host.name.clone() });
            }
            Some(_) => {}
            None => found = Some((host.name.clone(), fingerprint.clone())),
        }
    }
    Ok(found)
}
