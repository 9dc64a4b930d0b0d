//! Request bodies: read with a limit, decoded by content type.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use kinit_apimachinery::{ApiError, decode, proto};
use serde_json::Value;

/// Upstream's `MaxRequestBodyBytes`.
pub const LIMIT: usize = 3 * 1024 * 1024;

const DRAIN: usize = 8 * LIMIT;

/// Reads a body of at most [`LIMIT`] bytes; 413 beyond.
pub async fn read_limited(mut body: Incoming) -> Result<Bytes, ApiError> {
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

/// Decodes a document of JSON, YAML or protobuf. `kind_of` finds the schema type of a protobuf envelope.
pub fn decode_document(
    media: &str,
    body: &[u8],
    default: (&str, &str, &str),
    kind_of: impl Fn(&str, &str, &str) -> Option<usize>,
) -> Result<Decoded, ApiError> {
    match media {
        "application/json" | "" => {
            let (value, duplicates) = decode::json(body).map_err(|e| {
                ApiError::bad_request(format!(
                    "the object provided is unrecognized (must be of type {}): {e}",
                    default.2
                ))
            })?;
            Ok(Decoded { value, duplicates })
        }
        "application/yaml" | "application/vnd.kubernetes.yaml" => {
            Ok(Decoded { value: yaml(body)?, duplicates: Vec::new() })
        }
        proto::MEDIA_TYPE => {
            let envelope = proto::open(body).map_err(|e| ApiError::bad_request(e.to_string()))?;
            let (group, version) = match envelope.api_version.rsplit_once('/') {
                Some((group, version)) => (group.to_owned(), version.to_owned()),
                None => (String::new(), envelope.api_version.clone()),
            };
            let (group, version, kind) = if envelope.kind.is_empty() {
                (default.0.to_owned(), default.1.to_owned(), default.2.to_owned())
            } else {
                (group, version, envelope.kind.clone())
            };
            let ty = kind_of(&group, &version, &kind).ok_or_else(|| {
                ApiError::bad_request(format!(
                    "no kind \"{kind}\" is registered for version \"{}\"",
                    envelope.api_version
                ))
            })?;
            let mut value = proto::decode(ty, envelope.raw).map_err(|e| ApiError::bad_request(e.to_string()))?;
            if let Some(map) = value.as_object_mut() {
                map.shift_insert(0, "kind".into(), kind.into());
                let api_version = if group.is_empty() { version } else { format!("{group}/{version}") };
                map.shift_insert(1, "apiVersion".into(), api_version.into());
            }
            Ok(Decoded { value, duplicates: Vec::new() })
        }
        other => Err(ApiError::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, {} (got {other})",
            proto::MEDIA_TYPE
        ))),
    }
}

/// Parses YAML into a JSON value.
pub fn yaml(body: &[u8]) -> Result<Value, ApiError> {
    let text = std::str::from_utf8(body).map_err(|_| ApiError::bad_request("the body is not UTF-8"))?;
    serde_saphyr::from_str(text).map_err(|e| ApiError::bad_request(format!("error converting YAML to JSON: {e}")))
}
