//! How an answer travels: as protobuf where that was negotiated, compressed where it is large and the client can read
//! it.

use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame};
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, VARY};
use kinit_apimachinery::ApiError;
use kinit_apimachinery::proto::{self, NoMessage};

use super::negotiate::Encoding;
use super::respond::{self, ApiResponse, Body};

/// Answers from this size on are compressed (`defaultGzipThresholdBytes`).
const LARGE: u64 = 128 * 1024;
/// Upstream's level (`defaultGzipContentEncodingLevel`): most of the gain for the least time.
const LEVEL: Compression = Compression::new(1);
/// Compressed bytes go out in parts of about this size.
const PART: usize = 16 * 1024;

/// Whether a client can read gzip.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let header = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("");
    header.split(',').any(|clause| {
        let (coding, quality) = clause.split_once(';').unwrap_or((clause, ""));
        let refused = quality.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse() == Ok(0.0));
        coding.trim() == "gzip" && !refused
    })
}

/// Writes a JSON answer as the negotiation has it, which its extensions name.
pub async fn encoded(response: ApiResponse) -> ApiResponse {
    let wanted = response.extensions().get::<Encoding>() == Some(&Encoding::Protobuf);
    if !wanted || response.headers().get(CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let json = match body.collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(never) => match never {},
    };
    match proto::encode(&json) {
        Ok(message) => {
            parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(proto::MEDIA_TYPE));
            ApiResponse::from_parts(parts, respond::full(message))
        }
        // What has no such form is readable all the same: clients go by the type of the answer.
        Err(NoMessage::Kind { .. }) => ApiResponse::from_parts(parts, respond::full(json)),
        Err(error) => respond::error(&ApiError::internal(error)),
    }
}

/// Compresses a large answer that the registry gave, of which the size is known: watches have none, and what others
/// said (extension servers, pods behind the proxy) stays as they said it.
pub fn compressed(response: ApiResponse) -> ApiResponse {
    let is_ours = response.extensions().get::<Encoding>().is_some();
    let large = response.body().size_hint().exact().is_some_and(|size| size >= LARGE);
    if !is_ours || !large || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    parts.headers.remove(CONTENT_LENGTH);
    let encoder = GzEncoder::new(Vec::with_capacity(2 * PART), LEVEL);
    ApiResponse::from_parts(parts, Gzip { body, encoder: Some(encoder) }.boxed_unsync())
}

/// A body that is compressed as it is read.
struct Gzip {
    body: Body,
    /// Gone when everything was read.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl HttpBody for Gzip {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        loop {
            let Some(encoder) = self.encoder.as_mut() else { return Poll::Ready(None) };
            if encoder.get_ref().len() >= PART {
                let part = std::mem::replace(encoder.get_mut(), Vec::with_capacity(2 * PART));
                return Poll::Ready(Some(Ok(Frame::data(part.into()))));
            }
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => {
                    // Writing into memory does not fail.
                    if let (Some(data), Some(encoder)) = (frame.data_ref(), self.encoder.as_mut()) {
                        let _ = encoder.write_all(data);
                    }
                }
                Poll::Ready(Some(Err(never))) => match never {},
                Poll::Ready(None) => {
                    let rest = self.encoder.take().and_then(|encoder| encoder.finish().ok()).unwrap_or_default();
                    return Poll::Ready(Some(Ok(Frame::data(rest.into()))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use serde_json::json;

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))])
    }

    async fn bytes(response: ApiResponse) -> Vec<u8> {
        response.into_body().collect().await.unwrap().to_bytes().to_vec()
    }

    #[test]
    fn who_reads_gzip() {
        for (value, yes) in
            [("gzip", true), ("deflate, gzip;q=0.5", true), ("br", false), ("gzip;q=0", false), ("", false)]
        {
            assert_eq!(takes_gzip(&headers(value)), yes, "{value}");
        }
    }

    #[tokio::test]
    async fn large_answers_are_compressed() {
        let items: Vec<_> = (0..20_000).map(|i| json!({"metadata": {"name": format!("pod-{i}")}})).collect();
        let value = json!({"kind": "PodList", "apiVersion": "v1", "items": items});
        let plain = bytes(respond::json(200, &value)).await;
        let answer = || {
            let mut answer = respond::json(200, &value);
            answer.extensions_mut().insert(Encoding::Json);
            answer
        };
        let response = compressed(answer());
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        let zipped = bytes(response).await;
        assert!(zipped.len() * 4 < plain.len(), "{} of {}", zipped.len(), plain.len());
        let mut read = Vec::new();
        flate2::read::GzDecoder::new(zipped.as_slice()).read_to_end(&mut read).unwrap();
        assert_eq!(read, plain);
        let small = compressed(respond::json(200, &json!({})));
        assert!(!small.headers().contains_key(CONTENT_ENCODING));
        let proxied = compressed(respond::json(200, &value));
        assert!(!proxied.headers().contains_key(CONTENT_ENCODING), "another's answer");
        let mut done = answer();
        done.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("br"));
        assert_eq!(compressed(done).headers()[CONTENT_ENCODING], "br");
    }

    #[tokio::test]
    async fn protobuf_where_it_was_negotiated() {
        let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}});
        let mut response = respond::json(201, &pod);
        response.extensions_mut().insert(Encoding::Protobuf);
        let response = encoded(response).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()[CONTENT_TYPE]),
            (201, &HeaderValue::from_static(proto::MEDIA_TYPE))
        );
        let body = bytes(response).await;
        assert_eq!(proto::open(&body).unwrap().kind, "Pod");

        let widget = json!({"kind": "Widget", "apiVersion": "example.com/v1"});
        let mut response = respond::json(200, &widget);
        response.extensions_mut().insert(Encoding::Protobuf);
        assert_eq!(encoded(response).await.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(encoded(respond::json(200, &pod)).await.headers()[CONTENT_TYPE], "application/json");
    }
}
