//! Answers.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Body as HttpBody;
use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WARNING};
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

/// An answer that is written as it is read.
pub fn stream<B>(status: u16, content_type: &'static str, body: B) -> ApiResponse
where
    B: HttpBody<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let mut response = bytes(status, content_type, Bytes::new());
    *response.body_mut() = body.boxed_unsync();
    response
}

/// An answer of JSON.
pub fn json(status: u16, value: &Value) -> ApiResponse {
    let mut text = kinit_apimachinery::encode::to_vec(value).unwrap_or_default();
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

/// The answer to a HEAD: the headers of the GET's, without its body (HTTP/2 takes a body for an error of the protocol).
pub fn head(response: ApiResponse) -> ApiResponse {
    let (mut parts, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact() {
        parts.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    ApiResponse::from_parts(parts, full(Bytes::new()))
}

/// In the extensions of an answer that is an error: its `Status`.
#[derive(Debug, Clone)]
pub struct Failure(pub Arc<Value>);

/// The `Status` of an error.
pub fn error(error: &ApiError) -> ApiResponse {
    let status = error.to_status();
    let mut response = json(error.code, &status);
    response.extensions_mut().insert(Failure(Arc::new(status)));
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Characters of warnings an answer may carry before each is cut, and what is left of each then
/// (`WithWarningRecorder`).
const ALL_WARNINGS: usize = 4096;
const CUT_WARNING: usize = 256;

/// Adds `Warning: 299 - "..."` headers.
pub fn warn(response: &mut ApiResponse, warnings: &[String]) {
    for warning in fitting(warnings) {
        let clean: String = warning.chars().filter(|c| !c.is_control()).collect();
        let quoted = format!("299 - \"{}\"", clean.replace('\\', "\\\\").replace('"', "\\\""));
        // Names that a client chose may be more than ASCII.
        if let Ok(value) = HeaderValue::from_bytes(quoted.as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// The warnings as they are, or the beginnings of as many as fit.
fn fitting(warnings: &[String]) -> Vec<&str> {
    let mut written: usize = warnings.iter().map(|w| w.chars().count()).sum();
    if written <= ALL_WARNINGS {
        return warnings.iter().map(String::as_str).collect();
    }
    written = 0;
    let mut out = Vec::new();
    for warning in warnings {
        if written >= ALL_WARNINGS {
            break;
        }
        let end = warning.char_indices().nth(CUT_WARNING).map_or(warning.len(), |(at, _)| at);
        written += warning[..end].chars().count();
        out.push(&warning[..end]);
    }
    out
}

/// Sets a header when its value can be one.
pub fn set_header(response: &mut ApiResponse, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_cut_when_they_are_too_many() {
        let few = vec!["ä".repeat(4000), "b".into()];
        assert_eq!(fitting(&few), few);
        let long = vec!["ä".repeat(4000), "b".repeat(200)];
        assert_eq!(fitting(&long), ["ä".repeat(256), "b".repeat(200)]);
        let many = vec!["c".repeat(1024); 100];
        assert_eq!(fitting(&many).len(), 16);
    }

    #[test]
    fn a_head_has_the_length_and_no_body() {
        let response = head(text(404, "twelve bytes"));
        assert_eq!(response.headers()[CONTENT_LENGTH], "12");
        assert!(response.into_body().is_end_stream());
    }

    #[test]
    fn a_warning_is_a_quoted_header() {
        let mut response = text(200, "");
        warn(&mut response, &["says \"a\\b\"\n".into()]);
        assert_eq!(response.headers()[WARNING], r#"299 - "says \"a\\b\"""#);
        warn(&mut response, &["é".into()]);
        assert_eq!(response.headers().get_all(WARNING).iter().count(), 2);
    }
}
