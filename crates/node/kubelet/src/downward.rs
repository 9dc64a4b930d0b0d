//! The downward API: a pod's own fields and resources, for variables and volumes (`pkg/fieldpath`,
//! `pkg/api/v1/resource`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, ResourceFieldSelector};

use crate::quantity::{milli, milli_of};

/// What the node adds to a pod's own facts.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The pod's addresses.
    pub pod_ips: Vec<String>,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// Allocatable CPU of the node in thousandths.
    pub node_cpu: i128,
    /// Allocatable memory of the node in bytes.
    pub node_memory: i128,
    /// Allocatable ephemeral storage of the node in bytes.
    pub node_storage: i128,
}

/// The value of a field path such as `metadata.labels['app']`.
pub fn field(pod: &Pod, path: &str, place: &Place) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |f: Option<&String>| f.cloned().unwrap_or_default();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(format!("fieldPath {path:?} has no subscript")),
        };
        return Ok(text(map.and_then(|m| m.get(key))));
    }
    Ok(match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => format_map(meta.labels.as_ref()),
        "metadata.annotations" => format_map(meta.annotations.as_ref()),
        "spec.nodeName" => text(spec.and_then(|s| s.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|s| s.service_account_name.as_ref())),
        "status.hostIP" => text(place.host_ips.first()),
        "status.hostIPs" => place.host_ips.join(","),
        "status.podIP" => text(place.pod_ips.first()),
        "status.podIPs" => place.pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once('[')?;
    Some((map, rest.strip_suffix(']')?.trim_matches(['\'', '"'])))
}

/// `key="value"` lines, sorted, values quoted as Go quotes them.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> =
        map.into_iter().flatten().map(|(k, v)| format!("{k}={}", serde_json::Value::from(v.as_str()))).collect();
    lines.join("\n")
}

/// The value of `limits.cpu` and the like; limits that are not set are what the node has for pods
/// (`resource.MergeContainerResourceLimits`).
pub fn resource(
    pod: &Pod,
    selector: &ResourceFieldSelector,
    default_container: &str,
    place: &Place,
) -> Result<String, String> {
    let name = selector.container_name.as_deref().filter(|n| !n.is_empty()).unwrap_or(default_container);
    let container = pod
        .spec
        .iter()
        .flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()))
        .find(|c| c.name == name)
        .ok_or_else(|| format!("container {name} not found"))?;
    let (list, what) =
        selector.resource.split_once('.').ok_or_else(|| format!("unsupported resource: {}", selector.resource))?;
    let resources = container.resources.as_ref();
    let list = match list {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return Err(format!("unsupported resource: {}", selector.resource)),
    };
    let limit = selector.resource.starts_with("limits.");
    let value = milli_of(list, what).filter(|v| *v > 0 || !limit).unwrap_or(match (limit, what) {
        (true, "cpu") => place.node_cpu,
        (true, "memory") => place.node_memory * 1000,
        (true, "ephemeral-storage") => place.node_storage * 1000,
        _ => 0,
    });
    let divisor = selector.divisor.as_ref().and_then(|d| milli(&d.0)).filter(|d| *d > 0).unwrap_or(1000);
    Ok((value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_resources() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "labels": {"b": "2", "a": "x\"y"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m"}}}]}}))
        .unwrap();
        let place = Place { node_memory: 1024, node_storage: 77, ..Place::default() };
        assert_eq!(field(&pod, "metadata.labels['b']", &place).unwrap(), "2");
        assert_eq!(field(&pod, "metadata.labels", &place).unwrap(), "a=\"x\\\"y\"\nb=\"2\"");
        assert!(field(&pod, "status.phase", &place).is_err());
        let select = |resource: &str, divisor: &str| ResourceFieldSelector {
            resource: resource.into(),
            divisor: Some(k8s_openapi::apimachinery::pkg::api::resource::Quantity(divisor.into())),
            container_name: None,
        };
        for (what, divisor, expected) in [
            ("limits.cpu", "1", "2"),
            ("limits.cpu", "1m", "1500"),
            ("limits.memory", "1Ki", "1"),
            ("requests.memory", "1", "0"),
            ("limits.ephemeral-storage", "1", "77"),
        ] {
            assert_eq!(resource(&pod, &select(what, divisor), "c", &place).unwrap(), expected, "{what}/{divisor}");
        }
    }
}
