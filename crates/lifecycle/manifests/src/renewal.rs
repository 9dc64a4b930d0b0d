//! Certificates that are renewed without anybody: a timer on every node, and what it starts. Control planes sign
//! themselves; other nodes ask the cluster.

use std::net::Ipv4Addr;

use kinit_config::{HostSpec, Role};
use kinit_resource::{Content, FileSpec, Resource, UnitState};
use serde::Serialize;
use serde_json::json;

use crate::bundle::Bundle;
use crate::phase::Phase;
use crate::template::{self, TemplateError};

const CONFIG: &str = "/etc/kubernetes/renewal.json";
const UNITS: &str = "/etc/systemd/system/kinit-renewal";
/// The first turn, in minutes after midnight, and the minutes over which all turns are spread.
const FIRST: u32 = 120;
const SPREAD: u32 = 240;

/// What a node has for it; `own` is everything else that it has, and `cluster_signs` whether the cluster signs what a
/// node asks it for.
pub(crate) fn timer(
    host: &HostSpec,
    bundle: &Bundle,
    own: &[(Phase, Resource)],
    cluster_signs: bool,
) -> Result<Vec<(Phase, Resource)>, TemplateError> {
    #[derive(Serialize)]
    struct Values {
        exec: String,
        schedule: String,
    }
    let program = bundle.kinit_path();
    // A minute of the host's own, whoever else comes and goes; neighbours in a network get different ones.
    let address = host.address.parse::<Ipv4Addr>().map(u32::from).unwrap_or_default();
    let minute = FIRST + address % SPREAD;
    let schedule = format!("*-*-* {:02}:{:02}:00", minute / 60, minute % 60);
    let values = Values { exec: format!("{program} host-renewal {CONFIG}"), schedule };
    let phase = if host.is(Role::ControlPlane) { Phase::ControlPlane } else { Phase::Network };
    let file = |path: String, mode: u32, text: String| {
        let (owner, content) = ("root:root".to_owned(), Content::Text(text));
        (phase, Resource::File(FileSpec { path, mode, owner, content, unless_exists: None }))
    };
    let timer = format!("{UNITS}.timer");
    let state = UnitState::Running { reads: vec![timer.clone()], reloads: false };
    let blob = Resource::Blob { path: program, sha256: bundle.kinit.clone(), mode: 0o755 };
    let config = json!({ "host": host.name, "clusterSigns": cluster_signs, "resources": renewed(own) });
    let mut list = Vec::new();
    if !own.iter().any(|(_, resource)| *resource == blob) {
        list.push((Phase::Binaries, blob));
    }
    list.extend([
        file(CONFIG.to_owned(), 0o600, format!("{config:#}\n")),
        file(format!("{UNITS}.service"), 0o644, template::render(template::RENEWAL_SERVICE, &values)?),
        file(timer, 0o644, template::render(template::RENEWAL_TIMER, &values)?),
        (phase, Resource::Unit { name: "kinit-renewal.timer".to_owned(), state }),
    ]);
    Ok(list)
}

/// Certificates, and the programs that read them with their health checks, in order (`kinit_agent::Renewing`).
fn renewed(own: &[(Phase, Resource)]) -> Vec<&Resource> {
    let mut ordered: Vec<&(Phase, Resource)> = own.iter().collect();
    ordered.sort_by_key(|(phase, _)| *phase);
    let leaves: Vec<String> = own
        .iter()
        .filter_map(|(_, resource)| match resource {
            Resource::Leaf(leaf) => Some(leaf.path()),
            _ => None,
        })
        .collect();
    let reads = |state: &UnitState| match state {
        UnitState::Running { reads, .. } => reads.iter().any(|file| leaves.contains(file)),
        UnitState::Stopped => false,
    };
    let counts = |resource: &Resource| match resource {
        Resource::Leaf(_) | Resource::Healthy { .. } => true,
        Resource::Unit { state, .. } => reads(state),
        _ => false,
    };
    ordered.into_iter().map(|(_, resource)| resource).filter(|resource| counts(resource)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostFacts, desired};

    #[test]
    fn nodes_renew_one_after_the_other() {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let bundle = Bundle::sample();
        let files = |host: usize| -> Vec<(String, String)> {
            let list = desired(&cluster, &cluster.spec.hosts[host], &HostFacts::default(), &bundle).unwrap();
            let text = |(_, resource): (Phase, Resource)| match resource {
                Resource::File(FileSpec { path, content: Content::Text(text), .. }) if path.contains("renewal") => {
                    Some((path, text))
                }
                _ => None,
            };
            list.into_iter().filter_map(text).collect()
        };
        assert!(files(0).is_empty(), "a load balancer has no certificates");
        let text = |host: usize, end: &str| {
            files(host).into_iter().find(|(path, _)| path.ends_with(end)).map(|(_, text)| text).unwrap()
        };
        assert!(text(1, ".timer").contains("OnCalendar=*-*-* 05:55:00\n"), "{}", text(1, ".timer"));
        assert!(text(3, ".timer").contains("OnCalendar=*-*-* 05:57:00\n"), "{}", text(3, ".timer"));
        let exec = "kinit-cdcdcdcdcdcd host-renewal /etc/kubernetes/renewal.json\n";
        assert!(text(1, ".service").contains(exec), "{}", text(1, ".service"));
        let config: serde_json::Value = serde_json::from_str(&text(1, ".json")).unwrap();
        let resources: Vec<Resource> = serde_json::from_value(config["resources"].clone()).unwrap();
        let config_of = |host: usize| -> serde_json::Value { serde_json::from_str(&text(host, ".json")).unwrap() };
        let own: Vec<Resource> = serde_json::from_value(config_of(4)["resources"].clone()).unwrap();
        let names: Vec<String> = own.iter().map(kinit_resource::what).collect();
        let of_a_worker = [
            "/etc/kubernetes/kube-netd.conf",
            "/etc/kubernetes/kube-proxy.conf",
            "kube-netd.service",
            "kube-proxy.service",
        ];
        for name in of_a_worker {
            assert!(names.iter().any(|one| one == name), "{name}: {names:?}");
        }
        assert_eq!(config_of(4)["clusterSigns"], true);
        let leaves = resources.iter().filter(|r| matches!(r, Resource::Leaf(_))).count();
        assert_eq!(leaves, 15, "all that a control plane has");
        let units: Vec<&str> = resources
            .iter()
            .filter_map(|r| if let Resource::Unit { name, .. } = r { Some(name.as_str()) } else { None })
            .collect();
        let expected = [
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "metrics-server",
            "kube-netd",
            "kube-proxy",
        ];
        assert_eq!(units, expected.map(|name| format!("{name}.service")));
    }
}
