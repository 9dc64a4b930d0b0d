//! A generic object store on etcd, with a watch cache that keeps every object encoded once.
//!
//! ```text
//! Store ──┬─ keys of etcd: create, get, update, delete as transactions on the key's revision
//!         ├─ crypt   encryption at rest, by resource
//!         ├─ leases  time to live of events
//!         ├─ compact etcd's history, five minutes behind
//!         ├─ roster  resources come and go while the feed runs
//!         └─ feed    one etcd watch over /registry/ ─> Cache per resource
//!                                                       ├─ map         key -> Arc<Entry> (bytes, labels, fields)
//!                                                       ├─ unreadable  undecodable keys: listing them is an error
//!                                                       └─ history     the last events; watchers have their own pace
//! ```
//!
//! A consistent read asks etcd for its revision and waits until the feed has seen it (requesting progress), then reads
//! the cache. A watcher holds a cursor into the history; falling off it ends the watch with "expired".

pub mod cache;
mod compact;
pub mod crypt;
mod entry;
mod error;
mod feed;
mod history;
mod leases;
mod roster;
mod settle;
mod store;

pub use cache::{Cache, Cursor, Event, EventKind, Expired};
pub use entry::{Entry, Fields, Reading, canonical};
pub use error::Error;
pub use store::{Page, ResourceSpec, Store, Updated};
