//! Upstream's error answers: `metav1.Status` as `k8s.io/apimachinery/pkg/api/errors` builds it.

use serde_json::{Map, Value, json};

/// One entry of `details.causes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueInvalid` and its kin.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Path of the field.
    pub field: String,
}

/// An error that becomes a `Status`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// `metav1.StatusReason`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// `details.name`.
    pub name: String,
    /// `details.group`.
    pub group: String,
    /// `details.kind` (upstream puts the resource's name there).
    pub kind: String,
    /// `details.uid`.
    pub uid: String,
    /// `details.causes`.
    pub causes: Vec<Cause>,
    /// `details.retryAfterSeconds` and the header.
    pub retry_after: Option<u32>,
    /// `metadata.continue`: where an expired list may go on.
    pub next: Option<String>,
    /// The whole `Status`, where somebody else gave it: answered as it is.
    pub given: Option<Box<Value>>,
}

/// `deployments.apps` or `pods`, as messages name a resource.
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl ApiError {
    /// An error of this code and reason, with nothing else known.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after: None,
            next: None,
            given: None,
        }
    }

    /// Says which object it is about.
    #[must_use]
    pub fn about(mut self, group: &str, resource: &str, name: &str) -> Self {
        self.group = group.to_owned();
        self.kind = resource.to_owned();
        self.name = name.to_owned();
        self
    }

    /// 404 for an object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", qualified(group, resource)))
            .about(group, resource, name)
    }

    /// 404 for a path.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 409 on create.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", qualified(group, resource)))
            .about(group, resource, name)
    }

    /// 409 on update or delete.
    pub fn conflict(group: &str, resource: &str, name: &str, cause: &str) -> Self {
        let what = qualified(group, resource);
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {what} \"{name}\": {cause}"))
            .about(group, resource, name)
    }

    /// 409 of optimistic concurrency, upstream's words.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let cause = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, cause)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403 with a reason, about an object.
    pub fn forbidden(group: &str, resource: &str, name: &str, cause: &str) -> Self {
        let what = qualified(group, resource);
        let message = match (what.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {cause}"),
            (false, true) => format!("{what} is forbidden: {cause}"),
            (false, false) => format!("{what} \"{name}\" is forbidden: {cause}"),
        };
        Self::new(403, "Forbidden", message).about(group, resource, name)
    }

    /// 405 for a path that is served, but not by this method.
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 405.
    pub fn method_not_supported(group: &str, resource: &str, action: &str) -> Self {
        let what = qualified(group, resource);
        Self::new(405, "MethodNotAllowed", format!("{action} is not supported on resources of kind \"{what}\""))
            .about(group, resource, "")
    }

    /// 406.
    pub fn not_acceptable(accepted: &str) -> Self {
        Self::new(406, "NotAcceptable", format!("only the following media types are accepted: {accepted}"))
    }

    /// 410 for a resource version or continue token that is gone.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: {}", message.into()))
    }

    /// 415.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 422 from field errors.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let texts: Vec<String> = causes
            .iter()
            .map(|c| if c.field.is_empty() { c.message.clone() } else { format!("{}: {}", c.field, c.message) })
            .collect();
        let list = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let what = qualified(group, kind);
        let mut error =
            Self::new(422, "Invalid", format!("{what} {} is invalid: {list}", quoted(name))).about(group, kind, name);
        error.causes = causes;
        error
    }

    /// 429.
    pub fn too_many_requests(message: impl Into<String>, retry_after: u32) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(429, "TooManyRequests", message) }
    }

    /// 500; the text is shown to the client, so it must hold no secrets.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 504.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", format!("Timeout: {}", message.into()))
    }

    /// 504 for a resource version that is not there yet (`NewTooLargeResourceVersionError`); clients know it by its
    /// cause.
    pub fn version_too_large(wanted: u64, current: u64) -> Self {
        let text = format!("Too large resource version: {wanted}, current: {current}");
        let cause = Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        };
        Self { retry_after: Some(1), causes: vec![cause], ..Self::timeout(text) }
    }

    /// 422 for query parameters or a body of options (`kind` is `ListOptions` and its kin).
    pub fn invalid_options(kind: &str, errors: FieldErrors) -> Result<(), Self> {
        errors.into_result("meta.k8s.io", kind, "")
    }

    /// The `Status` object.
    pub fn to_status(&self) -> Value {
        if let Some(given) = &self.given {
            return (**given).clone();
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason,
        });
        let mut details = Map::new();
        for (key, value) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !value.is_empty() {
                details.insert(key.into(), value.clone().into());
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(|c| {
                let mut cause = json!({"reason": c.reason, "message": c.message});
                if !c.field.is_empty() {
                    cause["field"] = c.field.clone().into();
                }
                cause
            });
            details.insert("causes".into(), causes.collect());
        }
        if let Some(seconds) = self.retry_after {
            details.insert("retryAfterSeconds".into(), seconds.into());
        }
        if let Some(next) = &self.next {
            status["metadata"]["continue"] = next.clone().into();
        }
        if !details.is_empty() || matches!(self.reason, "Forbidden" | "NotFound") {
            status["details"] = details.into();
        }
        status["code"] = self.code.into();
        status
    }
}

