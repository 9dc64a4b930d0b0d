//! Certificates that are renewed without anybody: a timer on every control plane, and what it starts.

use std::net::Ipv4Addr;

use kinit_config::HostSpec;
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

/// What a control plane has for it; `own` is everything else that it has.
pub(crate) fn timer(
    host: &HostSpec,
    bundle: &Bundle,
    own: &[(Phase, Resource)],
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
    let file = |path: String, mode: u32, text: String| {
        let (owner, content) = ("root:root".to_owned(), Content::Text(text));
        (Phase::ControlPlane, Resource::File(FileSpec { path, mode, owner, content, unless_exists: None }))
    };
    let timer = format!("{UNITS}.timer");
    let state = UnitState::Running { reads: vec![timer.clone()], reloads: false };
    let blob = Resource::Blob { path: program, sha256: bundle.kinit.clone(), mode: 0o755 };
    let mut list = Vec::new();
    if !own.iter().any(|(_, resource)| *resource == blob) {
        list.push((Phase::Binaries, blob));
    }
    list.extend([
        file(CONFIG.to_owned(), 0o600, format!("{:#}\n", json!({ "host": host.name, "resources": renewed(own) }))),
        file(format!("{UNITS}.service"), 0o644, template::render(template::RENEWAL_SERVICE, &values)?),
        file(timer, 0o644, template::render(template::RENEWAL_TIMER, &values)?),
        (Phase::ControlPlane, Resource::Unit { name: "kinit-renewal.timer".to_owned(), state }),
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
    fn control_planes_renew_one_after_the_other_and_workers_do_not() {
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
        assert!(files(4).is_empty());
        let text = |host: usize, end: &str| {
            files(host).into_iter().find(|(path, _)| path.ends_with(end)).map(|(_, text)| text).unwrap()
        };
        assert!(text(1, ".timer").contains("OnCalendar=*-*-* 05:55:00\n"), "{}", text(1, ".timer"));
        assert!(text(3, ".timer").contains("OnCalendar=*-*-* 05:57:00\n"), "{}", text(3, ".timer"));
        let exec = "kinit-cdcdcdcdcdcd host-renewal /etc/kubernetes/renewal.json\n";
        assert!(text(1, ".service").contains(exec), "{}", text(1, ".service"));
        let config: serde_json::Value = serde_json::from_str(&text(1, ".json")).unwrap();
        let resources: Vec<Resource> = serde_json::from_value(config["resources"].clone()).unwrap();
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
