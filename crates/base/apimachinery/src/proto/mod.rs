//! Protobuf as the API has it (`k8s.io/apimachinery/pkg/runtime/serializer/protobuf`), driven by the schema.
//!
//! ```text
//! bytes ── decode ──► JSON value        request bodies, values that upstream wrote to etcd
//! JSON text ── encode ──► bytes         answers, in one pass over the text
//! ```
//!
//! The envelope is `k8s\0` and a `runtime.Unknown` (`typeMeta` 1, `raw` 2, `contentEncoding` 3, `contentType` 4).

mod decode;
mod encode;

pub use decode::{Envelope, Malformed, decode, open};
pub use encode::{NoMessage, encode, encode_event};

/// Media type of such bodies.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";
const MAX_DEPTH: u32 = 64;

/// Whether bytes begin as an envelope does.
pub fn is_enveloped(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}
