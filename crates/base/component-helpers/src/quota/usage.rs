//! What one object uses, by the names that `spec.hard` has for it.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};

use super::names::{HUGE_PAGES, is_extended};
use crate::requests::{Amounts, Requirement, amounts, of_pod as asked_by};
use kinit_apimachinery::quantity::Quantity;

/// A count as an amount.
pub fn number(count: usize) -> Quantity {
    Quantity::from_milli(i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(1000))
}

fn named<const N: usize>(pairs: [(&str, usize); N]) -> Amounts {
    pairs.into_iter().map(|(name, count)| (name.to_owned(), number(count))).collect()
}

/// A pod uses its requests and limits while it may run, and counts as an object as long as it is there
/// (`PodUsageFunc`).
pub fn of_pod(pod: &Pod, now: Timestamp) -> Amounts {
    let mut usage = named([("count/pods", 1)]);
    let grace = pod.metadata.deletion_grace_period_seconds.map(SignedDuration::from_secs);
    let end = pod.metadata.deletion_timestamp.as_ref().zip(grace).and_then(|(at, grace)| at.0.checked_add(grace).ok());
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    // One that should be gone, on a node that does not say so, is not held against the namespace.
    if matches!(phase, Some("Succeeded" | "Failed")) || end.is_some_and(|end| now > end) {
        return usage;
    }
    usage.insert("pods".into(), number(1));
    usage.extend(of_requirements(asked_by(pod, Requirement::Requests), asked_by(pod, Requirement::Limits)));
    usage
}

/// Requests and limits by the names of `spec.hard` (`podComputeUsageHelper`).
pub fn of_requirements(requests: Amounts, limits: Amounts) -> Amounts {
    let mut usage = Amounts::new();
    for (name, amount) in requests {
        let native = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE_PAGES);
        if native || is_extended(&name) {
            usage.insert(format!("requests.{name}"), amount);
        }
        if native {
            usage.insert(name, amount);
        }
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), amount);
        }
    }
    usage
}

/// A Service, and the node ports and balancers it takes.
pub fn of_service(service: &Service) -> Amounts {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let all_ports = spec.and_then(|s| s.allocate_load_balancer_node_ports) != Some(false);
    let (balancers, node_ports) = match spec.and_then(|s| s.type_.as_deref()) {
        Some("NodePort") => (0, ports.len()),
        Some("LoadBalancer") if all_ports => (1, ports.len()),
        Some("LoadBalancer") => (1, ports.iter().filter(|p| p.node_port.is_some_and(|n| n != 0)).count()),
        _ => (0, 0),
    };
    named([
        ("count/services", 1),
        ("services", 1),
        ("services.loadbalancers", balancers),
        ("services.nodeports", node_ports),
    ])
}

/// A claim, and what it asks for, also by its storage class.
pub fn of_claim(claim: &PersistentVolumeClaim) -> Amounts {
    let mut usage = named([("count/persistentvolumeclaims", 1), ("persistentvolumeclaims", 1)]);
    let spec = claim.spec.as_ref();
    let requests = spec.and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
    let mut storage = amounts(requests).remove("storage").map(Quantity::rounded_up);
    // A claim that shrinks counts with what it has been given.
    let given = amounts(claim.status.as_ref().and_then(|s| s.allocated_resources.as_ref())).remove("storage");
    if let (Some(asked), Some(given)) = (storage, given.map(Quantity::rounded_up)) {
        storage = Some(asked.max(given));
    }
    let annotations = claim.metadata.annotations.as_ref();
    let class = annotations.and_then(|all| all.get("volume.beta.kubernetes.io/storage-class")).cloned();
    let class = class.or_else(|| spec.and_then(|s| s.storage_class_name.clone())).filter(|c| !c.is_empty());
    if let Some(class) = &class {
        usage.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), number(1));
    }
    if let Some(storage) = storage {
        usage.insert("requests.storage".into(), storage);
        if let Some(class) = &class {
            usage.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), storage);
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn text(usage: &Amounts) -> Value {
        usage.iter().filter(|(_, q)| **q != Quantity::ZERO).map(|(n, q)| (n.clone(), json!(q.to_string()))).collect()
    }

    #[test]
    fn what_objects_use() {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "1Gi", "example.com/gpu": "1"},
                                                          "limits": {"memory": "2Gi"}}});
        let pod = |phase: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [container, container],
                "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "1"}}}]}, "status": {"phase": phase}}))
            .unwrap()
        };
        let now = Timestamp::now();
        assert_eq!(
            text(&of_pod(&pod("Running"), now)),
            json!({"count/pods": "1", "pods": "1", "cpu": "1", "requests.cpu": "1", "memory": "2Gi", "requests.memory": "2Gi",
                   "limits.memory": "4Gi", "requests.example.com/gpu": "2"})
        );
        assert_eq!(text(&of_pod(&pod("Succeeded"), now)), json!({"count/pods": "1"}));
        let mut stuck = pod("Running");
        stuck.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now - SignedDuration::from_secs(60)));
        stuck.metadata.deletion_grace_period_seconds = Some(30);
        assert_eq!(text(&of_pod(&stuck, now)), json!({"count/pods": "1"}));

        for (type_, allocate, expected) in [
            ("ClusterIP", None, json!({"count/services": "1", "services": "1"})),
            ("NodePort", None, json!({"count/services": "1", "services": "1", "services.nodeports": "2"})),
            (
                "LoadBalancer",
                Some(false),
                json!({"count/services": "1", "services": "1", "services.loadbalancers": "1"}),
            ),
        ] {
            let service: Service =
                serde_json::from_value(json!({"spec": {"type": type_, "ports": [{"port": 1}, {"port": 2}],
                "allocateLoadBalancerNodePorts": allocate}}))
                .unwrap();
            assert_eq!(text(&of_service(&service)), expected, "{type_}");
        }
        let claim: PersistentVolumeClaim = serde_json::from_value(
            json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "5Gi"}}}}),
        )
        .unwrap();
        let mut shrinking = claim.clone();
        shrinking.status = serde_json::from_value(json!({"allocatedResources": {"storage": "6Gi"}})).unwrap();
        assert_eq!(of_claim(&shrinking)["requests.storage"].to_string(), "6Gi");
        assert_eq!(
            text(&of_claim(&claim)),
            json!({"count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1", "requests.storage": "5Gi",
                   "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
                   "fast.storageclass.storage.k8s.io/requests.storage": "5Gi"})
        );
    }
}
