//! Names of `spec.hard`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;

use super::usage::of_requirements;
use crate::requests::{Requirement, amounts_of};

/// Prefix of resources that are huge pages of a size.
pub const HUGE_PAGES: &str = "hugepages-";

/// The resource that a name of `spec.hard` counts objects of: plural and group. `None` for what is worked out from
/// pods, Services and claims, or is no count.
pub fn counted(name: &str) -> Option<(&str, &str)> {
    if matches!(name, "configmaps" | "secrets" | "resourcequotas" | "replicationcontrollers") {
        return Some((name, ""));
    }
    let rest = name.strip_prefix("count/")?;
    if matches!(rest, "pods" | "services" | "persistentvolumeclaims") {
        return None;
    }
    Some(rest.split_once('.').unwrap_or((rest, "")))
}

/// Whether a resource of containers is a device or the like (`IsExtendedResourceName`).
pub fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// Whether pods are measured by the name (`podEvaluator.MatchingResources`).
pub fn is_of_pods(name: &str) -> bool {
    let Some(asked) = name.strip_prefix("requests.") else {
        return matches!(name, "pods" | "count/pods" | "limits.cpu" | "limits.memory" | "limits.ephemeral-storage")
            || is_computed(name);
    };
    is_computed(asked) || is_extended(asked)
}

fn is_computed(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE_PAGES)
}

/// Whether Services are measured by the name.
pub fn is_of_services(name: &str) -> bool {
    matches!(name, "services" | "count/services" | "services.nodeports" | "services.loadbalancers")
}

/// Whether claims are measured by the name, also of one storage class.
pub fn is_of_claims(name: &str) -> bool {
    let name = name.split_once(".storageclass.storage.k8s.io/").map_or(name, |(_, name)| name);
    matches!(name, "persistentvolumeclaims" | "count/persistentvolumeclaims" | "requests.storage")
}

/// What the pod's containers do not say of the names, in upstream's words. A quota on CPU or memory wants each
/// container to name them (`podEvaluator.Constraints`), unless the pod names them as a whole.
pub fn unsaid(pod: &Pod, names: &BTreeSet<&str>) -> Option<String> {
    const WANTED: [&str; 6] = ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
    let spec = pod.spec.as_ref()?;
    let said = |r| of_requirements(amounts_of(r, Requirement::Requests), amounts_of(r, Requirement::Limits));
    let whole = said(spec.resources.as_ref());
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let own = said(container.resources.as_ref());
        for name in WANTED.into_iter().filter(|n| names.contains(n) && !own.contains_key(*n) && !whole.contains_key(*n))
        {
            missing.entry(name).or_default().insert(&container.name);
        }
    }
    let list = |all: BTreeSet<&str>| all.into_iter().collect::<Vec<_>>().join(",");
    let texts: Vec<String> = missing.into_iter().map(|(name, who)| format!("{name} for: {}", list(who))).collect();
    (!texts.is_empty()).then(|| format!("must specify {}", texts.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_of_counts() {
        for (name, expected) in [
            ("secrets", Some(("secrets", ""))),
            ("count/configmaps", Some(("configmaps", ""))),
            ("count/deployments.apps", Some(("deployments", "apps"))),
            ("count/widgets.example.com", Some(("widgets", "example.com"))),
            ("count/pods", None),
            ("cpu", None),
        ] {
            assert_eq!(counted(name), expected, "{name}");
        }
    }

    #[test]
    fn what_a_name_is_about() {
        for (name, pods, services, claims) in [
            ("pods", true, false, false),
            ("cpu", true, false, false),
            ("requests.memory", true, false, false),
            ("limits.ephemeral-storage", true, false, false),
            ("hugepages-2Mi", true, false, false),
            ("requests.hugepages-2Mi", true, false, false),
            ("requests.example.com/gpu", true, false, false),
            ("limits.example.com/gpu", false, false, false),
            ("example.com/gpu", false, false, false),
            ("services.nodeports", false, true, false),
            ("requests.storage", false, false, true),
            ("fast.storageclass.storage.k8s.io/requests.storage", false, false, true),
            ("count/configmaps", false, false, false),
        ] {
            assert_eq!(
                (is_of_pods(name), is_of_services(name), is_of_claims(name)),
                (pods, services, claims),
                "{name}"
            );
        }
    }

    #[test]
    fn what_containers_must_say() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "1"}}}],
            "containers": [{"name": "c2"}, {"name": "c1", "resources": {"limits": {"cpu": "1"}}}]}}))
        .unwrap();
        for (names, expected) in [
            (vec!["pods", "requests.ephemeral-storage"], None),
            (vec!["limits.cpu"], Some("must specify limits.cpu for: c2,i")),
            (vec!["requests.cpu", "memory", "pods"], Some("must specify memory for: c1,c2,i; requests.cpu for: c1,c2")),
        ] {
            assert_eq!(unsaid(&pod, &names.iter().copied().collect()).as_deref(), expected, "{names:?}");
        }
        let mut whole = pod;
        whole.spec.as_mut().unwrap().resources = serde_json::from_value(json!({"limits": {"cpu": "2"}})).unwrap();
        assert_eq!(unsaid(&whole, &["limits.cpu"].into()), None);
    }
}
