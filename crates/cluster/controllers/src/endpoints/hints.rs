//! Whom an endpoint is meant for, as the Service's `trafficDistribution` has it (`k8s.io/endpointslice/trafficdist`).
//! No IO.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{EndpointHints, ForNode, ForZone};
use kube::ResourceExt;

/// Annotations that ask for topology-aware routing, which upstream lets win over `trafficDistribution`.
const TOPOLOGY: [&str; 2] = ["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"];

/// The hints of a ready endpoint in `zone` on `node`.
///
/// Under the topology annotation endpoints carry none: its hints are an allocation by the zones' share of CPU, which
/// upstream too leaves out whenever it does not come out even, and kube-proxy then routes over the whole cluster.
pub fn hints(service: &Service, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    let by_topology = TOPOLOGY.iter().find_map(|name| service.annotations().get(*name));
    if by_topology.is_some_and(|mode| matches!(mode.as_str(), "Auto" | "auto")) {
        return None;
    }
    let to_node = match service.spec.as_ref()?.traffic_distribution.as_deref()? {
        "PreferClose" | "PreferSameZone" => None,
        "PreferSameNode" => node,
        _ => return None,
    };
    let hints = EndpointHints {
        for_nodes: to_node.map(|name| vec![ForNode { name: name.to_owned() }]),
        for_zones: zone.map(|name| vec![ForZone { name: name.to_owned() }]),
    };
    (hints != EndpointHints::default()).then_some(hints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn near_endpoints_are_preferred() {
        let zone = json!({"forZones": [{"name": "z"}]});
        let node = json!({"forNodes": [{"name": "n"}]});
        let both = json!({"forZones": [{"name": "z"}], "forNodes": [{"name": "n"}]});
        for (distribution, mode, place, expected) in [
            (None, None, (Some("z"), Some("n")), Value::Null),
            (Some("PreferClose"), None, (Some("z"), Some("n")), zone.clone()),
            (Some("PreferSameZone"), None, (Some("z"), Some("n")), zone.clone()),
            (Some("PreferSameZone"), None, (None, Some("n")), Value::Null),
            (Some("PreferSameNode"), None, (Some("z"), Some("n")), both),
            (Some("PreferSameNode"), None, (None, Some("n")), node),
            (Some("PreferSameNode"), None, (Some("z"), None), zone.clone()),
            (Some("Elsewhere"), None, (Some("z"), Some("n")), Value::Null),
            (Some("PreferSameZone"), Some("Auto"), (Some("z"), Some("n")), Value::Null),
            (Some("PreferSameZone"), Some("Disabled"), (Some("z"), Some("n")), zone),
        ] {
            let service: Service = serde_json::from_value(json!({
                "metadata": {"name": "s", "annotations": mode.map(|m| json!({TOPOLOGY[0]: m}))},
                "spec": {"trafficDistribution": distribution},
            }))
            .unwrap();
            assert_eq!(json!(hints(&service, place.0, place.1)), expected, "{distribution:?} {mode:?} {place:?}");
        }
    }
}
