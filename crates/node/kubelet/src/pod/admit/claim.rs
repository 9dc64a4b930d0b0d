//! What one pod takes of the node: requests, a place in the number of pods, host ports.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodSpec};
use kinit_component_helpers::qos::{self, Qos};

use crate::evict::is_critical;
use crate::pod::policy::is_sidecar;
use crate::resources::{self, Asked};

/// A port on the host's addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The number.
    pub port: i32,
    /// One address, or `0.0.0.0` for all.
    pub address: String,
}

const ANY: &str = "0.0.0.0";

impl HostPort {
    /// Whether both cannot be had (`HostPortInfo.CheckConflict`).
    pub fn clashes(&self, other: &Self) -> bool {
        let same = self.protocol == other.protocol && self.port == other.port;
        same && (self.address == other.address || self.address == ANY || other.address == ANY)
    }
}

/// What a pod takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// CPU and memory.
    pub asked: Asked,
    /// Other resources, in whole units.
    pub others: BTreeMap<String, i128>,
    /// Ports of the host.
    pub ports: BTreeSet<HostPort>,
    /// The pod's class.
    pub qos: Qos,
    /// The pod's priority.
    pub priority: Option<i32>,
    /// Neither evicted nor refused for want of resources.
    pub critical: bool,
}

impl Claim {
    /// The claim of a pod.
    pub fn of(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        let others = spec.map(resources::names).unwrap_or_default().into_iter();
        let others = others.filter(|name| name != "cpu" && name != "memory").map(|name| {
            let milli = resources::asked_of(pod, &name);
            (name, milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) != 0))
        });
        Self {
            asked: resources::asked(pod),
            others: others.filter(|(_, amount)| *amount > 0).collect(),
            ports: spec.map(host_ports).unwrap_or_default(),
            qos: qos::of_pod(pod),
            priority: spec.and_then(|s| s.priority),
            critical: is_critical(pod),
        }
    }

    /// How much it takes of one resource: CPU in thousandths, all else in whole units.
    pub fn amount(&self, resource: &str) -> i128 {
        match resource {
            "cpu" => self.asked.cpu,
            "memory" => self.asked.memory,
            "pods" => 1,
            other => self.others.get(other).copied().unwrap_or(0),
        }
    }
}

/// Ports of containers that stay (`schedutil.GetHostPorts`).
fn host_ports(spec: &PodSpec) -> BTreeSet<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c: &Container| c.ports.iter().flatten());
    ports.filter_map(|port| host_port(port, spec.host_network == Some(true))).collect()
}

fn host_port(port: &ContainerPort, host_network: bool) -> Option<HostPort> {
    // The API defaults it so; pods from files come as they are.
    let number = port.host_port.or(host_network.then_some(port.container_port)).filter(|n| *n > 0)?;
    let or =
        |text: &Option<String>, default: &str| text.clone().filter(|t| !t.is_empty()).unwrap_or(default.to_owned());
    Some(HostPort { protocol: or(&port.protocol, "TCP"), port: number, address: or(&port.host_ip, ANY) })
}
