//! What policies need to know of a pod, and no more: a node keeps this of every pod of the cluster. No IO.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod as Written};

use super::Labels;

/// TCP's number.
pub const TCP: u8 = 6;
/// UDP's number.
pub const UDP: u8 = 17;
/// SCTP's number.
pub const SCTP: u8 = 132;

/// A protocol by the API's name for it.
pub fn protocol(name: &str) -> Option<u8> {
    match name {
        "TCP" => Some(TCP),
        "UDP" => Some(UDP),
        "SCTP" => Some(SCTP),
        _ => None,
    }
}

/// A port of a container that has a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedPort {
    /// Its protocol.
    pub protocol: u8,
    /// Its name.
    pub name: String,
    /// Its number.
    pub number: u16,
}

/// A pod with a network of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, none until it has been started.
    pub addresses: Vec<IpAddr>,
    /// Whether it runs on this node.
    pub local: bool,
    /// Its containers' named ports.
    pub ports: Vec<NamedPort>,
}

impl Pod {
    /// What is to be known of a pod, as the node `own` sees it. `None` for pods that have the network of their host
    /// (upstream, "NetworkPolicy and hostNetwork pods": they are not selected, and their traffic is their node's), and
    /// for those that have ended, whose address may be another's by now.
    pub fn of(pod: &Written, own: &str) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let status = pod.status.as_ref();
        let ended = matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        if spec.host_network == Some(true) || ended {
            return None;
        }
        let all = status.and_then(|s| s.pod_ips.as_ref()).into_iter().flatten().map(|ip| ip.ip.as_str());
        let mut addresses: Vec<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
        if addresses.is_empty() {
            addresses.extend(status.and_then(|s| s.pod_ip.as_deref()).and_then(|ip| ip.parse::<IpAddr>().ok()));
        }
        let restarts = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
        let sidecars = spec.init_containers.iter().flatten().filter(restarts);
        let mut ports: Vec<NamedPort> = spec.containers.iter().chain(sidecars).flat_map(named_ports).collect();
        ports.sort();
        ports.dedup();
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        Some(Self { labels, addresses, local: spec.node_name.as_deref() == Some(own), ports })
    }

    /// The numbers of the ports of this name.
    pub fn numbers<'a>(&'a self, protocol: u8, name: &'a str) -> impl Iterator<Item = u16> + 'a {
        self.ports.iter().filter(move |port| port.protocol == protocol && port.name == name).map(|port| port.number)
    }
}

fn named_ports(container: &Container) -> Vec<NamedPort> {
    let all = container.ports.iter().flatten();
    all.filter_map(|port| {
        let name = port.name.clone().filter(|name| !name.is_empty())?;
        let protocol = protocol(port.protocol.as_deref().unwrap_or("TCP"))?;
        Some(NamedPort { protocol, name, number: u16::try_from(port.container_port).ok()? })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value, status: Value) -> Option<Pod> {
        let written = json!({"metadata": {"labels": {"a": "b"}}, "spec": spec, "status": status});
        Pod::of(&serde_json::from_value(written).unwrap(), "here")
    }

    #[test]
    fn only_pods_with_a_network_of_their_own_count() {
        let containers = json!([{"name": "c", "ports": [
            {"name": "http", "containerPort": 80}, {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"containerPort": 7}, {"name": "odd", "containerPort": 70000}, {"name": "odd", "containerPort": 1, "protocol": "X"}]}]);
        let sidecar = json!([
            {"name": "i", "ports": [{"name": "init", "containerPort": 1}]},
            {"name": "s", "restartPolicy": "Always", "ports": [{"name": "proxy", "containerPort": 15001}]}]);
        let spec = json!({"nodeName": "here", "containers": containers, "initContainers": sidecar});
        let running =
            json!({"phase": "Running", "podIP": "10.244.1.2", "podIPs": [{"ip": "10.244.1.2"}, {"ip": "fd00::2"}]});
        let known = pod(spec.clone(), running.clone()).unwrap();
        assert!(known.local && known.labels["a"] == "b");
        assert_eq!(known.addresses, ["10.244.1.2", "fd00::2"].map(|a| a.parse::<IpAddr>().unwrap()));
        let names: Vec<&str> = known.ports.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["http", "proxy", "dns"]);
        assert_eq!(known.numbers(TCP, "http").collect::<Vec<_>>(), [80]);
        assert_eq!(known.numbers(UDP, "http").count(), 0);

        let waiting = pod(spec.clone(), json!({"phase": "Pending"})).unwrap();
        assert!(waiting.local && waiting.addresses.is_empty());
        let one = pod(spec.clone(), json!({"podIP": "10.244.1.2"})).unwrap();
        assert_eq!(one.addresses.len(), 1);
        assert!(pod(spec.clone(), json!({"podIP": "nonsense"})).unwrap().addresses.is_empty());
        assert!(!pod(json!({"nodeName": "there", "containers": []}), running.clone()).unwrap().local);
        for gone in [json!({"phase": "Succeeded", "podIP": "10.244.1.2"}), json!({"phase": "Failed"})] {
            assert_eq!(pod(spec.clone(), gone), None);
        }
        assert_eq!(pod(json!({"hostNetwork": true, "containers": []}), running), None);
        assert_eq!(Pod::of(&Written::default(), "here"), None);
    }
}
