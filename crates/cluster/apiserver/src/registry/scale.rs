//! The scale subresource: `autoscaling/v1 Scale` over spec.replicas, or over what a definition says.

use bytes::Bytes;
use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use serde_json::{Value, json};

use super::decode::{self, Wanted};
use super::ownership::Ownership;
use super::{Request, options, update};
use crate::http::ApiResponse;
use crate::resources::Descriptor;

/// Where in a custom resource its scale is (`CustomResourceSubresourceScale`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Wanted replicas.
    pub spec: Vec<String>,
    /// Replicas there are.
    pub status: Vec<String>,
    /// Their selector, as a text.
    pub selector: Option<Vec<String>>,
}

impl Paths {
    /// From paths in dots: `.spec.replicas`.
    pub fn parse(spec: &str, status: &str, selector: Option<&str>) -> Self {
        let steps = |path: &str| path.trim_start_matches('.').split('.').map(str::to_owned).collect();
        Self { spec: steps(spec), status: steps(status), selector: selector.filter(|s| !s.is_empty()).map(steps) }
    }
}

fn at<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, key| value.get(key))
}

/// The path of the wanted replicas.
pub fn replicas(desc: &Descriptor) -> Vec<&str> {
    paths(desc).map_or_else(|| vec!["spec", "replicas"], |paths| paths.spec.iter().map(String::as_str).collect())
}

fn paths(desc: &Descriptor) -> Option<&Paths> {
    desc.custom.as_ref().and_then(|custom| custom.scale.as_ref())
}

/// Sets how many replicas are wanted.
pub fn set(desc: &Descriptor, object: &mut Value, replicas: i64) {
    let Some(paths) = paths(desc) else {
        object["spec"]["replicas"] = replicas.into();
        return;
    };
    let Some((last, way)) = paths.spec.split_last() else { return };
    let way: Vec<&str> = way.iter().map(String::as_str).collect();
    if let Some(map) = object.object_at(&way) {
        map.insert(last.clone(), replicas.into());
    }
}

/// GET.
pub async fn get(request: &Request) -> Result<ApiResponse, ApiError> {
    let entry = request.server.store.get(&request.desc.prefix, &request.key()).await;
    let entry = entry.map_err(|e| request.storage_error(e))?.ok_or_else(|| request.not_found())?;
    let object = request.desc.shown(entry.value()).await?;
    check(&request.desc, &object)?;
    Ok(super::present::object(request, 200, of(&request.desc, &object)))
}

/// A custom resource that does not say how many replicas it wants has no scale.
fn check(desc: &Descriptor, object: &Value) -> Result<(), ApiError> {
    match paths(desc).filter(|paths| at(object, &paths.spec).and_then(Value::as_i64).is_none()) {
        None => Ok(()),
        Some(paths) => {
            let path = kinit_apimachinery::status::quoted(&format!(".{}", paths.spec.join(".")));
            Err(ApiError::internal(format!("the spec replicas field {path} does not exist")))
        }
    }
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
    let updated = update::apply(request, dry_run, Ownership::Recorded, |old| {
        let mut scale = of(&request.desc, old);
        change(&mut scale)?;
        changed(request, old, &scale)
    })
    .await?;
    Ok(of(&request.desc, &updated))
}

/// The object that a changed scale asks for.
pub fn changed(request: &Request, old: &Value, scale: &Value) -> Result<Value, ApiError> {
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
    set(&request.desc, &mut new, replicas);
    // Without a version the client sets no condition, whatever the kind itself demands of updates.
    if !scale.resource_version().is_empty() {
        new["metadata"]["resourceVersion"] = scale.resource_version().into();
    }
    super::metadata::bump_generation(&mut new, old, request.desc.strategy.traits().generation);
    Ok(new)
}

/// The scale of an object.
pub fn of(desc: &Descriptor, object: &Value) -> Value {
    let mut meta = json!({"name": object.name(), "namespace": object.namespace(), "uid": object.uid(),
        "resourceVersion": object.resource_version()});
    if !desc.namespaced
        && let Some(meta) = meta.as_object_mut()
    {
        meta.shift_remove("namespace");
    }
    if let Some(created) = object.at(&["metadata", "creationTimestamp"]) {
        meta["creationTimestamp"] = created.clone();
    }
    if let Some(paths) = paths(desc) {
        let number = |path: &[String]| at(object, path).and_then(Value::as_i64).unwrap_or(0);
        let selector = paths.selector.as_ref().and_then(|path| at(object, path)?.as_str()).unwrap_or_default();
        return json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
            "spec": {"replicas": number(&paths.spec)},
            "status": {"replicas": number(&paths.status), "selector": selector}});
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
