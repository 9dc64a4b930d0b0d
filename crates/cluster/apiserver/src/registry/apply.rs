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
    let dry_run = options::write_options(request)?;
    let manager = request.manager().to_owned();
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
        let mut new = apply(old, &document, wanted.ty, &applier).map_err(|c| conflicts(&c))?;
        decode::conform(request, &mut new, &wanted, Vec::new())?;
        Ok(new)
    })
    .await;
    match result {
        Err(error) if error.code == 404 && error.name == request.info.name && request.info.subresource.is_empty() => {
            authz::require_create(request).await?;
            let new = apply(&json!({}), &document, wanted.ty, &applier).map_err(|c| conflicts(&c))?;
            let created = create::object_of(request, new, dry_run).await?;
            Ok(present::object(request, 201, created))
        }
        Err(error) => Err(error),
        Ok(updated) => Ok(present::object(request, 200, updated)),
    }
}

fn document(request: &Request, raw: &[u8], wanted: &Wanted<'_>) -> Result<Value, ApiError> {
    let mut value = body::yaml(raw).map_err(|e| ApiError::bad_request(format!("error decoding YAML: yaml: {e}")))?;
    if !value.is_object() {
        return Err(ApiError::bad_request("error decoding YAML: the applied document is not an object"));
    }
    for key in ["apiVersion", "kind"] {
        if value.str_at(&[key]).is_empty() {
            return Err(ApiError::bad_request(format!("the applied document has no {key}")));
        }
    }
    let version = request.desc.api_version();
    if value.str_at(&["apiVersion"]) != version {
        return Err(ApiError::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: {version}",
            value.str_at(&["apiVersion"])
        )));
    }
    decode::same_kind(&value, wanted)?;
    decode::conform(request, &mut value, wanted, Vec::new())?;
    if value.at(&["metadata", "managedFields"]).is_some() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    if value.name().is_empty()
        && let Some(meta) = value.object_at(&["metadata"])
    {
        meta.insert("name".into(), request.info.name.clone().into());
    }
    update::check_name(request, &value)?;
    Ok(value)
}

/// `NewConflictError` of upstream's field manager.
fn conflicts(list: &[Conflict]) -> ApiError {
    let message = match list {
        [one] => format!("Apply failed with 1 conflict: conflict with {}: {}", one.owner(), one.path),
        many => {
            let mut owners: Vec<String> = many.iter().map(Conflict::owner).collect();
            owners.sort();
            owners.dedup();
            let mut lines = Vec::new();
            for owner in owners {
                lines.extend(many.iter().filter(|c| c.owner() == owner).map(|c| format!("- {}", c.path)));
                let at = lines.len() - many.iter().filter(|c| c.owner() == owner).count();
                lines.insert(at, format!("conflicts with {owner}:"));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    let mut error = ApiError::new(409, "Conflict", message);
    error.causes = list
        .iter()
        .map(|c| Cause {
            reason: "FieldManagerConflict".into(),
            message: format!("conflict with {}", c.owner()),
            field: c.path.clone(),
        })
        .collect();
    error
}
