//! PATCH with `application/apply-patch+yaml`: server-side apply.

use jiff::Timestamp;
use kinit_apimachinery::apply::{Applier, Conflict, apply};
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::{ApiError, Cause, time};
use serde_json::{Value, json};

use super::decode::{self, Wanted};
use super::{Request, create, options, present, update};
use crate::authz;
use crate::http::{ApiResponse, body};

/// Media type of an applied document (JSON is YAML).
pub const MEDIA_TYPE: &str = "application/apply-patch+yaml";

/// Handles the request.
pub async fn handle(request: &Request, raw: &[u8]) -> Result<ApiResponse, ApiError> {
    let manager = request.param("fieldManager").unwrap_or("").to_owned();
    if manager.is_empty() {
        return Err(ApiError::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let dry_run = options::dry_run(request)?;
    let wanted = Wanted::of(request);
    let document = document(request, raw, &wanted)?;
    let now = time::format(Timestamp::now());
    let version = request.desc.api_version();
    let applier = Applier {
        manager: &manager,
        api_version: &version,
        subresource: &request.info.subresource,
        force: request.flag("force"),
        now: &now,
    };
    let result = update::apply(request, dry_run, |old| {
        let mut new = apply(old, &document, wanted.ty, &applier).map_err(|c| conflicts(request, &c))?;
        decode::conform(request, &mut new, &wanted, Vec::new())?;
        Ok(new)
    })
    .await;
    match result {
        Err(error) if error.code == 404 && error.name == request.info.name && request.info.subresource.is_empty() => {
            authz::require_create(request).await?;
            let new = apply(&json!({}), &document, wanted.ty, &applier).map_err(|c| conflicts(request, &c))?;
            let created = create::object_of(request, new, dry_run).await?;
            Ok(present::object(request, 201, created))
        }
        Err(error) => Err(error),
        Ok(updated) => Ok(present::object(request, 200, updated)),
    }
}

fn document(request: &Request, raw: &[u8], wanted: &Wanted<'_>) -> Result<Value, ApiError> {
    let mut value = body::yaml(raw)?;
    if !value.is_object() {
        return Err(ApiError::bad_request("the applied document is not an object"));
    }
    for key in ["apiVersion", "kind"] {
        if value.str_at(&[key]).is_empty() {
            return Err(ApiError::bad_request(format!("the applied document has no {key}")));
        }
    }
    if value.str_at(&["kind"]) != wanted.kind || value.str_at(&["apiVersion"]) != request.desc.api_version() {
        return Err(ApiError::bad_request(format!(
            "the applied document is {} {}, want {} {}",
            value.str_at(&["apiVersion"]),
            value.str_at(&["kind"]),
            request.desc.api_version(),
            wanted.kind
        )));
    }
    decode::conform(request, &mut value, wanted, Vec::new())?;
    if value.at(&["metadata", "managedFields"]).is_some() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let name = value.name().to_owned();
    if !name.is_empty() && name != request.info.name {
        return Err(ApiError::bad_request(format!(
            "name in URL does not match name in object: {} and {name}",
            request.info.name
        )));
    }
    if let Some(meta) = value.object_at(&["metadata"]) {
        meta.insert("name".into(), request.info.name.clone().into());
    }
    Ok(value)
}

fn conflicts(request: &Request, list: &[Conflict]) -> ApiError {
    let desc = &request.desc;
    let mut managers: Vec<&str> = list.iter().map(|c| c.manager.as_str()).collect();
    managers.dedup();
    let shown: Vec<String> = list.iter().map(|c| c.path.clone()).collect();
    let s = if list.len() == 1 { "" } else { "s" };
    let cause = format!(
        "Apply failed with {} conflict{s}: conflict{s} with \"{}\": {}",
        list.len(),
        managers.join("\", \""),
        shown.join(", ")
    );
    let mut error = ApiError::new(409, "Conflict", cause).about(&desc.group, &desc.plural, &request.info.name);
    error.causes = list
        .iter()
        .map(|c| Cause {
            reason: "FieldManagerConflict".into(),
            message: format!("conflict with \"{}\"", c.manager),
            field: c.path.clone(),
        })
        .collect();
    error
}
