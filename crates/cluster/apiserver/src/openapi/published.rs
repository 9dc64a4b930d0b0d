//! Documents as they are published: made once for what is served, kept compressed, told apart by their hash.
//!
//! All documents together are megabytes of JSON that compress twenty to one, and nearly every client takes gzip: it is
//! kept that way, and decompressed for who wants it plain.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, VARY};
use kinit_apimachinery::ApiError;
use parking_lot::Mutex;
use sha2::Digest;

use crate::http::{ApiResponse, respond};
use crate::resources::{Registry, Served};

/// One document.
#[derive(Debug)]
pub struct Published {
    gzip: Bytes,
    /// Upper-case hexadecimal.
    pub hash: String,
}

impl Published {
    fn new(text: &[u8]) -> std::io::Result<Self> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text)?;
        let hash = hex::encode_upper(&sha2::Sha256::digest(text)[..16]);
        Ok(Self { gzip: encoder.finish()?.into(), hash })
    }

    /// The answer for a client with these headers; 304 when it has the document.
    pub fn answer(&self, content_type: &'static str, headers: &HeaderMap) -> Result<ApiResponse, ApiError> {
        let asked = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
        let tag = format!("\"{}\"", self.hash);
        let mut response = if asked(IF_NONE_MATCH).split(',').any(|known| known.trim() == tag) {
            respond::bytes(304, content_type, "")
        } else if asked(ACCEPT_ENCODING).split(',').any(|coding| coding.trim() == "gzip") {
            let mut response = respond::bytes(200, content_type, self.gzip.clone());
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response
        } else {
            let mut text = Vec::new();
            let read = GzDecoder::new(self.gzip.as_ref()).read_to_end(&mut text);
            read.map_err(|e| ApiError::internal(format!("decompress the document: {e}")))?;
            respond::bytes(200, content_type, text)
        };
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            response.headers_mut().insert(ETAG, tag);
        }
        Ok(response)
    }
}

/// The documents made so far for what is served.
#[derive(Default)]
pub struct Documents(Mutex<Made>);

#[derive(Default)]
struct Made {
    of: Option<Arc<Served>>,
    documents: HashMap<String, Arc<Published>>,
}

impl Documents {
    /// A document by its name, made by `make` if it was not yet, or what is served has changed.
    pub fn get(
        &self,
        registry: &Registry,
        name: &str,
        make: impl FnOnce() -> Vec<u8>,
    ) -> Result<Arc<Published>, ApiError> {
        let served = registry.served();
        // Made under the lock: whoever wants the same document meanwhile waits for it.
        let mut made = self.0.lock();
        if !made.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &served)) {
            *made = Made { of: Some(served), documents: HashMap::new() };
        }
        if let Some(document) = made.documents.get(name) {
            return Ok(document.clone());
        }
        let document = Published::new(&make()).map_err(|e| ApiError::internal(format!("compress {name}: {e}")))?;
        Ok(made.documents.entry(name.to_owned()).or_insert(Arc::new(document)).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_made_once() {
        let (documents, registry) = (Documents::default(), Registry::builtin());
        let mut made = 0;
        for _ in 0..3 {
            let document = documents.get(&registry, "a", || {
                made += 1;
                b"{}".to_vec()
            });
            assert_eq!(document.unwrap().hash.len(), 32);
        }
        assert_eq!(made, 1);
        // Another table of what is served makes it anew.
        documents.get(&Registry::builtin(), "a", || b"[]".to_vec()).unwrap();
        assert_eq!(
            documents.get(&Registry::builtin(), "a", || b"x".to_vec()).unwrap().hash,
            Published::new(b"x").unwrap().hash
        );
    }

    #[test]
    fn clients_get_what_they_take() {
        let document = Published::new(b"text").unwrap();
        let headers = |name: hyper::header::HeaderName, value: &str| {
            HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
        };
        let plain = document.answer("text/plain", &HeaderMap::new()).unwrap();
        assert_eq!((plain.status().as_u16(), plain.headers().get(CONTENT_ENCODING)), (200, None));
        let zipped = document.answer("text/plain", &headers(ACCEPT_ENCODING, "deflate, gzip")).unwrap();
        assert_eq!(zipped.headers()[CONTENT_ENCODING], "gzip");
        let tag = zipped.headers()[ETAG].to_str().unwrap().to_owned();
        assert_eq!(document.answer("text/plain", &headers(IF_NONE_MATCH, &tag)).unwrap().status().as_u16(), 304);
        assert_eq!(document.answer("text/plain", &headers(IF_NONE_MATCH, "\"x\"")).unwrap().status().as_u16(), 200);
    }
}
