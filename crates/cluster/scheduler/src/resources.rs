//! Amounts of resources, as the scheduler counts them (`k8s.io/component-helpers/resource`, `framework.Resource`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use kinit_apimachinery::quantity::Quantity;
use kinit_component_helpers::requests::{self, Requirement, of_pod_at_least};

/// What a container without requests is taken to need when nodes are scored.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// CPU in thousandths, everything else in units (bytes, devices).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts(pub BTreeMap<String, i64>);

impl Amounts {
    /// From an object's map; text that is no quantity counts as nothing (the API server does not let it in).
    pub fn of(map: Option<&BTreeMap<String, Text>>) -> Self {
        Self::rounded(requests::amounts(map))
    }

    fn rounded(exact: requests::Amounts) -> Self {
        let rounded = |(name, amount): (String, Quantity)| {
            let whole = if name == "cpu" { amount.milli() } else { amount.value() };
            (name, whole)
        };
        Self(exact.into_iter().map(rounded).collect())
    }

    /// One resource, 0 when absent.
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Adds another's amounts.
    pub fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let sum = self.0.entry(name.clone()).or_insert(0);
            *sum = sum.saturating_add(*amount);
        }
    }

    /// Takes another's amounts away.
    pub fn subtract(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let rest = self.0.entry(name.clone()).or_insert(0);
            *rest = rest.saturating_sub(*amount);
        }
    }
}

/// A pod's request, and the one that scores use, where containers without requests count with a default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// What must fit.
    pub exact: Amounts,
    /// What is scored: at least a little CPU and memory a container.
    pub scored: Amounts,
}

/// What a pod asks for.
pub fn request(pod: &Pod) -> Request {
    let least = [
        ("cpu".to_owned(), Quantity::from_milli(DEFAULT_MILLI_CPU)),
        ("memory".to_owned(), Quantity::from_milli(DEFAULT_MEMORY * 1000)),
    ];
    let total = |least: &requests::Amounts| Amounts::rounded(of_pod_at_least(pod, Requirement::Requests, least));
    Request { exact: total(&requests::Amounts::new()), scored: total(&least.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn init_containers_and_sidecars() {
        let container = |cpu: &str, always: bool| {
            let mut c = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
            if always {
                c["restartPolicy"] = json!("Always");
            }
            c
        };
        for (init, main, overhead, expected) in [
            (json!([]), json!([container("100m", false), container("1", false)]), json!({}), 1100),
            (json!([container("2", false)]), json!([container("1", false)]), json!({}), 2000),
            (json!([container("500m", true), container("2", false)]), json!([container("1", false)]), json!({}), 2500),
            (json!([container("500m", true)]), json!([container("1", false)]), json!({"cpu": "10m"}), 1510),
        ] {
            let pod: Pod = serde_json::from_value(
                json!({"metadata": {}, "spec": {"initContainers": init, "containers": main, "overhead": overhead}}),
            )
            .unwrap();
            assert_eq!(request(&pod).exact.get("cpu"), expected, "{init} {main}");
            assert!(request(&pod).scored.get("memory") >= DEFAULT_MEMORY);
        }
    }
}
