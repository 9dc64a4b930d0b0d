//! API conventions over JSON objects: pure, no IO, no clock of its own.
//!
//! ```text
//! data/schema.json ── schema ──┬─ proto      protobuf request bodies -> JSON
//!                              ├─ check      unknown fields, wrong types, Go's omitempty
//!                              └─ patch      strategic merge (and JSON patch, merge patch)
//! decode   JSON text -> value, with the duplicate fields named
//! encode   value -> JSON text as Go writes it
//! apply    server-side apply and field ownership
//! selector labels and fields          status   upstream's Status answers
//! duration Go's durations as text
//! quantity resource.Quantity          names    DNS names, labels; generateName
//! jsonpath paths of printer columns
//! structural  schemas of custom resources          typed   what is known of a kind, built in or custom
//! well_known  annotations that components agree on
//! meta     typed looks into an object's metadata      address_range  addresses of load balancers' pools
//! ```

pub mod address_range;
pub mod apply;
pub mod check;
pub mod complete;
pub mod decode;
pub mod duration;
pub mod encode;
pub mod jsonpath;
pub mod meta;
pub mod names;
pub mod patch;
pub mod proto;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod structural;
pub mod time;
pub mod typed;
pub mod well_known;

pub use status::{ApiError, Cause};
