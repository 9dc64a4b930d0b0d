//! What is done to pods through subresources: binding and eviction.

use bytes::Bytes;
use jiff::Timestamp;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::selector::LabelSelector;
use kinit_apimachinery::{ApiError, Cause, time};
use kinit_component_helpers::pod as helpers;
use serde_json::{Value, json};

use crate::admission::webhook::virtual_create;
use crate::http::{ApiResponse, RequestInfo, respond};
use crate::registry::decode::{self, Wanted};
use crate::registry::options::{DeleteOptions, eviction_options, write_options};
use crate::registry::ownership::Ownership;
use crate::registry::{Request, cached, delete, update};

/// A request like this one, for a pod.
fn for_pod(request: &Request, name: &str, subresource: &str) -> Result<Request, ApiError> {
    let desc =
        request.server.registry.find("", "v1", "pods").ok_or_else(|| ApiError::internal("pods are not served"))?;
    let info = RequestInfo {
        verb: "patch",
        resource: "pods".into(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
        ..request.info.clone()
    };
    Ok(Request {
        server: request.server.clone(),
        deadline: request.deadline,
        info,
        desc,
        user: request.user.clone(),
        agent: request.agent.clone(),
        query: request.query.clone(),
        media_type: request.media_type.clone(),
        accepted: request.accepted,
        warnings: parking_lot::Mutex::default(),
        annotations: parking_lot::Mutex::default(),
    })
}

/// `pods/binding` and `bindings`: the scheduler's word.
pub async fn bind(request: &Request, body: Bytes) -> Result<ApiResponse, ApiError> {
    let wanted = Wanted {
        group: "",
        version: "v1",
        kind: "Binding",
        ty: kinit_apimachinery::typed::Typed::of_kind("", "v1", "Binding"),
    };
    let mut binding = decode::object(request, &body, &wanted)?;
    let name = match (request.info.name.as_str(), binding.name()) {
        ("", name) => name.to_owned(),
        (path, "") => path.to_owned(),
        (path, name) if path == name => path.to_owned(),
        (path, name) => {
            return Err(ApiError::bad_request(format!(
                "name in URL does not match name in Binding object: {path} and {name}"
            )));
        }
    };
    let dry_run = write_options(request)?;
    virtual_create(request, &mut binding, dry_run).await?;
    let node = binding.str_at(&["target", "name"]).to_owned();
    if node.is_empty() || !matches!(binding.str_at(&["target", "kind"]), "" | "Node") {
        let mut errors = kinit_apimachinery::status::FieldErrors::default();
        if node.is_empty() {
            errors.required("target.name", "");
        } else {
            errors.not_supported("target.kind", &binding.str_at(&["target", "kind"]).into(), &["Node", "<empty>"]);
        }
        return errors.into_result("", "Binding", &name).map(|()| respond::text(200, ""));
    }
    let pod_request = for_pod(request, &name, "binding")?;
    update::apply(&pod_request, dry_run, Ownership::Kept, |pod| bound(pod, &binding, &name)).await?;
    Ok(respond::json(
        201,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

/// A pod after its binding; 409 for one that cannot be bound (`assignPod`).
fn bound(pod: &Value, binding: &Value, name: &str) -> Result<Value, ApiError> {
    let conflict = |cause: &str| Err(ApiError::conflict("", "pods/binding", name, cause));
    if !binding.uid().is_empty() && binding.uid() != pod.uid() {
        return conflict(&format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            binding.uid(),
            pod.uid()
        ));
    }
    if pod.is_deleting() {
        return conflict(&format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let host = pod.str_at(&["spec", "nodeName"]);
    if !host.is_empty() {
        return conflict(&format!("pod {name} is already assigned to node \"{host}\""));
    }
    if pod.at(&["spec", "schedulingGates"]).and_then(Value::as_array).is_some_and(|g| !g.is_empty()) {
        return conflict(&format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut pod = pod.clone();
    pod["metadata"]["resourceVersion"] = "".into();
    pod["spec"]["nodeName"] = binding.str_at(&["target", "name"]).into();
    if let (Some(target), Some(extra)) = (
        pod.object_at(&["metadata", "annotations"]),
        binding.at(&["metadata", "annotations"]).and_then(Value::as_object),
    ) {
        for (key, value) in extra {
            target.insert(key.clone(), value.clone());
        }
    }
    if pod.at(&["metadata", "annotations"]).and_then(Value::as_object).is_some_and(serde_json::Map::is_empty)
        && let Some(meta) = pod.object_at(&["metadata"])
    {
        meta.shift_remove("annotations");
    }
    scheduled(&mut pod);
    Ok(pod)
}

fn scheduled(pod: &mut Value) {
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": time::format(Timestamp::now())});
    set_condition(pod, condition);
}

/// Puts a condition in the place of the one of its type. The time of an unchanged value stays.
fn set_condition(pod: &mut Value, mut condition: Value) {
    let mut list = pod.at(&["status", "conditions"]).and_then(Value::as_array).cloned().unwrap_or_default();
    match list.iter_mut().find(|c| c.str_at(&["type"]) == condition.str_at(&["type"])) {
        Some(existing) => {
            if existing.str_at(&["status"]) == condition.str_at(&["status"])
                && let Some(since) = existing.get("lastTransitionTime")
            {
                condition["lastTransitionTime"] = since.clone();
            }
            *existing = condition;
        }
        None => list.push(condition),
    }
    if let Some(status) = pod.object_at(&["status"]) {
        status.insert("conditions".into(), list.into());
    }
}

/// `pods/eviction`: a delete that asks the disruption budgets first.
pub async fn evict(request: &Request, body: Bytes) -> Result<ApiResponse, ApiError> {
    let mut eviction = decode::object(request, &body, &Wanted::of(request))?;
    let name = request.info.name.clone();
    if !eviction.name().is_empty() && eviction.name() != name {
        return Err(ApiError::bad_request(format!("name in URL does not match name in Eviction object: {name}")));
    }
    write_options(request)?;
    let dry_run = eviction_options(request, &eviction)?.dry_run;
    virtual_create(request, &mut eviction, dry_run).await?;
    // Webhooks may have changed the options, but what was asked for as a dry run stays one.
    let mut options = eviction_options(request, &eviction)?;
    options.dry_run |= dry_run;
    let pod_request = for_pod(request, &name, "")?;
    let entry = request.server.store.get("pods/", &pod_request.key()).await.map_err(|e| request.storage_error(e))?;
    let pod = entry.ok_or_else(|| pod_request.not_found())?.value();
    let free = matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed" | "Pending") || pod.is_deleting();
    if !free {
        spend_budget(request, &pod, options.dry_run).await?;
    }
    mark_evicted(request, &mut options, &name).await?;
    delete::one(&pod_request, &options, &request.info.namespace, &name).await?;
    Ok(respond::json(
        201,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

/// Says in the pod's status why it goes, before it goes: whoever judges its end sees it (`addConditionAndDeletePod`).
async fn mark_evicted(request: &Request, options: &mut DeleteOptions, name: &str) -> Result<(), ApiError> {
    if options.dry_run {
        return Ok(());
    }
    let status_request = for_pod(request, name, "status")?;
    let marked = update::apply(&status_request, false, Ownership::Kept, |pod| {
        delete::preconditions(&status_request, options, pod, name)?;
        let mut pod = pod.clone();
        pod["metadata"]["resourceVersion"] = "".into();
        let generation = pod.at(&["metadata", "generation"]).cloned();
        set_condition(&mut pod, disruption(generation));
        Ok(pod)
    })
    .await?;
    if options.resource_version.is_some() {
        // The precondition held; the version after our own write is meant now.
        options.resource_version = Some(marked.resource_version().to_owned());
    }
    Ok(())
}

fn disruption(generation: Option<Value>) -> Value {
    let mut condition = helpers::disruption_target("EvictionByEvictionAPI", "Eviction API: evicting", Timestamp::now());
    if let Some(generation) = generation {
        condition["observedGeneration"] = generation;
    }
    condition
}

/// Takes one disruption from the pod's budget; 429 when there is none left.
async fn spend_budget(request: &Request, pod: &Value, dry_run: bool) -> Result<(), ApiError> {
    let within = format!("{}/", pod.namespace());
    let all = cached::all(&request.server, "poddisruptionbudgets/", &within)?;
    let mine: Vec<Value> = all
        .iter()
        .map(|e| e.value())
        .filter(|b| {
            LabelSelector::from_object(b.at(&["spec", "selector"])).is_some_and(|s| s.matches(|k| pod.label(k)))
        })
        .collect();
    let budget = match mine.as_slice() {
        [] => return Ok(()),
        [one] => one,
        _ => {
            return Err(ApiError::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let ready = pod["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|c| c.str_at(&["type"]) == "Ready" && c.str_at(&["status"]) == "True");
    let number = |path: &[&str]| budget.at(path).and_then(Value::as_i64).unwrap_or(0);
    let healthy_enough = number(&["status", "currentHealthy"]) >= number(&["status", "desiredHealthy"])
        && number(&["status", "desiredHealthy"]) > 0;
    let always = budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow";
    if !ready && (always || healthy_enough) {
        return Ok(());
    }
    let budget_request = for_budget(request, budget.name())?;
    let pod_name = pod.name().to_owned();
    update::apply(&budget_request, dry_run, Ownership::Kept, |budget| {
        let observed = budget.at(&["status", "observedGeneration"]).and_then(Value::as_i64).unwrap_or(0);
        let generation = budget.at(&["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
        let left = budget.at(&["status", "disruptionsAllowed"]).and_then(Value::as_i64).unwrap_or(0);
        if observed < generation || left <= 0 {
            return Err(refused(budget, observed < generation));
        }
        let mut budget = budget.clone();
        budget["metadata"]["resourceVersion"] = "".into();
        budget["status"]["disruptionsAllowed"] = (left - 1).into();
        if let Some(disrupted) = budget.object_at(&["status", "disruptedPods"]) {
            disrupted.insert(pod_name.clone(), time::format(Timestamp::now()).into());
        }
        Ok(budget)
    })
    .await?;
    Ok(())
}

fn refused(budget: &Value, not_observed: bool) -> ApiError {
    let mut error = ApiError::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 0);
    error.retry_after = not_observed.then_some(10);
    error.causes.push(Cause {
        reason: "DisruptionBudget".into(),
        message: if not_observed {
            format!("The disruption budget {} is still being processed by the server.", budget.name())
        } else {
            format!(
                "The disruption budget {} needs {} healthy pods and has {} currently",
                budget.name(),
                budget.at(&["status", "desiredHealthy"]).and_then(Value::as_i64).unwrap_or(0),
                budget.at(&["status", "currentHealthy"]).and_then(Value::as_i64).unwrap_or(0)
            )
        },
        field: String::new(),
    });
    error
}

fn for_budget(request: &Request, name: &str) -> Result<Request, ApiError> {
    let mut out = for_pod(request, name, "status")?;
    out.desc = request
        .server
        .registry
        .find("policy", "v1", "poddisruptionbudgets")
        .ok_or_else(|| ApiError::internal("disruption budgets are not served"))?;
    out.info.group = "policy".into();
    out.info.resource = "poddisruptionbudgets".into();
    Ok(out)
}
