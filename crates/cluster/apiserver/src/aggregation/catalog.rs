//! All group versions that can be asked for, in the order of their priorities
//! (`pkg/controlplane/apiserver.DefaultGenericAPIServicePriorities`, `kube-aggregator/pkg/apiserver/handler_apis.go`).

use std::cmp::Reverse;
use std::sync::Arc;

use super::{Aggregator, Remote};
use crate::definitions::version::compare;
use crate::resources::Registry;

/// Group and version priority of what definitions bring (`crdregistration`).
pub const CUSTOM: (i64, i64) = (1000, 100);

/// Of built-in group versions: group, version, where the group stands, where the version stands in it. A group version
/// that is new here is given a place, too: a test wants it.
const PRIORITIES: &[(&str, &str, i64, i64)] = &[
    ("", "v1", 18_000, 1),
    ("apiregistration.k8s.io", "v1", 20_000, 18),
    ("apps", "v1", 17_800, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("autoscaling", "v1", 17_500, 15),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("node.k8s.io", "v1", 16_300, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
    ("resource.k8s.io", "v1", 15_900, 15),
];

/// The priorities of a built-in group version; `None` for others.
pub fn priority(group: &str, version: &str) -> Option<(i64, i64)> {
    let found = PRIORITIES.iter().find(|(g, v, ..)| *g == group && *v == version);
    found.map(|(_, _, of_group, of_version)| (*of_group, *of_version))
}

/// One group.
pub struct Group {
    /// Its name, "" for core.
    pub name: String,
    /// Its versions, the preferred one first.
    pub versions: Vec<Version>,
    priority: i64,
}

/// One version of a group.
pub struct Version {
    /// `v1`.
    pub name: String,
    /// Who answers, when it is not this server.
    pub remote: Option<Arc<Remote>>,
    priority: i64,
}

/// What is served here and by extension servers. A group version that both have is the extension server's.
pub fn of(registry: &Registry, aggregator: &Aggregator) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut add = |name: &str, (of_group, of_version): (i64, i64), version: &str, remote: Option<Arc<Remote>>| {
        let at = groups.iter().position(|g| g.name == name).unwrap_or_else(|| {
            groups.push(Group { name: name.to_owned(), versions: Vec::new(), priority: 0 });
            groups.len() - 1
        });
        let group = &mut groups[at];
        group.priority = group.priority.max(of_group);
        group.versions.retain(|v| v.name != version);
        group.versions.push(Version { name: version.to_owned(), remote, priority: of_version });
    };
    for (group, versions) in registry.groups() {
        versions.iter().for_each(|v| add(&group, priority(&group, v).unwrap_or(CUSTOM), v, None));
    }
    for remote in aggregator.remotes() {
        let service = &remote.service;
        if priority(&service.group, &service.version).is_none() && !service.group.is_empty() {
            let both = (service.group_priority, service.version_priority);
            add(&service.group, both, &service.version, Some(remote.clone()));
        }
    }
    for group in &mut groups {
        group.versions.sort_by(|a, b| Reverse(a.priority).cmp(&Reverse(b.priority)).then(compare(&a.name, &b.name)));
    }
    groups.sort_by(|a, b| (Reverse(a.priority), &a.name).cmp(&(Reverse(b.priority), &b.name)));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_has_its_place() {
        for (group, versions) in Registry::builtin().groups() {
            for version in versions {
                assert!(priority(&group, &version).is_some(), "{group}/{version}");
            }
        }
    }
}
