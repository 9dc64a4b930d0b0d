//! The host's namespaces, files and ports.

use std::collections::BTreeSet;

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::{Finding, Pod, containers, is_true, names, plural, quoted};

/// `hostNamespaces`.
pub fn namespaces(pod: Pod<'_>) -> Option<Finding> {
    let set = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| is_true(pod.spec.get(field)));
    let set: Vec<String> = set.map(|field| format!("{field}=true")).collect();
    (!set.is_empty()).then(|| Finding::new("host namespaces", set.join(", ")))
}

/// `hostPathVolumes`.
pub fn paths(pod: Pod<'_>) -> Option<Finding> {
    let bad = pod.items("volumes").filter(|v| v.get("hostPath").is_some_and(|path| !path.is_null()));
    let bad: Vec<&str> = bad.map(|v| v.str_at(&["name"])).collect();
    (!bad.is_empty()).then(|| {
        Finding::new("hostPath volumes", format!("{} {}", plural("volume", "volumes", bad.len()), quoted(bad)))
    })
}

fn host_ports(container: &Value) -> impl Iterator<Item = String> {
    let list = container.get("ports").and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|port| port.get("hostPort")?.as_i64()).filter(|port| *port != 0).map(|port| port.to_string())
}

/// `hostPorts`; the numbers in the order of texts, as upstream.
pub fn ports(pod: Pod<'_>) -> Option<Finding> {
    let bad = names(pod, |c| host_ports(c).next().is_some());
    let ports: BTreeSet<String> = pod.containers().flat_map(host_ports).collect();
    (!bad.is_empty()).then(|| {
        let detail = format!(
            "{} {} {} {}",
            containers(&bad),
            plural("uses", "use", bad.len()),
            plural("hostPort", "hostPorts", ports.len()),
            ports.into_iter().collect::<Vec<_>>().join(", ")
        );
        Finding::new("hostPort", detail)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::*;
    use serde_json::json;

    #[test]
    fn host_namespaces() {
        assert_eq!(run(namespaces, &json!({"hostNetwork": false})), "");
        assert_eq!(run(namespaces, &json!({"hostIPC": true})), "host namespaces (hostIPC=true)");
        assert_eq!(
            run(namespaces, &json!({"hostIPC": true, "hostPID": true, "hostNetwork": true})),
            "host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)"
        );
    }

    #[test]
    fn host_paths() {
        let spec = json!({"volumes": [{"name": "a", "hostPath": {}}, {"name": "b", "emptyDir": {}}, {"name": "c", "hostPath": {"path": "/"}}]});
        assert_eq!(run(paths, &spec), r#"hostPath volumes (volumes "a", "c")"#);
    }

    #[test]
    fn ports_of_the_host() {
        let one = json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"containerPort": 8080, "hostPort": 0}]}, {"name": "b"}]});
        assert_eq!(run(ports, &one), r#"hostPort (container "a" uses hostPort 80)"#);
        let many = json!({"containers": [
            {"name": "b", "ports": [{"hostPort": 10}, {"hostPort": 9}]}, {"name": "c", "ports": [{"hostPort": 10}]}]});
        assert_eq!(run(ports, &many), r#"hostPort (containers "b", "c" use hostPorts 10, 9)"#);
    }
}
