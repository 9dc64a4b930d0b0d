//! Request bodies: read with a limit, decoded by content type.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use kinit_apimachinery::{ApiError, decode, proto};
use serde_json::Value;

use crate::bodies::Hold;

/// Upstream's `MaxRequestBodyBytes`.
pub const LIMIT: usize = 3 * 1024 * 1024;

const DRAIN: usize = 8 * LIMIT;

/// For how long the rest of a body is read that there is no room for.
const PARTING: Duration = Duration::from_secs(1);

/// Reads a body of at most [`LIMIT`] bytes, which `hold` is charged with; 413 beyond, 429 when there is no room for it.
pub async fn read_limited(mut body: Incoming, hold: &mut Hold) -> Result<Bytes, ApiError> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let room = hold.begin();
    let result = match room {
        Ok(()) => read(&mut body, hold).await,
        Err(error) => Err(error),
    };
    if matches!(&result, Err(error) if error.code == 429) {
        hold.release();
        // A client that is still sending does not listen.
        let _ = tokio::time::timeout(PARTING, discard(&mut body)).await;
    }
    result
}

async fn discard(body: &mut Incoming) {
    let mut size = 0;
    while let Some(Ok(frame)) = body.frame().await {
        size += frame.data_ref().map_or(0, Bytes::len);
        if size > DRAIN {
            return;
        }
    }
}

async fn read(body: &mut Incoming, hold: &mut Hold) -> Result<Bytes, ApiError> {
    let (mut out, mut size) = (BytesMut::new(), 0usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ApiError::bad_request(format!("read the request body: {e}")))?;
        if let Some(data) = frame.data_ref() {
            size += data.len();
            // A client that is still sending does not listen: what is too much is read, up to a point, and thrown away.
            if size > DRAIN {
                break;
            }
            if size <= LIMIT {
                hold.grow(data.len())?;
                out.extend_from_slice(data);
            }
        }
    }
    if size > LIMIT {
        return Err(ApiError::too_large(format!("limit is {LIMIT}")));
    }
    Ok(out.freeze())
}

/// A decoded body.
#[derive(Debug)]
pub struct Decoded {
    /// The document.
    pub value: Value,
    /// Paths of fields given twice.
    pub duplicates: Vec<String>,
}

/// The media type without parameters, lower case.
pub fn media_type(header: Option<&hyper::header::HeaderValue>) -> String {
    let text = header.and_then(|h| h.to_str().ok()).unwrap_or("application/json");
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Decodes a document of JSON, YAML or protobuf that should be of the kind `wanted` (group, version, kind); says in
/// upstream's words (`transformDecodeError`) what is wrong with it. `kind_of` finds the schema type of a protobuf
/// envelope.
pub fn decode_document(
    media: &str,
    body: &[u8],
    wanted: (&str, &str, &str),
    kind_of: impl Fn(&str, &str, &str) -> Option<usize>,
) -> Result<Decoded, ApiError> {
    let unrecognized = |cause: &str| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {cause} ({})",
            wanted.2,
            summary(body)
        ))
    };
    let decoded = match media {
        "application/json" | "" => {
            let (value, duplicates) = decode::json(body).map_err(|e| {
                unrecognized(&format!("couldn't get version/kind; json parse error: {}", decode::problem(&e)))
            })?;
            Decoded { value, duplicates }
        }
        "application/yaml" | "application/vnd.kubernetes.yaml" => {
            let value = yaml(body).map_err(|e| unrecognized(&format!("error converting YAML to JSON: yaml: {e}")))?;
            Decoded { value, duplicates: Vec::new() }
        }
        proto::MEDIA_TYPE => {
            let envelope = proto::open(body).map_err(|e| unrecognized(&e.to_string()))?;
            Decoded { value: message(&envelope, wanted, kind_of)?, duplicates: Vec::new() }
        }
        other => {
            return Err(ApiError::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, {} (got {other})",
                proto::MEDIA_TYPE
            )));
        }
    };
    shape(decoded, unrecognized)
}

/// A document is an object whose apiVersion and kind are texts, and not deeper than can be read back.
fn shape(mut decoded: Decoded, unrecognized: impl Fn(&str) -> ApiError) -> Result<Decoded, ApiError> {
    let parse_error = |text: String| {
        unrecognized(&format!("couldn't get version/kind; json parse error: json: cannot unmarshal {text}"))
    };
    match &mut decoded.value {
        null @ Value::Null => *null = Value::Object(serde_json::Map::new()),
        Value::Object(map) => {
            for key in ["apiVersion", "kind"] {
                match map.get(key) {
                    None | Some(Value::String(_)) => {}
                    Some(Value::Null) => {
                        map.shift_remove(key);
                    }
                    Some(other) => {
                        return Err(parse_error(format!(
                            "{} into Go struct field .{key} of type string",
                            kinit_apimachinery::check::type_name(other)
                        )));
                    }
                }
            }
            let version = map.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
            if version.matches('/').count() > 1 {
                return Err(unrecognized(&format!(
                    "couldn't get version/kind; unexpected GroupVersion string: {version}"
                )));
            }
        }
        other => {
            return Err(parse_error(format!(
                r#"{} into Go value of type struct {{ APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }}"#,
                kinit_apimachinery::check::type_name(other)
            )));
        }
    }
    if decode::depth(&decoded.value) > decode::MAX_DEPTH {
        return Err(unrecognized("exceeded max depth"));
    }
    Ok(decoded)
}

/// The beginning of a body for an error's text: as it is when it looks like JSON, in hexadecimal otherwise
/// (`summarizeData`).
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let (head, more) = (&body[..body.len().min(SHOWN)], if body.len() > SHOWN { " ..." } else { "" });
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(head)),
        Some(_) => format!("{}{more}", hex::encode(head)),
    }
}

/// The object in a protobuf envelope.
fn message(
    envelope: &proto::Envelope<'_>,
    wanted: (&str, &str, &str),
    kind_of: impl Fn(&str, &str, &str) -> Option<usize>,
) -> Result<Value, ApiError> {
    let (group, version) = envelope.api_version.rsplit_once('/').unwrap_or(("", &envelope.api_version));
    let (group, version, kind) =
        if envelope.kind.is_empty() { wanted } else { (group, version, envelope.kind.as_str()) };
    let unfit = |cause: String| {
        ApiError::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {}: {cause}", wanted.2))
    };
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let ty = kind_of(group, version, kind).ok_or_else(|| unfit(unregistered(kind, &api_version)))?;
    let mut value = proto::decode(ty, envelope.raw).map_err(|e| unfit(e.to_string()))?;
    if let Some(map) = value.as_object_mut() {
        map.shift_insert(0, "kind".into(), kind.into());
        map.shift_insert(1, "apiVersion".into(), api_version.into());
    }
    Ok(value)
}

/// Upstream's words for a kind nobody serves.
pub fn unregistered(kind: &str, api_version: &str) -> String {
    format!(
        "no kind \"{kind}\" is registered for version \"{api_version}\" in scheme \"pkg/api/legacyscheme/scheme.go:30\""
    )
}

/// Parses YAML into a JSON value; the error is one line.
pub fn yaml(body: &[u8]) -> Result<Value, String> {
    super::yaml::parse(body)
}
