//! Options of the verbs: query parameters and `DeleteOptions` bodies.

use kinit_apimachinery::meta::{Meta, strings};
use kinit_apimachinery::schema::schema;
use kinit_apimachinery::status::FieldErrors;
use kinit_apimachinery::{ApiError, check};
use serde_json::Value;

use super::Request;
use super::list_options::integer;
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

/// `fieldValidation`, checked already; upstream's default is Warn.
pub fn field_validation(request: &Request) -> FieldValidation {
    match request.param("fieldValidation").unwrap_or("") {
        "Ignore" => FieldValidation::Ignore,
        "Strict" => FieldValidation::Strict,
        _ => FieldValidation::Warn,
    }
}

/// Checks what a create, an update or a patch is told, and says whether it is a dry run
/// (`ValidateCreateOptions`, `ValidateUpdateOptions`, `ValidatePatchOptions`).
pub fn write_options(request: &Request) -> Result<bool, ApiError> {
    let kind = match request.info.verb {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        _ => "PatchOptions",
    };
    let mut errors = FieldErrors::default();
    let manager = request.param("fieldManager").unwrap_or("");
    if request.info.verb == "patch" {
        if request.is_apply() && manager.is_empty() {
            errors.required("fieldManager", "is required for apply patch");
        } else if !request.is_apply() && request.param("force").is_some() {
            errors.forbidden("force", "may not be specified for non-apply patch");
        }
    }
    if manager.len() > MANAGER_LIMIT {
        errors.too_long("fieldManager", MANAGER_LIMIT);
    }
    for (at, c) in manager.char_indices().filter(|(_, c)| c.is_control()) {
        let detail = format!("invalid character U+{:04X} (at position {at})", c as u32);
        errors.invalid("fieldManager", &manager.into(), &detail);
    }
    let dry_run = dry_run(&params(request, "dryRun"), &mut errors);
    let validation = request.param("fieldValidation").unwrap_or("");
    if !matches!(validation, "" | "Ignore" | "Warn" | "Strict") {
        errors.not_supported("fieldValidation", &validation.into(), &["", "Ignore", "Strict", "Warn"]);
    }
    ApiError::invalid_options(kind, errors)?;
    Ok(dry_run)
}

/// How long a field manager's name may be, in bytes (`FieldManagerMaxLength`).
pub const MANAGER_LIMIT: usize = 128;

fn params(request: &Request, key: &str) -> Vec<String> {
    request.query.iter().filter(|(k, v)| k == key && !v.is_empty()).map(|(_, v)| v.clone()).collect()
}

fn dry_run(given: &[String], errors: &mut FieldErrors) -> bool {
    if given.iter().any(|d| d != "All") {
        errors.not_supported("dryRun", &given.to_vec().into(), &["All"]);
    }
    !given.is_empty()
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

/// Reads the options of a delete from the body, or from the query where there is none.
pub fn delete_options(request: &Request, raw: &[u8]) -> Result<DeleteOptions, ApiError> {
    let mut given = Given { dry: params(request, "dryRun"), ..Given::default() };
    if raw.is_empty() {
        given.options.grace = integer(request, "gracePeriodSeconds")?;
        given.options.propagation = request.param("propagationPolicy").map(str::to_owned);
        given.orphan = request.param("orphanDependents").map(|_| request.flag("orphanDependents"));
    } else {
        given.read(&body_of(request, raw)?);
    }
    given.checked()
}

/// The options of an eviction: its own `deleteOptions`; it is a dry run if they or the query say so
/// (`propagateDryRun`).
pub fn eviction_options(request: &Request, eviction: &Value) -> Result<DeleteOptions, ApiError> {
    let mut given = Given { dry: params(request, "dryRun"), ..Given::default() };
    if let Some(options) = eviction.get("deleteOptions") {
        given.read(options);
    }
    given.checked()
}

/// Options as they were given.
#[derive(Default)]
struct Given {
    options: DeleteOptions,
    dry: Vec<String>,
    orphan: Option<bool>,
}

impl Given {
    /// Takes over a `DeleteOptions` object.
    fn read(&mut self, body: &Value) {
        let text = |path: &[&str]| body.at(path).and_then(Value::as_str).map(str::to_owned);
        self.options.grace = body.get("gracePeriodSeconds").and_then(Value::as_i64);
        self.options.propagation = text(&["propagationPolicy"]);
        self.options.uid = text(&["preconditions", "uid"]);
        self.options.resource_version = text(&["preconditions", "resourceVersion"]);
        self.orphan = body.get("orphanDependents").and_then(Value::as_bool).or(self.orphan);
        self.dry.extend(strings(body.get("dryRun")));
    }

    /// The options, validated and with what follows from older fields.
    fn checked(self) -> Result<DeleteOptions, ApiError> {
        let (mut out, mut errors) = (self.options, FieldErrors::default());
        validate_delete(&out, self.orphan, &mut errors);
        out.dry_run = dry_run(&self.dry, &mut errors);
        ApiError::invalid_options("DeleteOptions", errors)?;
        if out.propagation.is_none() {
            out.propagation = self.orphan.map(|orphan| if orphan { "Orphan" } else { "Background" }.to_owned());
        }
        if out.grace.is_some_and(|g| g < 0) {
            // Upstream takes a negative period as "at once, but not forced".
            out.grace = Some(1);
        }
        Ok(out)
    }
}

/// Clients write the resource's own group version, or none, or meta's: the kind alone counts.
fn body_of(request: &Request, raw: &[u8]) -> Result<Value, ApiError> {
    let ty = schema().by_name("meta.v1.DeleteOptions");
    let wanted = ("meta.k8s.io", "v1", "DeleteOptions");
    let kind_of = |_: &str, _: &str, kind: &str| ty.filter(|_| kind == "DeleteOptions");
    let mut body = body::decode_document(&request.media_type, raw, wanted, kind_of)?.value;
    let unfit = |cause: String| {
        ApiError::bad_request(format!("DeleteOptions in version \"v1\" cannot be handled as a DeleteOptions: {cause}"))
    };
    if let Some(kind) = body.get("kind").and_then(Value::as_str).filter(|k| !matches!(*k, "" | "DeleteOptions")) {
        return Err(unfit(format!("converting (v1.{kind}) to (meta.DeleteOptions): unknown conversion")));
    }
    if let Some(ty) = ty {
        check::conform(&mut body, ty, &mut Vec::new()).map_err(unfit)?;
    }
    Ok(body)
}

/// `ValidateDeleteOptions`.
fn validate_delete(options: &DeleteOptions, orphan: Option<bool>, errors: &mut FieldErrors) {
    let Some(policy) = options.propagation.as_deref() else { return };
    if orphan.is_some() {
        errors.invalid(
            "propagationPolicy",
            &policy.into(),
            "orphanDependents and deletionPropagation cannot be both set",
        );
    }
    if !matches!(policy, "Orphan" | "Background" | "Foreground") {
        errors.not_supported_of("propagationPolicy", &policy.into(), &["Foreground", "Background", "Orphan", "nil"]);
    }
}
