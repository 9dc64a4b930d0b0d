//! Authorities whose keys are kept on the desk (`spec.certificates.caKeys: desk`): hosts have the certificates, and the
//! desk signs.
//!
//! ```text
//! a new cluster      generate on the desk ─► copy NAME.crt to hosts
//! caKeys: desk       keep what hosts have ─► ... ─► NAME.key is removed from hosts, in the run's last phase
//! caKeys: hosts      copy NAME.crt and NAME.key from the desk to control planes
//! ```

use kinit_config::{Cluster, Role};
use kinit_manifests::{PKI, Phase};
use kinit_resource::{Change, Observed, Place, Resource, Shared, compare};

use crate::plan::{Action, DESK, Step};
use crate::refusal::PlanError;
use crate::situation::{Situation, seen_shared};

/// Whether a secret's key belongs on the desk.
pub(crate) fn is_desks(cluster: &Cluster, shared: Shared) -> bool {
    cluster.signs_on_desk() && matches!(shared, Shared::Authority(_))
}

/// Authorities whose keys hosts have still: they are on the desk before anything else happens.
pub(crate) fn kept(cluster: &Cluster, seen: &Situation) -> Vec<Step> {
    let keep = |shared: Shared| {
        let path = format!("{PKI}/{}", shared.files().1);
        let has = |(_, resource, observed): &(Phase, Resource, Observed)| {
            matches!(resource, Resource::Erased { path: own } if *own == path) && compare(resource, observed).is_some()
        };
        let mut hosts = cluster.hosts(Role::ControlPlane);
        let from = hosts.find(|host| seen.hosts.get(&host.name).is_some_and(|own| own.iter().any(has)))?.name.clone();
        let change = Change::new("keep", format!("the key of {} from {from} on this desk", shared.name()));
        Some(Step::of_cluster(Action::Keep { shared, from }, change))
    };
    Shared::ALL.into_iter().filter(|shared| is_desks(cluster, *shared)).filter_map(keep).collect()
}

/// Makes an authority on the desk where there is none, and hands its certificate to hosts.
pub(crate) fn steps(
    cluster: &Cluster,
    seen: &Situation,
    shared: Shared,
    made: &mut Vec<Step>,
    copied: &mut Vec<Step>,
) -> Result<(), PlanError> {
    let there = certificate(seen, cluster, shared)?;
    let certificate = format!("{}.crt", shared.name());
    if there.is_none() && seen.with_data.is_empty() {
        let change = Change::new("create", format!("{} on this desk", shared.name()));
        made.push(Step::of_cluster(Action::Generate(shared), change));
    }
    // Data of a cluster whose hosts have lost the certificate: the desk has it, or the step says that it has not.
    let (from, fingerprint) = there.unwrap_or_else(|| (DESK.to_owned(), String::new()));
    for host in cluster.spec.hosts.iter().filter(|h| h.name != from && seen.scope.covers(h, Phase::Certs)) {
        let Some((_, observed)) = seen.hosts.get(&host.name).and_then(|own| seen_shared(own, shared)) else {
            continue;
        };
        let verb = match observed {
            Observed::Fingerprint(f) if *f == fingerprint => continue,
            Observed::Missing => "copy",
            _ => "replace",
        };
        let action = Action::Copy { shared, from: from.clone(), place: Place::Public };
        copied.push(Step::on(&host.name, action, Change::new(verb, format!("{certificate} from {from}"))));
    }
    Ok(())
}

/// A control plane with an authority's certificate. Two that differ are two clusters.
fn certificate(seen: &Situation, cluster: &Cluster, shared: Shared) -> Result<Option<(String, String)>, PlanError> {
    let mut found: Option<(String, String)> = None;
    for (host, own) in seen.control_planes(cluster) {
        let Some((_, Observed::Fingerprint(own))) = seen_shared(own, shared) else { continue };
        match &found {
            Some((one, other)) if other != own => {
                return Err(PlanError::Conflict { shared, one: one.clone(), other: host.name.clone() });
            }
            Some(_) => {}
            None => found = Some((host.name.clone(), own.clone())),
        }
    }
    Ok(found)
}

