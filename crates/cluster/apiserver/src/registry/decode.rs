//! Bodies of writes into objects that fit their type.

use kinit_apimachinery::ApiError;
use kinit_apimachinery::decode as text;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::schema::schema;
use kinit_apimachinery::status::FieldErrors;
use kinit_apimachinery::typed::Typed;
use serde_json::{Value, json};

use super::Request;
use super::options::{FieldValidation, field_validation};
use crate::http::{body, yaml};
use crate::resources::descriptor::api_version;

/// The kind a body should be of.
pub struct Wanted<'a> {
    /// API group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// What is known of its fields.
    pub ty: Typed,
}

impl<'a> Wanted<'a> {
    /// The request's own kind, or its subresource's.
    pub fn of(request: &'a Request) -> Self {
        let desc = &request.desc;
        if let Some((group, version, kind)) = desc.sub(&request.info.subresource).and_then(|s| s.gvk) {
            return Self { group, version, kind, ty: Typed::of_kind(group, version, kind) };
        }
        Self { group: &desc.group, version: &desc.version, kind: &desc.kind, ty: desc.ty.clone() }
    }
}

/// Decodes a body as the wanted kind, with unknown fields dropped, warned about or refused.
pub fn object(request: &Request, raw: &[u8], wanted: &Wanted<'_>) -> Result<Value, ApiError> {
    let kind_of = |g: &str, v: &str, k: &str| schema().by_kind(g, v, k);
    let default = (wanted.group, wanted.version, wanted.kind);
    let decoded = body::decode_document(&request.media_type, raw, default, kind_of)?;
    let mut value = decoded.value;
    check_kind(&mut value, wanted)?;
    conform(request, &mut value, wanted, decoded.duplicates)?;
    Ok(value)
}

/// Takes keys that an applied document has twice as the request says.
pub fn repeated(request: &Request, raw: &[u8]) -> Result<(), ApiError> {
    let strictness = field_validation(request);
    let repeated = if strictness == FieldValidation::Ignore { Vec::new() } else { yaml::repeated(raw) };
    if repeated.is_empty() {
        return Ok(());
    }
    let text = format!("error converting YAML to JSON: yaml: unmarshal errors:\n  {}", repeated.join("\n  "));
    match strictness {
        FieldValidation::Strict => Err(ApiError::bad_request(format!("error strict decoding YAML: {text}"))),
        _ => {
            request.warn(text);
            Ok(())
        }
    }
}

/// Fits a value to its type, taking unknown fields as the request says; 400 for what does not fit.
pub fn conform(
    request: &Request,
    value: &mut Value,
    wanted: &Wanted<'_>,
    duplicates: Vec<String>,
) -> Result<(), ApiError> {
    fit(request, value, wanted, duplicates).map_err(|problem| {
        ApiError::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: {problem}",
            kind = wanted.kind,
            version = wanted.version
        ))
    })
}

/// The same for a patched object, where upstream blames the patch with 422.
pub fn conform_patched(request: &Request, value: &mut Value, wanted: &Wanted<'_>) -> Result<(), ApiError> {
    fit(request, value, wanted, Vec::new()).map_err(|problem| {
        let mut errors = FieldErrors::default();
        let shown: String = value.to_string().chars().take(PATCH_SHOWN).collect();
        errors.invalid("patch", &shown.into(), &problem);
        ApiError::invalid("", "", "", errors.0)
    })
}

/// How much of a patched object an error shows.
const PATCH_SHOWN: usize = 1024;

fn fit(request: &Request, value: &mut Value, wanted: &Wanted<'_>, duplicates: Vec<String>) -> Result<(), String> {
    if text::depth(value) > text::MAX_DEPTH {
        return Err("exceeded max depth".into());
    }
    let mut unknown = Vec::new();
    wanted.ty.conform(value, &mut unknown)?;
    let complaints: Vec<String> = unknown
        .into_iter()
        .map(|path| format!("unknown field \"{path}\""))
        .chain(duplicates.into_iter().map(|path| format!("duplicate field \"{path}\"")))
        .collect();
    match field_validation(request) {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => complaints.into_iter().for_each(|c| request.warn(c)),
        FieldValidation::Strict if complaints.is_empty() => {}
        FieldValidation::Strict => return Err(format!("strict decoding error: {}", complaints.join(", "))),
    }
    Ok(())
}

/// apiVersion and kind must be the wanted ones; where absent they are filled in. What is refused is refused in the
/// words of upstream's scheme: unknown kinds, kinds that do not convert, and kinds that do but belong to another
/// version's path.
fn check_kind(value: &mut Value, wanted: &Wanted<'_>) -> Result<(), ApiError> {
    let expected = api_version(wanted.group, wanted.version);
    let Some(map) = value.as_object_mut() else { return Ok(()) };
    let given = |key: &str, or: &str| match map.get(key).and_then(Value::as_str).unwrap_or_default() {
        "" => or.to_owned(),
        text => text.to_owned(),
    };
    let (kind, given_version) = (given("kind", wanted.kind), given("apiVersion", &expected));
    if kind != wanted.kind && matches!(wanted.ty, Typed::Custom(_)) {
        let mut errors = FieldErrors::default();
        errors.invalid("kind", &kind.into(), &format!("must be {}", wanted.kind));
        return errors.into_result(wanted.group, wanted.kind, value.name());
    }
    if kind != wanted.kind || given_version != expected {
        let (group, version) = given_version.split_once('/').unwrap_or(("", &given_version));
        let cause = if !matches!(wanted.ty, Typed::Custom(_)) && schema().by_kind(group, version, &kind).is_none() {
            body::unregistered(&kind, &given_version)
        } else if internal(group) == internal(wanted.group) && kind == wanted.kind {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({given_version}) does not match the expected API version ({expected})"
            )));
        } else {
            format!("converting ({version}.{kind}) to ({}.{}): unknown conversion", internal(wanted.group), wanted.kind)
        };
        return Err(ApiError::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {}: {cause}",
            wanted.kind
        )));
    }
    map.shift_insert(0, "apiVersion".into(), expected.into());
    map.shift_insert(0, "kind".into(), wanted.kind.into());
    Ok(())
}

/// A patch may not turn an object into one of another kind.
pub fn same_kind(value: &Value, wanted: &Wanted<'_>) -> Result<(), ApiError> {
    check_kind(&mut json!({"kind": value.get("kind"), "apiVersion": value.get("apiVersion")}), wanted)
}

/// The package that holds a group's internal types upstream.
fn internal(group: &str) -> &str {
    match group {
        "" | "events.k8s.io" => "core",
        group => group.split('.').next().unwrap_or(group),
    }
}