/// The answer to a delete that removed the object at once (`metav1.StatusSuccess`).
pub fn deleted(group: &str, resource: &str, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name});
    if !group.is_empty() {
        details["group"] = group.into();
    }
    details["kind"] = resource.into();
    details["uid"] = uid.into();
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Collects field errors with upstream's wording (`k8s.io/apimachinery/pkg/util/validation/field`).
#[derive(Debug, Default)]
pub struct FieldErrors(pub Vec<Cause>);

impl FieldErrors {
    fn push(&mut self, reason: &str, field: &str, message: String) {
        self.0.push(Cause { reason: reason.into(), message, field: field.into() });
    }
    /// A needed value is missing.
    pub fn required(&mut self, field: &str, detail: &str) {
        let tail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        self.push("FieldValueRequired", field, format!("Required value{tail}"));
    }
    /// A value is wrong.
    pub fn invalid(&mut self, field: &str, value: &Value, detail: &str) {
        self.push("FieldValueInvalid", field, format!("Invalid value: {}: {detail}", shown(value)));
    }
    /// A value is not allowed here.
    pub fn forbidden(&mut self, field: &str, detail: &str) {
        self.push("FieldValueForbidden", field, format!("Forbidden: {detail}"));
    }
    /// A value is there twice.
    pub fn duplicate(&mut self, field: &str, value: &Value) {
        self.push("FieldValueDuplicate", field, format!("Duplicate value: {}", shown(value)));
    }
    /// A reference to something that is not there.
    pub fn not_found(&mut self, field: &str, value: &Value) {
        self.push("FieldValueNotFound", field, format!("Not found: {}", shown(value)));
    }
    /// A text of more than `limit` bytes.
    pub fn too_long(&mut self, field: &str, limit: usize) {
        self.push("FieldValueTooLong", field, format!("Too long: may not be more than {limit} bytes"));
    }
    /// A value of a wrong type.
    pub fn type_invalid(&mut self, field: &str, value: &Value, detail: &str) {
        self.push("FieldValueTypeInvalid", field, format!("Invalid value: {}: {detail}", shown(value)));
    }
    /// A collection of more than `limit` elements.
    pub fn too_many(&mut self, field: &str, actual: usize, limit: u64) {
        self.push("FieldValueTooMany", field, format!("Too many: {actual}: must have at most {limit} items"));
    }
    /// A value outside a set, which is told in the order given.
    pub fn not_supported_of(&mut self, field: &str, value: &Value, allowed: &[&str]) {
        let allowed: Vec<String> = allowed.iter().map(|a| format!("\"{a}\"")).collect();
        let message = format!("Unsupported value: {}: supported values: {}", shown(value), allowed.join(", "));
        self.push("FieldValueNotSupported", field, message);
    }
    /// A value outside a set.
    pub fn not_supported(&mut self, field: &str, value: &Value, allowed: &[&str]) {
        let mut allowed = allowed.to_vec();
        allowed.sort_unstable();
        self.not_supported_of(field, value, &allowed);
    }
    /// `Ok` when nothing was collected.
    pub fn into_result(self, group: &str, kind: &str, name: &str) -> Result<(), ApiError> {
        if self.0.is_empty() { Ok(()) } else { Err(ApiError::invalid(group, kind, name, self.0)) }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        other => {
            let text = other.to_string();
            if text.len() > 512 { format!("{}...", text.chars().take(512).collect::<String>()) } else { text }
        }
    }
}

/// Go's `%q`: as in source code, control characters escaped.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
