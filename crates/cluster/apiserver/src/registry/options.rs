//! Options of the verbs: query parameters and `DeleteOptions` bodies.

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::strings;
use kinit_apimachinery::schema::schema;
use serde_json::Value;

use super::Request;
use crate::http::body;

/// How strictly unknown and duplicate fields are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// Silently dropped.
    Ignore,
    /// Dropped with a warning.
    Warn,
    /// Refused.
    Strict,
}

/// `fieldValidation`; upstream's default is Warn.
pub fn field_validation(request: &Request) -> Result<FieldValidation, ApiError> {
    Ok(match request.param("fieldValidation").unwrap_or("") {
        "" | "Warn" => FieldValidation::Warn,
        "Ignore" => FieldValidation::Ignore,
        "Strict" => FieldValidation::Strict,
        other => {
            return Err(ApiError::bad_request(format!(
                "fieldValidation: Unsupported value: \"{other}\": supported values: \"Ignore\", \"Strict\", \"Warn\""
            )));
        }
    })
}

/// `dryRun=All`.
pub fn dry_run(request: &Request) -> Result<bool, ApiError> {
    match request.param("dryRun") {
        None | Some("") => Ok(false),
        Some("All") => Ok(true),
        Some(other) => {
            Err(ApiError::bad_request(format!("dryRun: Unsupported value: \"{other}\": supported values: \"All\"")))
        }
    }
}

/// What a delete is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds; `None` for the kind's default.
    pub grace: Option<i64>,
    /// `Orphan`, `Background` or `Foreground`.
    pub propagation: Option<String>,
    /// Precondition.
    pub uid: Option<String>,
    /// Precondition.
    pub resource_version: Option<String>,
    /// Change nothing.
    pub dry_run: bool,
}

/// Reads the options of a delete from the body, or from the query where the body says nothing.
pub fn delete_options(request: &Request, raw: &[u8]) -> Result<DeleteOptions, ApiError> {
    let mut out = DeleteOptions { dry_run: dry_run(request)?, ..DeleteOptions::default() };
    if raw.is_empty() {
        out.grace = match request.param("gracePeriodSeconds") {
            Some(text) => Some(text.parse().map_err(|_| ApiError::bad_request("gracePeriodSeconds is no integer"))?),
            None => None,
        };
        out.propagation = request.param("propagationPolicy").map(str::to_owned);
        if out.propagation.is_none() && request.flag("orphanDependents") {
            out.propagation = Some("Orphan".into());
        }
    } else {
        let kind_of = |_: &str, _: &str, _: &str| schema().by_name("meta.v1.DeleteOptions");
        let decoded =
            body::decode_document(&request.media_type, raw, ("meta.k8s.io", "v1", "DeleteOptions"), kind_of)?.value;
        if !decoded.is_object() {
            return Err(ApiError::bad_request("the body of a delete must be DeleteOptions"));
        }
        from_body(&mut out, &decoded)?;
    }
    match out.propagation.as_deref() {
        None | Some("Orphan" | "Background" | "Foreground") => {}
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"{other}\": supported values: \"Background\", \"Foreground\", \"Orphan\""
            )));
        }
    }
    if out.grace.is_some_and(|g| g < 0) {
        // Upstream takes a negative period as "at once, but not forced".
        out.grace = Some(1);
    }
    Ok(out)
}

fn from_body(out: &mut DeleteOptions, body: &Value) -> Result<(), ApiError> {
    if let Some(grace) = body.get("gracePeriodSeconds").filter(|g| !g.is_null()) {
        out.grace = Some(grace.as_i64().ok_or_else(|| ApiError::bad_request("gracePeriodSeconds is no integer"))?);
    }
    out.propagation = body.get("propagationPolicy").and_then(Value::as_str).map(str::to_owned);
    match body.get("orphanDependents").and_then(Value::as_bool) {
        Some(_) if out.propagation.is_some() => {
            return Err(ApiError::bad_request(
                "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        Some(true) => out.propagation = Some("Orphan".into()),
        Some(false) => out.propagation = Some("Background".into()),
        None => {}
    }
    if let Some(preconditions) = body.get("preconditions") {
        out.uid = preconditions.get("uid").and_then(Value::as_str).map(str::to_owned);
        out.resource_version = preconditions.get("resourceVersion").and_then(Value::as_str).map(str::to_owned);
    }
    out.dry_run |= strings(body.get("dryRun")).iter().any(|d| d == "All");
    Ok(())
}
