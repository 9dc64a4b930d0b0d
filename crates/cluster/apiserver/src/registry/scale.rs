//! The scale subresource: `autoscaling/v1 Scale` over spec.replicas.

use bytes::Bytes;
use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use serde_json::{Value, json};

use super::decode::{self, Wanted};
use super::{Request, options, update};
use crate::http::ApiResponse;

/// GET.
pub async fn get(request: &Request) -> Result<ApiResponse, ApiError> {
    let entry = request.server.store.get(&request.desc.prefix, &request.key()).await;
    let entry = entry.map_err(|e| request.storage_error(e))?.ok_or_else(|| request.not_found())?;
    Ok(super::present::object(request, 200, of(&entry.value())))
}

/// PUT.
pub async fn put(request: &Request, body: Bytes) -> Result<ApiResponse, ApiError> {
    let new = decode::object(request, &body, &Wanted::of(request))?;
    update::check_name(request, &new)?;
    let scale = patched(request, options::write_options(request)?, |scale| {
        *scale = new.clone();
        Ok(())
    })
    .await?;
    Ok(super::present::object(request, 200, scale))
}

/// Changes an object through its scale.
pub async fn patched(
    request: &Request,
    dry_run: bool,
    change: impl Fn(&mut Value) -> Result<(), ApiError>,
) -> Result<Value, ApiError> {
    let updated = update::apply(request, dry_run, |old| {
        let mut scale = of(old);
        change(&mut scale)?;
        let replicas = match scale.at(&["spec", "replicas"]) {
            None | Some(Value::Null) => 0,
            Some(n) => n.as_i64().ok_or_else(|| ApiError::bad_request("spec.replicas is not an integer"))?,
        };
        if replicas < 0 {
            let mut errors = kinit_apimachinery::status::FieldErrors::default();
            errors.invalid("spec.replicas", &replicas.into(), "must be greater than or equal to 0");
            errors.into_result("autoscaling", "Scale", &request.info.name)?;
        }
        let mut new = old.clone();
        new["spec"]["replicas"] = replicas.into();
        new["metadata"]["resourceVersion"] = scale.resource_version().into();
        super::metadata::bump_generation(&mut new, old);
        Ok(new)
    })
    .await?;
    Ok(of(&updated))
}

/// The scale of an object.
pub fn of(object: &Value) -> Value {
    let mut meta = json!({"name": object.name(), "namespace": object.namespace(), "uid": object.uid(),
        "resourceVersion": object.resource_version()});
    if let Some(created) = object.at(&["metadata", "creationTimestamp"]) {
        meta["creationTimestamp"] = created.clone();
    }
    let selector = match object.str_at(&["kind"]) {
        "ReplicationController" => plain_selector(object.at(&["spec", "selector"])),
        _ => label_selector(object.at(&["spec", "selector"])),
    };
    let replicas = |part: &str| object.at(&[part, "replicas"]).cloned().unwrap_or_else(|| 0.into());
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": {"replicas": replicas("spec")}, "status": {"replicas": replicas("status"), "selector": selector}})
}

fn plain_selector(labels: Option<&Value>) -> String {
    let mut terms: Vec<String> = labels
        .and_then(Value::as_object)
        .map(|m| m.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect())
        .unwrap_or_default();
    terms.sort();
    terms.join(",")
}

fn label_selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return String::new() };
    let mut out = plain_selector(selector.get("matchLabels"));
    for term in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let key = term.str_at(&["key"]);
        let values = kinit_apimachinery::meta::strings(term.get("values")).join(",");
        let text = match term.str_at(&["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(&text);
    }
    out
}
