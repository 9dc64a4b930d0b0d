//! Which cluster a host belongs to: not its name, which most clusters share, but the hash of its authority's public
//! key.

use std::collections::BTreeMap;

use kinit_config::{Cluster, Role};
use kinit_resource::Facts;

/// A host that belongs to another cluster than the file's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} belongs to another cluster: its authority is {theirs}, this cluster's is {ours} (by {by})")]
pub struct Stranger {
    /// The host.
    pub host: String,
    /// Its authority.
    pub theirs: String,
    /// The authority of the file's cluster.
    pub ours: String,
    /// Who says so: a host, or the desk.
    pub by: String,
}

/// The authority of the file's cluster, and who says so: the desk, if it knows (`known`), or else the first control
/// plane that has one, or any host.
pub fn authority(cluster: &Cluster, facts: &BTreeMap<String, Facts>, known: Option<&str>) -> Option<(String, String)> {
    if let Some(known) = known {
        return Some((known.to_owned(), "the kubeconfig on this desk".to_owned()));
    }
    let others = cluster.spec.hosts.iter().filter(|host| !host.is(Role::ControlPlane));
    cluster.hosts(Role::ControlPlane).chain(others).find_map(|host| {
        let authority = facts.get(&host.name)?.authority.clone()?;
        Some((authority, host.name.clone()))
    })
}

/// Hosts of other clusters.
pub fn strangers(cluster: &Cluster, facts: &BTreeMap<String, Facts>, known: Option<&str>) -> Vec<Stranger> {
    let Some((ours, by)) = authority(cluster, facts, known) else { return Vec::new() };
    let other = |(host, facts): (&String, &Facts)| {
        // While an authority takes another's place, hosts trust both.
        let theirs = facts.authority.clone().filter(|theirs| *theirs != ours && !facts.authorities.contains(&ours))?;
        Some(Stranger { host: host.clone(), theirs, ours: ours.clone(), by: by.clone() })
    };
    facts.iter().filter_map(other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(authorities: &[(&str, &str)]) -> BTreeMap<String, Facts> {
        let of = |authority: &str| Facts {
            authority: Some(authority.to_owned()).filter(|a| !a.is_empty()),
            ..Facts::default()
        };
        authorities.iter().map(|(host, authority)| ((*host).to_owned(), of(authority))).collect()
    }

    #[test]
    fn hosts_that_trust_two_authorities_belong_to_whoever_knows_one_of_them() {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let trusting = |all: &[&str]| Facts {
            authority: all.first().map(|a| (*a).to_owned()),
            authorities: all.iter().map(|a| (*a).to_owned()).collect(),
            ..Facts::default()
        };
        for (one, other, known, strange) in [
            (&["old"][..], &["old", "new"][..], Some("old"), 0),
            (&["old", "new"], &["new", "old"], Some("old"), 0),
            (&["new", "old"], &["new"], Some("new"), 0),
            (&["new", "old"], &["new"], None, 0),
            (&["new"], &["new"], Some("old"), 2),
            (&["old", "new"], &["other"], None, 1),
        ] {
            let facts = [("cp1", trusting(one)), ("w1", trusting(other))];
            let facts = facts.map(|(host, facts)| (host.to_owned(), facts)).into();
            assert_eq!(strangers(&cluster, &facts, known).len(), strange, "{one:?} {other:?} {known:?}");
        }
    }

    #[test]
    fn a_host_of_another_cluster_is_found_whatever_that_is_called() {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let found = |authorities: &[(&str, &str)], known: Option<&str>| -> Vec<String> {
            strangers(&cluster, &facts(authorities), known).into_iter().map(|stranger| stranger.host).collect()
        };
        let none: [&str; 0] = [];
        assert_eq!(found(&[("cp1", "a"), ("w1", "a"), ("w2", "")], None), none);
        assert_eq!(found(&[("cp1", "a"), ("w1", "b"), ("w2", "")], None), ["w1"]);
        assert_eq!(found(&[("cp1", ""), ("cp2", "a"), ("w1", "b")], None), ["w1"], "the first control plane is fresh");
        // All addresses are another cluster's: only the desk can know.
        assert_eq!(found(&[("cp1", "b"), ("w1", "b")], Some("a")), ["cp1", "w1"]);
        assert_eq!(found(&[("cp1", "b"), ("w1", "a")], Some("a")), ["cp1"]);
    }
}
