//! Services and EndpointSlices as the proxy sees them. No IO.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// 6
    Tcp,
    /// 17
    Udp,
    /// 132
    Sctp,
}

impl Protocol {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Its name in chain names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Where a connection may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// The pod's port.
    pub port: u16,
    /// On this node.
    pub local: bool,
}

/// One port of one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// `NAMESPACE/NAME/PROTOCOL/PORTNAME`, as it appears in chain names.
    pub id: Arc<str>,
    /// The Service, `NAMESPACE/NAME`.
    pub service: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number on the service addresses.
    pub port: u16,
    /// The service address.
    pub cluster_ip: Ipv4Addr,
    /// Its number on nodes.
    pub node_port: Option<u16>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<Ipv4Addr>,
    /// Addresses of the load balancer that packets arrive with.
    pub balancer_ips: Vec<Ipv4Addr>,
    /// Who may use the load balancer's addresses; empty for everybody.
    pub source_ranges: Vec<Ipv4Net>,
    /// How long a client stays with its endpoint.
    pub affinity: Option<Duration>,
    /// Connections from outside stay on the node they arrive at.
    pub external_local: bool,
    /// Connections from pods stay on their node.
    pub internal_local: bool,
    /// The port on which balancers ask whether this node has endpoints.
    pub health_port: Option<u16>,
    /// Endpoints for policy Cluster.
    pub cluster: Vec<Endpoint>,
    /// Endpoints for policy Local.
    pub on_node: Vec<Endpoint>,
    /// How many endpoints on this node are ready: what balancers are told.
    pub ready_here: usize,
}

impl ServicePort {
    /// Whether it is reached from outside.
    pub fn has_external(&self) -> bool {
        !self.external_ips.is_empty() || !self.balancer_ips.is_empty() || self.node_port.is_some()
    }

    /// Whether what comes from outside is refused: there is no endpoint that it may go to, here or elsewhere.
    pub fn refuses_external(&self) -> bool {
        self.cluster.is_empty() && (!self.external_local || self.on_node.is_empty())
    }
}

/// Where this proxy is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The node's zone, if it says one.
    pub zone: Option<&'a str>,
}

/// An endpoint with its conditions, before the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    endpoint: Endpoint,
    ready: bool,
    serving: bool,
    terminating: bool,
    /// Whether its hints name this node; `None` without such hints.
    for_node: Option<bool>,
    /// Whether its hints name this zone; `None` without such hints.
    for_zone: Option<bool>,
}

/// Whom `trafficDistribution` leaves, told by hints of the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Near {
    Anywhere,
    Node,
    Zone,
}

/// All service ports, in the order of their ids.
#[cfg(test)]
pub fn collect(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], place: Place<'_>) -> Vec<ServicePort> {
    let mut by_service: BTreeMap<String, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in slices {
        by_service.entry(service_of(slice).unwrap_or_default()).or_default().push(slice.clone());
    }
    let mut ports: Vec<ServicePort> = services
        .iter()
        .flat_map(|service| {
            let key = format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any());
            service_ports(service, by_service.get(&key).map(Vec::as_slice).unwrap_or_default(), place)
        })
        .collect();
    ports.sort_by(|a, b| a.id.cmp(&b.id));
    ports
}

/// The Service, `NAMESPACE/NAME`, that a slice belongs to.
pub fn service_of(slice: &EndpointSlice) -> Option<String> {
    let name = slice.labels().get("kubernetes.io/service-name")?;
    Some(format!("{}/{name}", slice.namespace().unwrap_or_default()))
}