/// Gives control planes the key that the desk has had; `certified` is one that has the certificate.
pub(crate) fn returned(cluster: &Cluster, seen: &Situation, shared: Shared, certified: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for host in cluster.spec.hosts.iter().filter(|host| seen.scope.covers(host, Phase::Certs)) {
        let Some((place, observed)) = seen.hosts.get(&host.name).and_then(|own| seen_shared(own, shared)) else {
            continue;
        };
        let (from, what) = match (place, observed) {
            (Place::Whole, _) => (DESK, format!("{} from {DESK}", shared.name())),
            (Place::Public, Observed::Missing) => (certified, format!("{}.crt from {certified}", shared.name())),
            (Place::Public, _) => continue,
        };
        let action = Action::Copy { shared, from: from.to_owned(), place };
        steps.push(Step::on(&host.name, action, Change::new("copy", what)));
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kinit_config::CaKeys;
    use kinit_manifests::{Bundle, HostFacts, desired, retired};

    use super::*;
    use crate::operation::Operation;
    use crate::situation::{HostObservation, NodeState};

    fn plan(
        ca_keys: CaKeys,
        keys_on_desk: bool,
        see: impl Fn(&str, &Resource) -> Option<Observed>,
    ) -> Result<String, crate::Refused> {
        let mut cluster = kinit_config::load(kinit_config::example()).unwrap();
        cluster.spec.certificates.ca_keys = ca_keys;
        let (bundle, facts) = (Bundle::sample(), HostFacts { cgroup_v2: true, ..HostFacts::default() });
        let mut hosts = BTreeMap::new();
        for host in &cluster.spec.hosts {
            let mut list = desired(&cluster, host, &facts, &bundle).unwrap();
            list.extend(retired(&cluster, host, &facts, &bundle).unwrap());
            let observe = |(phase, resource): (Phase, Resource)| {
                let seen = see(&host.name, &resource).unwrap_or_else(|| match &resource {
                    Resource::Shared { .. } => Observed::Fingerprint("f".into()),
                    _ => Observed::AsWanted,
                });
                (phase, resource, seen)
            };
            hosts.insert(host.name.clone(), list.into_iter().map(observe).collect::<HostObservation>());
        }
        let node =
            |name: &str| (name.to_owned(), NodeState { labelled: true, tainted: true, ready: true, cordoned: false });
        let nodes = ["cp1", "cp2", "cp3"].map(node).into();
        let seen = Situation { hosts, keys_on_desk, nodes, ..Situation::default() };
        Ok(crate::cluster::plan(Operation::Apply, &cluster, &seen)?.to_string())
    }

    fn is_key(resource: &Resource, name: &str) -> bool {
        matches!(resource, Resource::Erased { path } if path.ends_with(name))
    }

    #[test]
    fn keys_are_on_the_desk_before_hosts_lose_them() {
        assert!(plan(CaKeys::Desk, true, |_, _| None).unwrap().ends_with("0 changes\n"));
        let text = plan(CaKeys::Desk, false, |host, resource| {
            (host != "w1" && is_key(resource, "pki/ca.key")).then(|| Observed::Differs("is there".into()))
        });
        let text = text.unwrap();
        let at = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words} is missing in\n{text}"));
        assert!(at("keep the key of ca from cp1 on this desk") < at("remove /etc/kubernetes/pki/ca.key"));
        assert!(!text.contains("front-proxy"), "{text}");
    }

    #[test]
    fn a_new_cluster_has_its_authorities_on_the_desk() {
        let text = plan(CaKeys::Desk, false, |_, resource| {
            matches!(resource, Resource::Shared { .. } | Resource::Leaf(_)).then_some(Observed::Missing)
        });
        let text = text.unwrap();
        for words in ["create ca on this desk", "create etcd-ca on this desk", "cp1        create sa"] {
            assert!(text.contains(words), "{words} is missing in\n{text}");
        }
        assert!(text.contains("copy ca.crt from the desk") && !text.contains("copy ca from"), "{text}");
        assert!(text.contains("/var/lib/kubelet/pki/kubelet-client-current.pem"), "{text}");
    }

    #[test]
    fn control_planes_get_their_keys_back_from_the_desk() {
        let without = |_: &str, resource: &Resource| match resource {
            Resource::Shared { shared: Shared::Authority(_), place: Place::Whole } => {
                Some(Observed::Public("f".into()))
            }
            _ => None,
        };
        let text = plan(CaKeys::Hosts, true, without).unwrap();
        for words in ["cp1        copy ca from the desk", "cp3        copy etcd-ca from the desk"] {
            assert!(text.contains(words), "{words} is missing in\n{text}");
        }
        assert!(!text.contains("w1         copy"), "{text}");
        // Without such a file it is an external CA, which has signed everything.
        assert!(plan(CaKeys::Hosts, false, without).unwrap().ends_with("0 changes\n"));
    }
}
