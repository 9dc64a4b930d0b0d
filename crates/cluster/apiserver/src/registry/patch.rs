//! PATCH: JSON patch, merge patch, strategic merge patch, server-side apply.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use kinit_apimachinery::{ApiError, decode as text, patch};
use serde_json::Value;

use super::decode::{self, Wanted};
use super::ownership::Ownership;
use super::{Request, options, update};
use crate::http::ApiResponse;

/// The media types we take, for 415 answers.
pub const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, application/strategic-merge-patch+json";

enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value, usize),
}

/// Handles the request.
pub async fn handle(request: &Request, raw: Bytes) -> Result<ApiResponse, ApiError> {
    if request.media_type == super::apply::MEDIA_TYPE {
        return super::apply::handle(request, &raw).await;
    }
    let dry_run = options::write_options(request)?;
    let patch = parse(request, &raw)?;
    if request.info.subresource == "scale" {
        let scale = super::scale::patched(request, dry_run, |scale| run(&patch, scale)).await?;
        return Ok(super::present::object(request, 200, scale));
    }
    let wanted = Wanted::of(request);
    let warned = AtomicBool::new(false);
    let updated = update::apply(request, dry_run, Ownership::Recorded, |old| {
        let mut new = old.clone();
        run(&patch, &mut new)?;
        if !new.is_object() {
            return Err(ApiError::bad_request("the patched object is not an object"));
        }
        if warned.swap(true, Ordering::Relaxed) {
            request.warnings.lock().clear();
        }
        decode::same_kind(&new, &wanted)?;
        decode::conform_patched(request, &mut new, &wanted)?;
        update::check_name(request, &new)?;
        Ok(new)
    })
    .await?;
    Ok(super::present::object(request, 200, updated))
}

fn parse(request: &Request, raw: &[u8]) -> Result<Patch, ApiError> {
    let json = || {
        text::json(raw)
            .map(|(value, _)| value)
            .map_err(|e| ApiError::bad_request(format!("error decoding patch: {}", text::problem(&e))))
    };
    match request.media_type.as_str() {
        "application/json-patch+json" => Ok(Patch::Json(json()?)),
        "application/merge-patch+json" => Ok(Patch::Merge(json()?)),
        "application/strategic-merge-patch+json" => {
            let ty = Wanted::of(request).ty.built_in().ok_or_else(|| {
                ApiError::unsupported_media_type(format!(
                    "strategic merge patch is not supported for {}; use merge patch",
                    request.desc.kind
                ))
            })?;
            Ok(Patch::Strategic(json()?, ty))
        }
        other => Err(ApiError::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: {ACCEPTED} (got {other})"
        ))),
    }
}

fn run(patch: &Patch, target: &mut Value) -> Result<(), ApiError> {
    match patch {
        Patch::Json(p) => patch::json(target, p).map_err(|problem| match problem {
            patch::JsonProblem::NoPatch(text) => ApiError::bad_request(text),
            patch::JsonProblem::TooMany(_) => ApiError::too_large(problem.to_string()),
            patch::JsonProblem::Failed(_) | patch::JsonProblem::TestFailed(_) => ApiError::new(
                422,
                "Invalid",
                format!("the server rejected our request due to an error in our request: {problem}"),
            ),
        }),
        Patch::Merge(p) if p.is_object() => {
            patch::merge(target, p);
            Ok(())
        }
        Patch::Merge(_) => Err(ApiError::bad_request("error decoding patch: a merge patch is an object")),
        Patch::Strategic(p, ty) => patch::strategic(target, p, *ty).map_err(ApiError::bad_request),
    }
}
