//! What one pod contributes to one Service. No IO.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kinit_component_helpers::pod::{is_ready, is_terminal};

/// A port as endpoints carry it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// The Service port's name.
    pub name: String,
    /// Number on the pod.
    pub port: i32,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// `appProtocol`.
    pub app_protocol: Option<String>,
}

/// How a pod stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conditions {
    /// Should get traffic.
    pub ready: bool,
    /// Could serve, were it not ending.
    pub serving: bool,
    /// Is ending.
    pub terminating: bool,
}

/// The pod's address of a family, if it has one and may be an endpoint at all.
pub fn address(pod: &Pod, v6: bool) -> Option<IpAddr> {
    let status = pod.status.as_ref().filter(|_| !is_terminal(pod))?;
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    all.filter_map(|ip| ip.parse::<IpAddr>().ok()).find(|ip| ip.is_ipv6() == v6)
}

/// How the pod stands towards the Service.
pub fn conditions(pod: &Pod, service: &Service) -> Conditions {
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true);
    let (serving, terminating) = (is_ready(pod), pod.metadata.deletion_timestamp.is_some());
    Conditions { ready: publish || serving && !terminating, serving, terminating }
}

/// The Service's ports on this pod, sorted; those whose name the pod does not have are left out.
pub fn ports(pod: &Pod, service: &Service) -> Vec<Port> {
    let all = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    let mut ports: Vec<Port> = all
        .filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                port: number(pod, port)?,
                protocol: protocol(port).to_owned(),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// The pod's number of a Service port (`podutil.FindPort`).
fn number(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let all = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
            all.filter(|p| p.protocol.as_deref().unwrap_or("TCP") == protocol(port))
                .find(|p| p.name.as_deref() == Some(name))
                .map(|p| p.container_port)
        }
    }
}

/// Whether a Service has no address of its own.
pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

/// The pod's name in the Service's domain, if it is to have one.
pub fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let here = spec.subdomain.as_deref() == service.metadata.name.as_deref();
    spec.hostname.clone().filter(|h| !h.is_empty() && here)
}
