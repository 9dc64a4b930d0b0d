//! Amounts of resources, as the scheduler counts them (`k8s.io/component-helpers/resource`, `framework.Resource`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use kinit_apimachinery::quantity::Quantity;

/// What a container without requests is taken to need when nodes are scored.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// CPU in thousandths, everything else in units (bytes, devices).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts(pub BTreeMap<String, i64>);

impl Amounts {
    /// From an object's map; text that is no quantity counts as nothing (the API server does not let it in).
    pub fn of(map: Option<&BTreeMap<String, Text>>) -> Self {
        let amount = |(name, text): (&String, &Text)| {
            let quantity: Quantity = text.0.parse().unwrap_or(Quantity::ZERO);
            (name.clone(), if name == "cpu" { quantity.milli() } else { quantity.value() })
        };
        Self(map.into_iter().flatten().map(amount).collect())
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

    fn raise_to(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let most = self.0.entry(name.clone()).or_insert(0);
            *most = (*most).max(*amount);
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

/// What a pod asks for: the larger of its containers together and each init container with the sidecars started before it, plus overhead.
/// Pod-level requests, where given, take the containers' place.
pub fn request(pod: &Pod) -> Request {
    let Some(spec) = &pod.spec else { return Request::default() };
    let mut request = Request { exact: total(spec, false), scored: total(spec, true) };
    let pod_level = Amounts::of(spec.resources.as_ref().and_then(|r| r.requests.as_ref()));
    for (name, amount) in pod_level.0 {
        request.exact.0.insert(name.clone(), amount);
        request.scored.0.insert(name, amount);
    }
    let overhead = Amounts::of(spec.overhead.as_ref());
    request.exact.add(&overhead);
    request.scored.add(&overhead);
    request
}

fn total(spec: &PodSpec, scored: bool) -> Amounts {
    let mut sum = Amounts::default();
    for container in &spec.containers {
        sum.add(&of_container(container, scored));
    }
    let (mut sidecars, mut peak) = (Amounts::default(), Amounts::default());
    for container in spec.init_containers.iter().flatten() {
        let own = of_container(container, scored);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&own);
            peak.raise_to(&sidecars);
        } else {
            let mut now = own;
            now.add(&sidecars);
            peak.raise_to(&now);
        }
    }
    sum.add(&sidecars);
    sum.raise_to(&peak);
    sum
}

fn of_container(container: &Container, scored: bool) -> Amounts {
    let mut amounts = Amounts::of(container.resources.as_ref().and_then(|r| r.requests.as_ref()));
    if scored {
        amounts.0.entry("cpu".into()).or_insert(DEFAULT_MILLI_CPU);
        amounts.0.entry("memory".into()).or_insert(DEFAULT_MEMORY);
    }
    amounts
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
