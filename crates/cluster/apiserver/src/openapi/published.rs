//! Documents as they are published: made once for what is served, kept compressed, told apart by their hash.
//!
//! All documents together are megabytes of JSON that compress twenty to one, and nearly every client takes gzip: it is
//! kept that way, and decompressed for who wants it plain.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, VARY};
use kinit_apimachinery::ApiError;
use parking_lot::Mutex;
use sha2::Digest;

use crate::http::{ApiResponse, respond};
use crate::resources::Descriptor;

/// One document.
#[derive(Debug)]
pub struct Published {
    gzip: Bytes,
    /// Upper-case hexadecimal.
    pub hash: String,
}

impl Published {
    /// Compresses a document.
    pub fn new(text: &[u8]) -> std::io::Result<Self> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text)?;
        let hash = hex::encode_upper(&sha2::Sha256::digest(text)[..16]);
        Ok(Self { gzip: encoder.finish()?.into(), hash })
    }

    /// The document.
    pub fn text(&self) -> std::io::Result<Vec<u8>> {
        let mut text = Vec::new();
        GzDecoder::new(self.gzip.as_ref()).read_to_end(&mut text)?;
        Ok(text)
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
            let text = self.text().map_err(|e| ApiError::internal(format!("decompress the document: {e}")))?;
            respond::bytes(200, content_type, text)
        };
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            response.headers_mut().insert(ETAG, tag);
        }
        Ok(response)
    }
}

/// The documents made so far, each with the resources it tells of: one that changes makes no others anew.
#[derive(Default)]
pub struct Documents {
    named: Mutex<HashMap<String, Made>>,
    /// The index of all, with what it was made from beside the resources.
    index: Mutex<Option<(Vec<String>, Made)>>,
    made: AtomicU64,
}

struct Made {
    of: Vec<Arc<Descriptor>>,
    document: Arc<Published>,
}

impl Made {
    fn is_of(&self, of: &[Arc<Descriptor>]) -> bool {
        self.of.len() == of.len() && self.of.iter().zip(of).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

impl Documents {
    /// A document about these resources by its name, made by `make` if it was not yet, or they have changed.
    pub fn get(
        &self,
        of: Vec<Arc<Descriptor>>,
        name: &str,
        make: impl FnOnce() -> Vec<u8>,
    ) -> Result<Arc<Published>, ApiError> {
        // Made under the lock: whoever wants the same document meanwhile waits for it.
        let mut made = self.named.lock();
        if let Some(known) = made.get(name).filter(|known| known.is_of(&of)) {
            return Ok(known.document.clone());
        }
        let document = self.publish(name, &make())?;
        made.insert(name.to_owned(), Made { of, document: document.clone() });
        Ok(document)
    }

    /// The index, made by `make` if it was not yet, or the resources or `others` have changed. `make` may ask for
    /// documents.
    pub fn index(
        &self,
        of: Vec<Arc<Descriptor>>,
        others: Vec<String>,
        make: impl FnOnce() -> Result<Vec<u8>, ApiError>,
    ) -> Result<Arc<Published>, ApiError> {
        let mut index = self.index.lock();
        if let Some((known, made)) = &*index
            && *known == others
            && made.is_of(&of)
        {
            return Ok(made.document.clone());
        }
        let document = self.publish("the index", &make()?)?;
        *index = Some((others, Made { of, document: document.clone() }));
        Ok(document)
    }

    fn publish(&self, name: &str, text: &[u8]) -> Result<Arc<Published>, ApiError> {
        self.made.fetch_add(1, Ordering::Relaxed);
        let document = Published::new(text).map_err(|e| ApiError::internal(format!("compress {name}: {e}")))?;
        Ok(Arc::new(document))
    }

    /// How many documents were made since the start.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Forgets the documents that are not wanted any more.
    pub fn retain(&self, wanted: impl Fn(&str) -> bool) {
        self.named.lock().retain(|name, _| wanted(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Registry;

    #[test]
    fn a_document_is_made_once() {
        let (documents, registry) = (Documents::default(), Registry::builtin());
        let all = || registry.all();
        let mut made = 0;
        for _ in 0..3 {
            let document = documents.get(all(), "a", || {
                made += 1;
                b"{}".to_vec()
            });
            assert_eq!(document.unwrap().hash.len(), 32);
        }
        assert_eq!(made, 1);
        // Another table of what is served makes it anew.
        documents.get(Registry::builtin().all(), "a", || b"[]".to_vec()).unwrap();
        assert_eq!(documents.get(all(), "a", || b"x".to_vec()).unwrap().hash, Published::new(b"x").unwrap().hash);
        documents.retain(|name| name != "a");
        assert_eq!(documents.get(all(), "a", || b"y".to_vec()).unwrap().hash, Published::new(b"y").unwrap().hash);
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
