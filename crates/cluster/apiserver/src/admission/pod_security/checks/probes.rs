//! Probes and lifecycle hooks: the kubelet asks the pod, and no host that the pod names.

use std::collections::BTreeSet;

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::{Finding, Pod, containers, names, plural, quoted};

const HANDLERS: &[&[&str]] = &[
    &["livenessProbe"],
    &["readinessProbe"],
    &["startupProbe"],
    &["lifecycle", "postStart"],
    &["lifecycle", "preStop"],
];

fn named(container: &Value) -> impl Iterator<Item = &str> {
    let handlers = HANDLERS.iter().filter_map(|path| container.at(path));
    let hosts = handlers.flat_map(|h| [h.str_at(&["httpGet", "host"]), h.str_at(&["tcpSocket", "host"])]);
    hosts.filter(|host| !host.is_empty())
}

/// `hostProbesAndHostLifecycle`, since v1.34.
pub fn hosts(pod: Pod<'_>) -> Option<Finding> {
    let bad = names(pod, |c| named(c).next().is_some());
    let hosts: BTreeSet<&str> = pod.containers().flat_map(named).collect();
    // Upstream counts a set of names here, so that its order is that of names too.
    let bad: Vec<&str> = bad.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    (!bad.is_empty()).then(|| {
        let detail = format!(
            "{} {} {} {}",
            containers(&bad),
            plural("uses", "use", bad.len()),
            plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
            quoted(hosts)
        );
        Finding::new("probe or lifecycle host", detail)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::*;
    use serde_json::json;

    #[test]
    fn every_handler_counts() {
        let ok =
            json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"port": 1, "host": ""}, "exec": {}}}]});
        assert_eq!(run(hosts, &ok), "");
        for path in HANDLERS {
            for kind in ["httpGet", "tcpSocket"] {
                let mut container = json!({kind: {"host": "10.0.0.1"}});
                for key in path.iter().rev() {
                    container = json!({*key: container});
                }
                container["name"] = "a".into();
                assert_eq!(
                    run(hosts, &json!({"initContainers": [container]})),
                    r#"probe or lifecycle host (container "a" uses probe or lifecycle host "10.0.0.1")"#,
                    "{path:?} {kind}"
                );
            }
        }
    }

    #[test]
    fn many() {
        let spec = json!({"containers": [
            {"name": "b", "livenessProbe": {"httpGet": {"host": "y"}}, "startupProbe": {"tcpSocket": {"host": "x"}}},
            {"name": "a", "readinessProbe": {"httpGet": {"host": "y"}}}]});
        assert_eq!(
            run(hosts, &spec),
            r#"probe or lifecycle host (containers "a", "b" use probe or lifecycle hosts "x", "y")"#
        );
    }
}
