//! Authorities that are kept elsewhere (kubeadm's external CA mode): control planes have the certificate, none has the
//! key. Such an authority is never made or overwritten. What it has issued is accepted; what would need its signature
//! is refused, all at once.

use std::collections::{BTreeMap, BTreeSet};

use kinit_config::{Cluster, Role};
use kinit_manifests::BOOTSTRAP_KUBECONFIG;
use kinit_pki::Authority;
use kinit_resource::{Content, Observed, Resource, Shared, compare, what};

use crate::refusal::PlanError;
use crate::situation::{HostObservation, Situation, seen_shared};

/// The control plane that shows an external authority's certificate, with its fingerprint. To be asked when no control
/// plane has the secret whole.
pub(crate) fn source(
    cluster: &Cluster,
    seen: &Situation,
    shared: Shared,
) -> Result<Option<(String, String)>, PlanError> {
    let mut found: Option<(String, String)> = None;
    for (host, own) in seen.control_planes(cluster) {
        let Some((_, Observed::Public(fingerprint))) = seen_shared(own, shared) else { continue };
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

/// Authorities whose certificate is on a control plane and whose key is on none.
pub fn external_authorities(cluster: &Cluster, seen: &BTreeMap<String, HostObservation>) -> BTreeSet<Authority> {
    let has = |authority: Authority, wanted: fn(&Observed) -> bool| {
        let mut own = cluster.hosts(Role::ControlPlane).filter_map(|host| seen.get(&host.name));
        own.any(|own| seen_shared(own, Shared::Authority(authority)).is_some_and(|(_, observed)| wanted(observed)))
    };
    let whole = |observed: &Observed| matches!(observed, Observed::Fingerprint(_));
    let public = |observed: &Observed| matches!(observed, Observed::Public(_));
    Authority::ALL.into_iter().filter(|authority| has(*authority, public) && !has(*authority, whole)).collect()
}

/// That something that the run covers needs a signature of this authority, if it does; `host` has its certificate.
pub(crate) fn refusal(cluster: &Cluster, seen: &Situation, shared: Shared, host: &str) -> Option<PlanError> {
    let unsigned = unsigned(cluster, seen, shared);
    (!unsigned.is_empty()).then(|| PlanError::External { shared, host: host.to_owned(), unsigned })
}

/// Everything that needs a signature of this authority and has none yet.
fn unsigned(cluster: &Cluster, seen: &Situation, authority: Shared) -> Vec<String> {
    let needs = |resource: &Resource| match resource {
        Resource::Leaf(leaf) => (Shared::Authority(leaf.leaf.authority()) == authority).then(|| what(resource)),
        // The token in it is exchanged for a certificate.
        Resource::File(file) if file.content == Content::Secret(BOOTSTRAP_KUBECONFIG.to_owned()) => {
            (authority == Shared::CLUSTER).then(|| "the kubelet's client certificate".to_owned())
        }
        _ => None,
    };
    let mut unsigned = Vec::new();
    for (host, own) in &seen.hosts {
        let covered = |phase| cluster.spec.hosts.iter().any(|h| h.name == *host && seen.scope.covers(h, phase));
        for (phase, resource, observed) in own {
            if !covered(*phase) || matches!(observed, Observed::Signed(_)) {
                continue;
            }
            if let (Some(what), Some(change)) = (needs(resource), compare(resource, observed)) {
                let why = change.why.unwrap_or_else(|| "missing".to_owned());
                unsigned.push(format!("{host}: {what} ({why})"));
            }
        }
    }
    unsigned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::situation::NodeState;
    use kinit_manifests::{Bundle, HostFacts, Phase, desired};

    const CA: Shared = Shared::CLUSTER;

    /// A cluster that is as wanted, but for the cluster's authority on control planes and what `see` says.
    fn plan(authority: &Observed, see: impl Fn(&str, &Resource) -> Option<Observed>) -> Result<String, PlanError> {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let bundle = Bundle::sample();
        let facts = HostFacts { can_lower_oom_score: true, cgroup_v2: true, ..HostFacts::default() };
        let mut hosts = BTreeMap::new();
        for host in &cluster.spec.hosts {
            let observe = |(phase, resource): (Phase, Resource)| {
                let seen = see(&host.name, &resource).unwrap_or_else(|| match &resource {
                    Resource::Shared { shared: CA, .. } if host.is(Role::ControlPlane) => authority.clone(),
                    Resource::Shared { .. } => Observed::Fingerprint("f".into()),
                    _ => Observed::AsWanted,
                });
                (phase, resource, seen)
            };
            let list = desired(&cluster, host, &facts, &bundle).unwrap();
            hosts.insert(host.name.clone(), list.into_iter().map(observe).collect::<HostObservation>());
        }
        let node =
            |name: &str| (name.to_owned(), NodeState { labelled: true, tainted: true, ready: true, cordoned: false });
        let seen = Situation {
            hosts,
            with_data: ["cp1", "cp2", "cp3"].map(str::to_owned).into(),
            nodes: ["cp1", "cp2", "cp3"].map(node).into(),
            ..Situation::default()
        };
        let plan = crate::cluster::plan(crate::operation::Operation::Apply, &cluster, &seen)
            .map_err(|mut refused| refused.0.remove(0))?;
        Ok(plan.to_string())
    }

    fn public() -> Observed {
        Observed::Public("f".into())
    }

    #[test]
    fn what_an_external_authority_has_issued_is_accepted() {
        let text = plan(&public(), |_, _| None).unwrap();
        assert!(text.ends_with("0 changes\n"), "{text}");
        // Its certificate is handed on; a key is never asked for.
        let text = plan(&public(), |host, resource| {
            let wanted = matches!(resource, Resource::Shared { shared: CA, .. }) && ["cp3", "w1"].contains(&host);
            wanted.then_some(Observed::Missing)
        });
        let text = text.unwrap();
        assert!(text.contains("cp3        copy ca.crt from cp1"), "{text}");
        assert!(text.contains("w1         copy ca.crt from cp1") && !text.contains("create ca"), "{text}");
    }

    #[test]
    fn what_needs_its_signature_is_refused_at_once() {
        let refused = plan(&public(), |host, resource| match resource {
            Resource::Leaf(leaf) if host == "cp2" && leaf.path().ends_with("apiserver.crt") => {
                Some(Observed::Differs("expired on 2026-01-01".into()))
            }
            Resource::File(file) if host == "w2" && matches!(file.content, Content::Secret(_)) => {
                Some(Observed::Missing)
            }
            // Of another authority, whose key is there.
            Resource::Leaf(leaf) if leaf.leaf.authority() == Authority::Etcd => Some(Observed::Missing),
            _ => None,
        });
        let error = refused.unwrap_err();
        let PlanError::External { unsigned, .. } = &error else { panic!("{error}") };
        let expected = [
            "cp2: /etc/kubernetes/pki/apiserver.crt (expired on 2026-01-01)",
            "w2: the kubelet's client certificate (missing)",
        ];
        assert_eq!(unsigned, &expected);
        assert!(error.to_string().contains("ca.key is on no control plane") && error.to_string().contains(expected[0]));
    }

    #[test]
    fn a_control_plane_without_the_key_gets_it_from_one_that_has_it() {
        let text = plan(&public(), |host, resource| {
            let wanted = matches!(resource, Resource::Shared { shared: CA, .. }) && host == "cp2";
            wanted.then(|| Observed::Fingerprint("f".into()))
        });
        assert!(text.unwrap().contains("cp1        replace ca from cp2"));
    }
}
