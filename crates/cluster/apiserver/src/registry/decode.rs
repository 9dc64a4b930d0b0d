//! Bodies of writes into objects that fit their type.

use kinit_apimachinery::ApiError;
use kinit_apimachinery::check;
use kinit_apimachinery::schema::schema;
use serde_json::Value;

use super::Request;
use super::options::{FieldValidation, field_validation};
use crate::http::body;
use crate::resources::descriptor::api_version;

/// The kind a body should be of.
pub struct Wanted<'a> {
    /// API group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Its schema; `None` takes anything.
    pub ty: Option<usize>,
}

impl<'a> Wanted<'a> {
    /// The request's own kind, or its subresource's.
    pub fn of(request: &'a Request) -> Self {
        let desc = &request.desc;
        if let Some((group, version, kind)) = desc.sub(&request.info.subresource).and_then(|s| s.gvk) {
            return Self { group, version, kind, ty: schema().by_kind(group, version, kind) };
        }
        Self { group: &desc.group, version: &desc.version, kind: &desc.kind, ty: desc.ty }
    }
}

/// Decodes a body as the wanted kind, with unknown fields dropped, warned about or refused.
pub fn object(request: &Request, raw: &[u8], wanted: &Wanted<'_>) -> Result<Value, ApiError> {
    let kind_of = |g: &str, v: &str, k: &str| schema().by_kind(g, v, k);
    let default = (wanted.group, wanted.version, wanted.kind);
    let decoded = body::decode_document(&request.media_type, raw, default, kind_of)?;
    let mut value = decoded.value;
    if !value.is_object() {
        return Err(ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): not an object",
            wanted.kind
        )));
    }
    check_kind(&mut value, wanted)?;
    conform(request, &mut value, wanted, decoded.duplicates)?;
    Ok(value)
}

/// Fits a value to its type, taking unknown fields as the request says.
pub fn conform(
    request: &Request,
    value: &mut Value,
    wanted: &Wanted<'_>,
    duplicates: Vec<String>,
) -> Result<(), ApiError> {
    let mut unknown = Vec::new();
    if value.get("metadata").is_some_and(|m| !m.is_object() && !m.is_null()) {
        return Err(ApiError::bad_request("metadata is not an object"));
    }
    if let Some(ty) = wanted.ty {
        check::conform(value, ty, &mut unknown).map_err(|problem| {
            ApiError::bad_request(format!(
                "{kind} in version \"{version}\" cannot be handled as a {kind}: {problem}",
                kind = wanted.kind,
                version = wanted.version
            ))
        })?;
    }
    let complaints: Vec<String> = unknown
        .into_iter()
        .map(|path| format!("unknown field \"{path}\""))
        .chain(duplicates.into_iter().map(|path| format!("duplicate field \"{path}\"")))
        .collect();
    match field_validation(request)? {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => complaints.into_iter().for_each(|c| request.warn(c)),
        FieldValidation::Strict if complaints.is_empty() => {}
        FieldValidation::Strict => {
            return Err(ApiError::bad_request(format!(
                "{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding error: {}",
                complaints.join(", "),
                kind = wanted.kind,
                version = wanted.version
            )));
        }
    }
    Ok(())
}

/// apiVersion and kind must be the wanted ones; where absent they are filled in.
fn check_kind(value: &mut Value, wanted: &Wanted<'_>) -> Result<(), ApiError> {
    let expected = api_version(wanted.group, wanted.version);
    let Some(map) = value.as_object_mut() else { return Ok(()) };
    let given_kind = map.get("kind").and_then(Value::as_str).unwrap_or_default();
    let given_version = map.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if !given_kind.is_empty() && given_kind != wanted.kind {
        return Err(ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {given_kind} was given",
            wanted.kind
        )));
    }
    if !given_version.is_empty() && given_version != expected {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({given_version}) does not match the expected API version ({expected})"
        )));
    }
    map.shift_insert(0, "apiVersion".into(), expected.into());
    map.shift_insert(0, "kind".into(), wanted.kind.into());
    Ok(())
}
