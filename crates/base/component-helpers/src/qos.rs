//! Quality of service of a pod (`pkg/apis/core/v1/helper/qos`).

use k8s_openapi::api::core::v1::{Pod, PodSpec, ResourceRequirements};
use kinit_apimachinery::quantity::Quantity;

use crate::requests::{Amounts, Requirement, add, amounts_of};

/// The class of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Limits equal requests for CPU and memory of every container.
    Guaranteed,
    /// Something is asked for.
    Burstable,
    /// Nothing is asked for.
    BestEffort,
}

impl Qos {
    /// As `status.qosClass` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The class of a pod, by its spec.
pub fn of_pod(pod: &Pod) -> Qos {
    pod.spec.as_ref().map_or(Qos::BestEffort, of_spec)
}

/// The class (`ComputePodQOS`). Resources of the pod as a whole count instead of the containers'. A limit stands in for
/// a request that is not given, as the API server defaults it: pods from files come here without its defaults.
pub fn of_spec(spec: &PodSpec) -> Qos {
    let (mut requests, mut limits, mut complete) = (Amounts::new(), Amounts::new(), true);
    let mut count = |resources: Option<&ResourceRequirements>| {
        let limit = counted(amounts_of(resources, Requirement::Limits));
        let mut request = limit.clone();
        request.extend(amounts_of(resources, Requirement::Requests));
        complete &= limit.len() == COUNTED.len();
        add(&mut requests, &counted(request));
        add(&mut limits, &limit);
    };
    if spec.resources.is_some() {
        count(spec.resources.as_ref());
    } else {
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        containers.for_each(|container| count(container.resources.as_ref()));
    }
    match requests.is_empty() && limits.is_empty() {
        true => Qos::BestEffort,
        false if complete && requests == limits => Qos::Guaranteed,
        false => Qos::Burstable,
    }
}

const COUNTED: [&str; 2] = ["cpu", "memory"];

/// Only CPU and memory make the class, and zero is as good as nothing.
fn counted(mut amounts: Amounts) -> Amounts {
    amounts.retain(|name, amount| COUNTED.contains(&name.as_str()) && *amount > Quantity::ZERO);
    amounts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let twice = json!({"cpu": "1000m", "memory": "1024Mi"});
        let c = |resources: &serde_json::Value| json!({"name": "c", "resources": resources});
        let guaranteed = c(&json!({"limits": both, "requests": twice}));
        for (spec, class) in [
            (json!({"containers": [c(&json!({}))]}), Qos::BestEffort),
            (
                json!({"containers": [c(&json!({"requests": {"cpu": "0"}, "limits": {"nvidia.com/gpu": "1"}}))]}),
                Qos::BestEffort,
            ),
            (json!({"containers": [c(&json!({"requests": {"cpu": "1"}}))]}), Qos::Burstable),
            (json!({"containers": [c(&json!({"limits": {"cpu": "1"}}))]}), Qos::Burstable),
            (json!({"containers": [guaranteed]}), Qos::Guaranteed),
            (json!({"containers": [c(&json!({"limits": both}))]}), Qos::Guaranteed),
            (json!({"containers": [c(&json!({"requests": {"cpu": "500m"}, "limits": both}))]}), Qos::Burstable),
            (json!({"containers": [guaranteed, c(&json!({}))]}), Qos::Burstable),
            (json!({"containers": [guaranteed], "initContainers": [c(&json!({}))]}), Qos::Burstable),
            (json!({"containers": [c(&json!({}))], "resources": {"limits": both}}), Qos::Guaranteed),
            (json!({"containers": [guaranteed], "resources": {"requests": {"cpu": "1"}}}), Qos::Burstable),
            (
                json!({"containers": [c(&json!({}))], "resources": {"limits": both, "requests": {"cpu": "1m"}}}),
                Qos::Burstable,
            ),
        ] {
            let parsed: PodSpec = serde_json::from_value(spec.clone()).unwrap();
            assert_eq!(of_spec(&parsed), class, "{spec}");
        }
    }
}
