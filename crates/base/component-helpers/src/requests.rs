//! What all containers of a pod ask for together (`k8s.io/component-helpers/resource`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use kinit_apimachinery::quantity::Quantity;

/// Amounts by name.
pub type Amounts = BTreeMap<String, Quantity>;

/// Which of the two lists of a container's requirements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// `requests`
    Requests,
    /// `limits`
    Limits,
}

/// As the API has it; text that is no quantity counts as nothing (the API server does not let it in).
pub fn amounts(map: Option<&BTreeMap<String, Text>>) -> Amounts {
    map.into_iter().flatten().map(|(name, text)| (name.clone(), text.0.parse().unwrap_or(Quantity::ZERO))).collect()
}

/// Adds amounts to others.
pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = to.get(name).copied().unwrap_or(Quantity::ZERO).plus(*amount);
        to.insert(name.clone(), sum);
    }
}

fn raise(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        if to.get(name).is_none_or(|have| have < amount) {
            to.insert(name.clone(), *amount);
        }
    }
}

/// One list of an object's requirements.
pub fn amounts_of(requirements: Option<&ResourceRequirements>, requirement: Requirement) -> Amounts {
    amounts(requirements.and_then(|r| match requirement {
        Requirement::Requests => r.requests.as_ref(),
        Requirement::Limits => r.limits.as_ref(),
    }))
}

/// The larger of all containers together and of each init container with the sidecars before it, plus overhead; what is
/// given for the pod as a whole takes the containers' place. A container that is being resized counts with the larger
/// of what it has and what it is to have.
pub fn of_pod(pod: &Pod, requirement: Requirement) -> Amounts {
    of_pod_at_least(pod, requirement, &Amounts::new())
}

/// The same, where a container that does not name one of the resources of `least` counts with that.
pub fn of_pod_at_least(pod: &Pod, requirement: Requirement, least: &Amounts) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let statuses = pod.status.as_ref();
    let infeasible = statuses.and_then(|s| s.conditions.as_ref()).into_iter().flatten();
    let infeasible = infeasible
        .into_iter()
        .find(|c| c.type_ == "PodResizePending")
        .is_some_and(|c| c.reason.as_deref() == Some("Infeasible"));
    let of = |container: &Container, statuses: Option<&Vec<ContainerStatus>>| {
        let status = statuses.into_iter().flatten().find(|s| s.name == container.name);
        let mut own = of_container(container, status, requirement, infeasible);
        least.iter().for_each(|(name, amount)| {
            own.entry(name.clone()).or_insert(*amount);
        });
        own
    };
    let mut sum = Amounts::new();
    let running = statuses.and_then(|s| s.container_statuses.as_ref());
    spec.containers.iter().for_each(|c| add(&mut sum, &of(c, running)));
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let own = if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &of(container, statuses.and_then(|s| s.init_container_statuses.as_ref())));
            sidecars.clone()
        } else {
            let mut own = of(container, None);
            add(&mut own, &sidecars);
            own
        };
        raise(&mut peak, &own);
    }
    add(&mut sum, &sidecars);
    raise(&mut sum, &peak);
    sum.extend(amounts_of(spec.resources.as_ref(), requirement));
    // As upstream: overhead is added to a limit only where there is one.
    let counts = |name: &String| requirement == Requirement::Requests || sum.contains_key(name);
    let overhead = amounts(spec.overhead.as_ref()).into_iter().filter(|(name, _)| counts(name)).collect();
    add(&mut sum, &overhead);
    sum
}

/// `determineContainerReqs`, `determineContainerLimits`.
fn of_container(
    container: &Container,
    status: Option<&ContainerStatus>,
    requirement: Requirement,
    infeasible: bool,
) -> Amounts {
    let wanted = amounts_of(container.resources.as_ref(), requirement);
    let Some(status) = status.filter(|s| s.resources.is_some()) else { return wanted };
    let mut sum = if infeasible { Amounts::new() } else { wanted };
    raise(&mut sum, &amounts_of(status.resources.as_ref(), requirement));
    if requirement == Requirement::Requests {
        raise(&mut sum, &amounts(status.allocated_resources.as_ref()));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn cpu(pod: Value, requirement: Requirement) -> String {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        of_pod(&pod, requirement).get("cpu").map_or("none".into(), Quantity::to_string)
    }

    #[test]
    fn containers_sidecars_and_overhead() {
        let c = |request: &str, limit: &str| json!({"name": "c", "resources": {"requests": {"cpu": request}, "limits": {"cpu": limit}}});
        let mut sidecar = c("500m", "1");
        sidecar["restartPolicy"] = json!("Always");
        for (spec, requests, limits) in [
            (json!({"containers": [{"name": "c"}]}), "none", "none"),
            (json!({"containers": [{"name": "c"}], "overhead": {"cpu": "10m"}}), "10m", "none"),
            (json!({"containers": [c("1", "2"), c("100m", "2")]}), "1100m", "4"),
            (json!({"containers": [c("1", "2")], "initContainers": [c("2", "2")]}), "2", "2"),
            (json!({"containers": [c("1", "2")], "initContainers": [sidecar, c("2", "2")]}), "2500m", "3"),
            (json!({"containers": [c("1", "2")], "initContainers": [sidecar], "overhead": {"cpu": "1"}}), "2500m", "4"),
            (json!({"containers": [c("1", "2")], "resources": {"requests": {"cpu": "3"}}}), "3", "2"),
        ] {
            let pod = json!({"metadata": {}, "spec": spec});
            assert_eq!(cpu(pod.clone(), Requirement::Requests), requests, "{spec}");
            assert_eq!(cpu(pod, Requirement::Limits), limits, "{spec}");
        }
    }

    #[test]
    fn resizes_count_with_the_larger() {
        let pod = |wanted: &str, has: &str, reason: Option<&str>| {
            json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": wanted}}}]},
                "status": {"conditions": reason.map(|r| json!([{"type": "PodResizePending", "status": "True", "reason": r}])),
                    "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                        "resources": {"requests": {"cpu": has}}, "allocatedResources": {"cpu": has}}]}})
        };
        for (wanted, has, reason, expected) in [
            ("1", "2", None, "2"),
            ("2", "1", None, "2"),
            ("2", "1", Some("Deferred"), "2"),
            ("2", "1", Some("Infeasible"), "1"),
        ] {
            assert_eq!(cpu(pod(wanted, has, reason), Requirement::Requests), expected, "{wanted} {has} {reason:?}");
        }
    }

    #[test]
    fn containers_that_name_nothing_count_with_the_least() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [
            {"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "1"}}}]}}))
        .unwrap();
        let least: Amounts = [("cpu".to_owned(), Quantity::from_milli(100))].into();
        assert_eq!(of_pod_at_least(&pod, Requirement::Requests, &least)["cpu"], Quantity::from_milli(1100));
    }
}