/// The ports of a Service and its slices. Headless and external-name Services have none, nor those that another proxy
/// serves.
pub fn service_ports(service: &Service, slices: &[Arc<EndpointSlice>], place: Place<'_>) -> Vec<ServicePort> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let foreign = service.labels().contains_key("service.kubernetes.io/service-proxy-name");
    let cluster_ip = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).find_map(|ip| ip.parse().ok());
    let Some(cluster_ip) = cluster_ip.filter(|_| !foreign && spec.type_.as_deref() != Some("ExternalName")) else {
        return Vec::new();
    };
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let key: Arc<str> = format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any()).into();
    let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let external_local = local(&spec.external_traffic_policy);
    let seconds = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP"))
        .then(|| Duration::from_secs(u64::try_from(seconds.unwrap_or(10_800)).unwrap_or(10_800)));
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    let number = |n: i32| u16::try_from(n).ok().filter(|n| *n > 0);
    let mut all = Vec::new();
    for port in spec.ports.iter().flatten() {
        let (Some(protocol), Some(port_number)) = (Protocol::parse(port.protocol.as_deref()), number(port.port)) else {
            continue;
        };
        let name = port.name.clone().unwrap_or_default();
        let candidates = candidates(slices, &name, protocol, place);
        let internal_local = local(&spec.internal_traffic_policy);
        all.push(ServicePort {
            id: format!("{key}/{}/{}", protocol.name(), if name.is_empty() { port_number.to_string() } else { name })
                .into(),
            service: key.clone(),
            protocol,
            port: port_number,
            cluster_ip,
            node_port: port.node_port.and_then(number).filter(|_| kind != "ClusterIP"),
            external_ips: spec.external_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect(),
            balancer_ips: balancer_ips(service),
            source_ranges: ranges.clone().filter_map(|r| r.trim().parse().ok()).collect(),
            affinity,
            external_local,
            internal_local,
            health_port: spec.health_check_node_port.and_then(number).filter(|_| external_local),
            cluster: choose(&candidates, near(&candidates), |_| true),
            on_node: choose(&candidates, Near::Anywhere, |e| e.local),
            ready_here: candidates.iter().filter(|c| c.ready && c.endpoint.local).count(),
        });
    }
    all
}

fn balancer_ips(service: &Service) -> Vec<Ipv4Addr> {
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = status.into_iter().flat_map(|b| b.ingress.iter().flatten());
    // With ipMode Proxy, packets arrive with the node's address: nothing to translate.
    let ours = ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
    ours.filter_map(|i| i.ip.as_ref()?.parse().ok()).collect()
}

fn candidates(slices: &[Arc<EndpointSlice>], name: &str, protocol: Protocol, place: Place<'_>) -> Vec<Candidate> {
    let mut found: BTreeMap<(Ipv4Addr, u16), Candidate> = BTreeMap::new();
    for slice in slices.iter().filter(|s| s.address_type == "IPv4") {
        let port = slice.ports.iter().flatten().find(|p| {
            p.name.as_deref().unwrap_or("") == name && Protocol::parse(p.protocol.as_deref()) == Some(protocol)
        });
        let Some(port) = port.and_then(|p| u16::try_from(p.port?).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else { continue };
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            let hints = endpoint.hints.as_ref();
            let nodes = hints.and_then(|h| h.for_nodes.as_ref()).filter(|l| !l.is_empty());
            let zones = hints.and_then(|h| h.for_zones.as_ref()).filter(|l| !l.is_empty());
            let candidate = Candidate {
                for_node: nodes.map(|l| l.iter().any(|n| n.name == place.node)),
                for_zone: zones.map(|l| l.iter().any(|z| Some(z.name.as_str()) == place.zone)),
                endpoint: Endpoint { ip, port, local: endpoint.node_name.as_deref() == Some(place.node) },
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating.unwrap_or(false),
            };
            // While an endpoint moves between slices it is in two: the ready one counts.
            let known = found.entry((ip, port)).or_insert(candidate);
            if candidate.ready {
                *known = candidate;
            }
        }
    }
    found.into_values().collect()
}

