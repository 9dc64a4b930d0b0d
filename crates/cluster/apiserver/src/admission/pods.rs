//! Plugins for pods: Priority, DefaultTolerationSeconds, RuntimeClass.

use std::collections::BTreeMap;

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::quantity::Quantity;
use kinit_apimachinery::status::FieldErrors;
use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::registry::cached;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNASKED_OVERHEAD: &str = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
const OTHER_OVERHEAD: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

fn new_pod(attributes: &Attributes<'_>) -> bool {
    attributes.kind() == ("", "Pod") && attributes.operation == Operation::Create && attributes.subresource.is_empty()
}

/// Pods stay five minutes on a node that is lost.
pub fn tolerations(attributes: &Attributes<'_>, pod: &mut Value) {
    if new_pod(attributes) {
        add_tolerations(pod);
    }
}

fn add_tolerations(pod: &mut Value) {
    let mut list = pod.at(&["spec", "tolerations"]).and_then(Value::as_array).cloned().unwrap_or_default();
    for key in [NOT_READY, UNREACHABLE] {
        let has = list.iter().any(|t| {
            let (k, effect) = (t.str_at(&["key"]), t.str_at(&["effect"]));
            (k == key || k.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if !has {
            list.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
    pod["spec"]["tolerations"] = list.into();
}

/// `--allow-privileged=false` refuses privileged containers, in pods and in templates.
pub fn privileged(attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
    if attributes.request.server.options.allow_privileged || attributes.operation == Operation::Delete {
        return Ok(());
    }
    let at = match attributes.kind() {
        ("", "Pod") => "spec",
        ("apps" | "batch" | "", _) => "spec.template.spec",
        _ => return Ok(()),
    };
    let Some(spec) = object.at(&at.split('.').collect::<Vec<_>>()) else { return Ok(()) };
    let mut errors = FieldErrors::default();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in spec.get(list).and_then(Value::as_array).into_iter().flatten().enumerate() {
            if container.at(&["securityContext", "privileged"]) == Some(&Value::Bool(true)) {
                errors
                    .forbidden(&format!("{at}.{list}[{i}].securityContext.privileged"), "disallowed by cluster policy");
            }
        }
    }
    let desc = &attributes.request.desc;
    errors.into_result(&desc.group, &desc.kind, object.name())
}

/// Resolves the priority class.
pub fn priority(attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), ApiError> {
    if !new_pod(attributes) {
        return Ok(());
    }
    let request = attributes.request;
    let name = pod.str_at(&["spec", "priorityClassName"]).to_owned();
    let class = if name.is_empty() {
        let all = cached::all(&request.server, "priorityclasses/", "")?;
        all.iter().map(|e| e.value()).find(|c| c.get("globalDefault") == Some(&Value::Bool(true)))
    } else {
        match cached::one(&request.server, "priorityclasses/", &name)? {
            Some(entry) => Some(entry.value()),
            None => {
                let cause = format!("no PriorityClass with name {name} was found");
                return Err(ApiError::forbidden("", "pods", pod.name(), &cause));
            }
        }
    };
    let (value, policy) = match &class {
        Some(class) => {
            pod["spec"]["priorityClassName"] = class.name().into();
            (class.get("value").and_then(Value::as_i64).unwrap_or(0), class.str_at(&["preemptionPolicy"]).to_owned())
        }
        None => (0, String::new()),
    };
    if let Some(given) = pod.at(&["spec", "priority"]).and_then(Value::as_i64).filter(|g| *g != value) {
        let cause = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(ApiError::forbidden("", "pods", pod.name(), &cause));
    }
    pod["spec"]["priority"] = value.into();
    if pod.at(&["spec", "preemptionPolicy"]).is_none() {
        pod["spec"]["preemptionPolicy"] = if policy.is_empty() { "PreemptLowerPriority".into() } else { policy.into() };
    }
    Ok(())
}

/// A pod's runtime class must exist; its overhead and scheduling rules become the pod's, which may bring no others.
pub fn runtime_class(attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), ApiError> {
    if !new_pod(attributes) {
        return Ok(());
    }
    let name = pod.str_at(&["spec", "runtimeClassName"]).to_owned();
    let own = pod.at(&["spec", "overhead"]).filter(|own| own.as_object().is_some_and(|o| !o.is_empty())).cloned();
    let refuse = |pod: &Value, cause: &str| Err(ApiError::forbidden("", "pods", pod.name(), cause));
    if name.is_empty() {
        return match own {
            Some(_) => refuse(pod, UNASKED_OVERHEAD),
            None => Ok(()),
        };
    }
    let class = cached::one(&attributes.request.server, "runtimeclasses/", &name)?;
    let Some(class) = class.map(|e| e.value()) else {
        return refuse(pod, &format!("pod rejected: RuntimeClass \"{name}\" not found"));
    };
    match (class.at(&["overhead", "podFixed"]), own) {
        (Some(overhead), Some(own)) if !same_amounts(overhead, &own) => return refuse(pod, OTHER_OVERHEAD),
        (Some(overhead), _) => pod["spec"]["overhead"] = overhead.clone(),
        (None, Some(_)) => return refuse(pod, UNASKED_OVERHEAD),
        (None, None) => {}
    }
    if let Some(wanted) = class.at(&["scheduling", "nodeSelector"]).and_then(Value::as_object) {
        let name = pod.name().to_owned();
        if let Some(selector) = pod.object_at(&["spec", "nodeSelector"]) {
            for (key, value) in wanted {
                if selector.get(key).is_some_and(|v| v != value) {
                    let cause = format!("conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}");
                    return Err(ApiError::forbidden("", "pods", &name, &cause));
                }
                selector.insert(key.clone(), value.clone());
            }
        }
    }
    if let Some(extra) = class.at(&["scheduling", "tolerations"]).and_then(Value::as_array) {
        let mut list = pod.at(&["spec", "tolerations"]).and_then(Value::as_array).cloned().unwrap_or_default();
        list.extend(extra.iter().filter(|t| !list.contains(t)).cloned().collect::<Vec<_>>());
        pod["spec"]["tolerations"] = list.into();
    }
    Ok(())
}

/// Whether two lists have the same quantities, however they are written.
fn same_amounts(a: &Value, b: &Value) -> bool {
    let amounts = |list: &Value| -> Option<BTreeMap<String, Quantity>> {
        let amount = |(name, text): (&String, &Value)| Some((name.clone(), text.as_str()?.parse().ok()?));
        list.as_object()?.iter().map(amount).collect()
    };
    amounts(a) == amounts(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_tolerations_count() {
        let mut pod = json!({"spec":{"tolerations":[{"operator":"Exists"}]}});
        add_tolerations(&mut pod);
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 1);
        let mut pod = json!({"spec":{"tolerations":[{"key":NOT_READY,"operator":"Exists","effect":"NoExecute"}]}});
        add_tolerations(&mut pod);
        assert_eq!(pod["spec"]["tolerations"][1]["key"], UNREACHABLE);
    }
}
