//! Answers.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WARNING};
use hyper::{Response, StatusCode};
use kinit_apimachinery::ApiError;
use serde_json::Value;

/// Body of any answer; streams end by ending, never by an error.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;
/// Any answer.
pub type ApiResponse = Response<Body>;

/// A complete body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// An answer of bytes.
pub fn bytes(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> ApiResponse {
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// An answer of JSON.
pub fn json(status: u16, value: &Value) -> ApiResponse {
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    bytes(status, "application/json", text)
}

/// An answer of JSON or YAML.
pub fn document(status: u16, value: &Value, yaml: bool) -> ApiResponse {
    if yaml {
        return match serde_saphyr::to_string(value) {
            Ok(text) => bytes(status, "application/yaml", text),
            Err(e) => error(&ApiError::internal(e)),
        };
    }
    json(status, value)
}

/// An answer of plain text.
pub fn text(status: u16, body: impl Into<Bytes>) -> ApiResponse {
    bytes(status, "text/plain; charset=utf-8", body)
}

/// The `Status` of an error.
pub fn error(error: &ApiError) -> ApiResponse {
    let mut response = json(error.code, &error.to_status());
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// All warnings of an answer, and the longest one where all together are longer (`filters.WithWarningRecorder`).
const WARNINGS: usize = 4 * 1024;
const WARNING_CUT: usize = 256;

/// Adds `Warning: 299 - "..."` headers.
pub fn warn(response: &mut ApiResponse, warnings: &[String]) {
    let clean = |w: &String| w.chars().filter(|c| !c.is_control()).collect::<String>();
    let mut clean: Vec<String> = warnings.iter().map(clean).collect();
    if clean.iter().map(String::len).sum::<usize>() > WARNINGS {
        clean.iter_mut().for_each(|w| *w = w.chars().take(WARNING_CUT).collect());
    }
    let mut written = 0;
    for warning in clean {
        written += warning.len();
        if written > WARNINGS {
            break;
        }
        let quoted = format!("299 - \"{}\"", warning.replace('\\', "\\\\").replace('"', "\\\""));
        // Text beyond ASCII goes as UTF-8, as upstream sends it.
        if let Ok(value) = HeaderValue::from_bytes(quoted.as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// Sets a header when its value can be one.
pub fn set_header(response: &mut ApiResponse, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}