/// Hints count when every ready endpoint has them and one is meant for here: a cluster that is half-way through a
/// change must not lose endpoints (`topologyModeFromHints`).
fn near(candidates: &[Candidate]) -> Near {
    let ready = || candidates.iter().filter(|c| c.ready);
    let meant = |hint: fn(&Candidate) -> Option<bool>| {
        ready().all(|c| hint(c).is_some()) && ready().any(|c| hint(c) == Some(true))
    };
    if meant(|c| c.for_node) {
        Near::Node
    } else if meant(|c| c.for_zone) {
        Near::Zone
    } else {
        Near::Anywhere
    }
}

/// Ready endpoints that are near; without any, those that still serve while they end (`CategorizeEndpoints`).
fn choose(candidates: &[Candidate], near: Near, eligible: impl Fn(&Endpoint) -> bool) -> Vec<Endpoint> {
    let pick = |test: &dyn Fn(&Candidate) -> bool| -> Vec<Endpoint> {
        let chosen: BTreeSet<Endpoint> =
            candidates.iter().filter(|c| eligible(&c.endpoint) && test(c)).map(|c| c.endpoint).collect();
        chosen.into_iter().collect()
    };
    let is_near = |c: &Candidate| match near {
        Near::Anywhere => true,
        Near::Node => c.for_node == Some(true),
        Near::Zone => c.for_zone == Some(true),
    };
    let ready = pick(&|c| c.ready && is_near(c));
    if ready.is_empty() { pick(&|c| c.serving && c.terminating) } else { ready }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub fn service(spec: Value) -> Arc<Service> {
        let mut whole =
            json!({"clusterIP": "10.96.0.10", "selector": {"a": "b"}, "ports": [{"name": "http", "port": 80}]});
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}});
        let status = if whole["type"] == "LoadBalancer" { status } else { json!({}) };
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": "s", "namespace": "n"}, "spec": whole, "status": status}),
            )
            .unwrap(),
        )
    }

    pub fn at(node: &str) -> Place<'_> {
        Place { node, zone: None }
    }

    /// (address, node, ready, serving, terminating)
    pub fn slice(endpoints: &[(&str, &str, bool, bool, bool)]) -> Arc<EndpointSlice> {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(ip, node, ready, serving, terminating)| {
                json!({"addresses": [ip], "nodeName": node,
                       "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
            })
            .collect();
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": "s-1", "namespace": "n", "labels": {"kubernetes.io/service-name": "s"}},
                "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}]
            }))
            .unwrap(),
        )
    }

    #[test]
    fn endpoints_are_chosen_as_upstream_does() {
        let (ready, ending, dead) = ((true, true, false), (false, true, true), (false, false, true));
        let ep = |ip: &'static str, node: &'static str, c: (bool, bool, bool)| (ip, node, c.0, c.1, c.2);
        for (endpoints, cluster, local) in [
            (vec![ep("10.0.0.1", "a", ready), ep("10.0.0.2", "b", ready)], vec![1, 2], vec![1]),
            (vec![ep("10.0.0.1", "a", ending), ep("10.0.0.2", "b", ready)], vec![2], vec![1]),
            (vec![ep("10.0.0.1", "a", ending), ep("10.0.0.2", "b", ending)], vec![1, 2], vec![1]),
            (vec![ep("10.0.0.1", "a", dead)], vec![], vec![]),
        ] {
            let ports = collect(&[service(json!({}))], &[slice(&endpoints)], at("a"));
            let last = |l: &[Endpoint]| l.iter().map(|e| e.ip.octets()[3]).collect::<Vec<_>>();
            assert_eq!((last(&ports[0].cluster), last(&ports[0].on_node)), (cluster, local), "{endpoints:?}");
        }
    }

    #[test]
    fn which_services_are_served() {
        for (spec, count) in [
            (json!({}), 1),
            (json!({"clusterIP": "None"}), 0),
            (json!({"clusterIP": "fd00::1"}), 0),
            (json!({"type": "ExternalName"}), 0),
            (json!({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 1, "protocol": "UDP"}]}), 2),
        ] {
            assert_eq!(collect(&[service(spec.clone())], &[], at("a")).len(), count, "{spec}");
        }
        let port = &collect(&[service(json!({"sessionAffinity": "ClientIP"}))], &[], at("a"))[0];
        assert_eq!((port.affinity, &*port.id), (Some(Duration::from_secs(10_800)), "n/s/tcp/http"));
    }

    #[test]
    fn hints_keep_traffic_near() {
        let zones = |l: &[&str]| json!({"forZones": l.iter().map(|z| json!({"name": z})).collect::<Vec<_>>()});
        let both = |node: &str, zone: &str| json!({"forNodes": [{"name": node}], "forZones": [{"name": zone}]});
        let none = json!(null);
        // Endpoints 1, 2, 3 with their hints and readiness; this is node a in zone z1.
        for (hints, ready, zone, chosen) in [
            ([none.clone(), none.clone(), none.clone()], [true; 3], Some("z1"), vec![1, 2, 3]),
            ([zones(&["z1"]), zones(&["z2"]), zones(&["z1", "z3"])], [true; 3], Some("z1"), vec![1, 3]),
            // Half-way through a roll-out of hints.
            ([zones(&["z1"]), none.clone(), zones(&["z2"])], [true; 3], Some("z1"), vec![1, 2, 3]),
            ([zones(&["z2"]), zones(&["z2"]), zones(&["z2"])], [true; 3], Some("z1"), vec![1, 2, 3]),
            ([zones(&["z1"]), zones(&["z2"]), zones(&["z2"])], [true; 3], None, vec![1, 2, 3]),
            // The near one is not ready: its hint does not count.
            ([zones(&["z1"]), zones(&["z2"]), zones(&["z2"])], [false, true, true], Some("z1"), vec![2, 3]),
            ([both("a", "z1"), both("b", "z1"), both("c", "z2")], [true; 3], Some("z1"), vec![1]),
            // Nobody on this node: the zone is next.
            ([both("x", "z1"), both("b", "z1"), both("c", "z2")], [true; 3], Some("z1"), vec![1, 2]),
        ] {
            let endpoints: Vec<Value> = hints
                .iter()
                .zip(ready)
                .enumerate()
                .map(|(i, (h, ready))| json!({"addresses": [format!("10.0.0.{}", i + 1)], "nodeName": "n", "hints": h, "conditions": {"ready": ready}}))
                .collect();
            let slice: EndpointSlice = serde_json::from_value(json!({"metadata": {"name": "s-1", "namespace": "n",
                "labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4", "endpoints": endpoints,
                "ports": [{"name": "http", "port": 8080}]}))
            .unwrap();
            let ports = collect(&[service(json!({}))], &[slice.into()], Place { node: "a", zone });
            let last: Vec<u8> = ports[0].cluster.iter().map(|e| e.ip.octets()[3]).collect();
            assert_eq!(last, chosen, "{hints:?} {ready:?} {zone:?}");
        }
    }

    #[test]
    fn balancers_are_told_of_ready_endpoints_only() {
        let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30999});
        for (endpoints, count, used) in [
            (vec![("10.0.0.1", "a", true, true, false), ("10.0.0.2", "b", true, true, false)], 1, 1),
            // It still serves who comes, but nobody should be sent any more.
            (vec![("10.0.0.1", "a", false, true, true)], 0, 1),
            (vec![("10.0.0.2", "b", true, true, false)], 0, 0),
        ] {
            let ports = collect(&[service(spec.clone())], &[slice(&endpoints)], at("a"));
            let wanted = crate::health::wanted(&ports);
            assert_eq!((wanted[&30999].1, ports[0].on_node.len()), (count, used), "{endpoints:?}");
        }
        assert!(
            crate::health::wanted(&collect(&[service(json!({"healthCheckNodePort": 30999}))], &[], at("a"))).is_empty()
        );
    }
}
