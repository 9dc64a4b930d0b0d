//! Pods: defaults, first status, quality of service.

use k8s_openapi::api::core::v1::PodSpec;
use kinit_apimachinery::meta::Meta;
use kinit_component_helpers::qos::{Qos, of_spec};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::pod_spec;
use super::tools::{absent, each, items, object};

/// Defaults of a pod.
pub fn default(pod: &mut Value) {
    let spec = object(pod, "spec");
    for list in ["initContainers", "containers"] {
        for container in each(spec, list) {
            requests_from_limits(container);
        }
    }
    absent(spec, "enableServiceLinks", true);
    pod_spec::default(spec);
}

/// A limit without a request is a request, too.
fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container.at(&["resources", "limits"]).and_then(Value::as_object).cloned() else { return };
    let resources = object(container, "resources");
    let requests = object(resources, "requests");
    for (name, amount) in limits {
        absent(requests, &name, amount);
    }
    if requests.as_object().is_some_and(Map::is_empty)
        && let Some(map) = resources.as_object_mut()
    {
        map.shift_remove("requests");
    }
}

/// A new pod is pending.
pub fn prepare_create(pod: &mut Value) {
    let mut status = json!({"phase": "Pending", "qosClass": qos(pod)});
    if !items(pod, &["spec", "schedulingGates"]).is_empty() {
        status["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates"}]);
    }
    pod["status"] = status;
}

/// Ephemeral containers have a subresource of their own.
pub fn prepare_update(new: &mut Value, old: &Value) {
    let _ = old;
    if let Some(spec) = new.get_mut("spec") {
        pod_spec::default(spec);
    }
}

/// `pods/ephemeralcontainers`: the list of containers for debugging, and the metadata.
pub fn ephemeral_update(new: &Value, old: &Value) -> Value {
    let mut out = with_metadata_of(new, old);
    match new.at(&["spec", "ephemeralContainers"]) {
        Some(list) => out["spec"]["ephemeralContainers"] = list.clone(),
        None => {
            out["spec"].as_object_mut().map(|spec| spec.shift_remove("ephemeralContainers"));
        }
    }
    out
}

/// `pods/resize`: the resources of containers, and how they are changed. Containers that are not those of the pod are
/// taken as they are: the validation refuses them.
pub fn resize_update(new: &Value, old: &Value) -> Value {
    let mut out = with_metadata_of(new, old);
    for list in ["containers", "initContainers"] {
        let wanted = items(new, &["spec", list]).to_vec();
        let same = items(old, &["spec", list])
            .iter()
            .map(|c| c.str_at(&["name"]))
            .eq(wanted.iter().map(|c| c.str_at(&["name"])));
        if !same {
            out["spec"][list] = wanted.into();
            continue;
        }
        for (container, other) in each(object(&mut out, "spec"), list).zip(&wanted) {
            let Some(map) = container.as_object_mut() else { continue };
            for key in ["resources", "resizePolicy"] {
                match other.get(key) {
                    Some(value) => map.insert(key.to_owned(), value.clone()),
                    None => map.shift_remove(key),
                };
            }
        }
    }
    out
}

fn with_metadata_of(new: &Value, old: &Value) -> Value {
    let mut out = old.clone();
    if let Some(metadata) = new.get("metadata") {
        out["metadata"] = metadata.clone();
    }
    out
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos(pod: &Value) -> &'static str {
    let spec = pod.get("spec").and_then(|spec| PodSpec::deserialize(spec).ok());
    spec.as_ref().map_or(Qos::BestEffort, of_spec).name()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_of_service() {
        let pod = |resources: Value| json!({"spec":{"containers":[{"name":"c","resources":resources}]}});
        assert_eq!(qos(&pod(json!({}))), "BestEffort");
        assert_eq!(qos(&pod(json!({"requests":{"cpu":"1"}}))), "Burstable");
        let both = json!({"cpu":"1","memory":"1Gi"});
        assert_eq!(qos(&pod(json!({"limits":both,"requests":both}))), "Guaranteed");
        let whole = json!({"spec":{"containers":[{"name":"c"}],"resources":{"limits":both,"requests":both}}});
        assert_eq!(qos(&whole), "Guaranteed");
    }
}
