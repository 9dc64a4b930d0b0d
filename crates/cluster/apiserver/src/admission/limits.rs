//! LimitRanger: a namespace's LimitRanges give containers their defaults and keep pods and claims within bounds
//! (`plugin/pkg/admission/limitranger`).

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::quantity::Quantity;
use serde_json::{Map, Value};

use super::{Attributes, Operation};
use crate::registry::cached;

const LISTS: [&str; 2] = ["containers", "initContainers"];

fn items(attributes: &Attributes<'_>) -> Result<Vec<Value>, ApiError> {
    let request = attributes.request;
    let within = format!("{}/", request.info.namespace);
    let ranges = cached::all(&request.server, "limitranges/", &within)?;
    let items = ranges
        .iter()
        .flat_map(|entry| entry.value().at(&["spec", "limits"]).and_then(Value::as_array).cloned().unwrap_or_default());
    Ok(items.collect())
}

fn applies(attributes: &Attributes<'_>, kind: &str) -> bool {
    let update_matters = kind == "PersistentVolumeClaim" || attributes.subresource == "resize";
    attributes.kind() == ("", kind)
        && match attributes.operation {
            Operation::Create => attributes.subresource.is_empty(),
            Operation::Update => update_matters && matches!(attributes.subresource, "" | "resize"),
            Operation::Delete | Operation::Connect => false,
        }
}

/// Gives containers the defaults.
pub fn default(attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), ApiError> {
    if !applies(attributes, "Pod") || attributes.operation != Operation::Create {
        return Ok(());
    }
    for item in items(attributes)?.iter().filter(|i| i.str_at(&["type"]) == "Container") {
        default_containers(pod, item);
    }
    Ok(())
}

fn default_containers(pod: &mut Value, item: &Value) {
    for list in LISTS {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            for (from, to) in [("default", "limits"), ("defaultRequest", "requests")] {
                let Some(amounts) = item.get(from).and_then(Value::as_object) else { continue };
                let Some(target) = container.object_at(&["resources", to]) else { continue };
                for (name, amount) in amounts {
                    target.entry(name.clone()).or_insert_with(|| amount.clone());
                }
            }
        }
    }
}

/// Refuses what is out of bounds.
pub fn check(attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
    let mut problems = Vec::new();
    if applies(attributes, "Pod") {
        for item in items(attributes)? {
            check_pod(object, &item, &mut problems);
        }
    } else if applies(attributes, "PersistentVolumeClaim") {
        let requests = amounts(object.at(&["spec", "resources", "requests"]));
        for item in items(attributes)?.iter().filter(|i| i.str_at(&["type"]) == "PersistentVolumeClaim") {
            bounds(item, &requests, &Map::new(), "PersistentVolumeClaim", &mut problems);
        }
    }
    match problems.as_slice() {
        [] => Ok(()),
        many => {
            let desc = &attributes.request.desc;
            let text = if many.len() == 1 { many[0].clone() } else { format!("[{}]", many.join(", ")) };
            Err(ApiError::forbidden(&desc.group, &desc.plural, object.name(), &text))
        }
    }
}

fn amounts(value: Option<&Value>) -> Map<String, Value> {
    value.and_then(Value::as_object).cloned().unwrap_or_default()
}

fn check_pod(pod: &Value, item: &Value, problems: &mut Vec<String>) {
    match item.str_at(&["type"]) {
        "Container" => {
            for list in LISTS {
                for container in pod.at(&["spec", list]).and_then(Value::as_array).into_iter().flatten() {
                    let requests = amounts(container.at(&["resources", "requests"]));
                    let limits = amounts(container.at(&["resources", "limits"]));
                    bounds(item, &requests, &limits, "Container", problems);
                }
            }
        }
        "Pod" => bounds(item, &sum(pod, "requests"), &sum(pod, "limits"), "Pod", problems),
        _ => {}
    }
}

fn sum(pod: &Value, kind: &str) -> Map<String, Value> {
    let mut out: Map<String, Value> = Map::new();
    for container in pod.at(&["spec", "containers"]).and_then(Value::as_array).into_iter().flatten() {
        for (name, amount) in amounts(container.at(&["resources", kind])) {
            let total = quantity(out.get(&name))
                .unwrap_or(Quantity::ZERO)
                .plus(quantity(Some(&amount)).unwrap_or(Quantity::ZERO));
            out.insert(name, total.to_string().into());
        }
    }
    out
}

fn quantity(value: Option<&Value>) -> Option<Quantity> {
    value?.as_str()?.parse().ok()
}

/// Upstream's three rules: at least the minimum asked for, at most the maximum allowed, and a bounded ratio between
/// them.
fn bounds(
    item: &Value,
    requests: &Map<String, Value>,
    limits: &Map<String, Value>,
    kind: &str,
    problems: &mut Vec<String>,
) {
    for (name, wanted) in item.get("min").and_then(Value::as_object).into_iter().flatten() {
        let Some(least) = quantity(Some(wanted)) else { continue };
        match quantity(requests.get(name)) {
            None => problems.push(format!("minimum {name} usage per {kind} is {least}.  No request is specified")),
            Some(request) if request < least => {
                problems.push(format!("minimum {name} usage per {kind} is {least}, but request is {request}"));
            }
            Some(_) => {}
        }
    }
    for (name, wanted) in item.get("max").and_then(Value::as_object).into_iter().flatten() {
        let Some(most) = quantity(Some(wanted)) else { continue };
        if kind == "PersistentVolumeClaim" {
            if let Some(request) = quantity(requests.get(name)).filter(|r| *r > most) {
                problems.push(format!("maximum {name} usage per {kind} is {most}, but request is {request}"));
            }
            continue;
        }
        match quantity(limits.get(name)) {
            None => problems.push(format!("maximum {name} usage per {kind} is {most}.  No limit is specified")),
            Some(limit) if limit > most => {
                problems.push(format!("maximum {name} usage per {kind} is {most}, but limit is {limit}"));
            }
            Some(_) => {}
        }
    }
    for (name, wanted) in item.get("maxLimitRequestRatio").and_then(Value::as_object).into_iter().flatten() {
        let (Some(ratio), Some(request), Some(limit)) =
            (quantity(Some(wanted)), quantity(requests.get(name)), quantity(limits.get(name)))
        else {
            continue;
        };
        if request.milli() > 0
            && i128::from(limit.milli()) * 1000 > i128::from(request.milli()) * i128::from(ratio.milli())
        {
            let real = limit.milli() as f64 / request.milli() as f64;
            problems.push(format!(
                "{name} max limit to request ratio per {kind} is {ratio}, but provided ratio is {real:.6}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_then_bounds() {
        let item = json!({"type":"Container","default":{"cpu":"500m"},"defaultRequest":{"cpu":"250m"},"max":{"cpu":"1"},"min":{"cpu":"100m"}});
        let mut pod = json!({"spec":{"containers":[{"name":"a"},{"name":"b","resources":{"limits":{"cpu":"2"},"requests":{"cpu":"50m"}}}]}});
        default_containers(&mut pod, &item);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits":{"cpu":"500m"},"requests":{"cpu":"250m"}})
        );
        let mut problems = Vec::new();
        check_pod(&pod, &item, &mut problems);
        assert_eq!(
            problems,
            [
                "minimum cpu usage per Container is 100m, but request is 50m",
                "maximum cpu usage per Container is 1, but limit is 2"
            ]
        );
    }
}
