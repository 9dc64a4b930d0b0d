//! The generic registry: every verb of every stored resource.
//!
//! ```text
//! body -> decode, conform, default -> metadata -> mutating admission -> validate -> validating admission -> store
//!                                      (create / update / patch share this path; delete and lists have their own)
//! ```

pub mod apply;
pub mod cached;
pub mod create;
pub mod decode;
pub mod delete;
pub mod list;
pub mod list_options;
pub mod metadata;
pub mod options;
pub mod owned_kind;
pub mod ownership;
pub mod patch;
pub mod present;
pub mod scale;
pub mod update;
pub mod watch;

use std::sync::Arc;

use kinit_apimachinery::ApiError;
use kinit_storage::Error as StoreError;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::authn::User;
use crate::http::{Accepted, RequestInfo, View};
use crate::resources::Descriptor;
use crate::server::Server;

/// A request for a resource, ready for the registry.
pub struct Request {
    /// The server.
    pub server: Arc<Server>,
    /// When there is no more time for it.
    pub deadline: Instant,
    /// What is asked for.
    pub info: RequestInfo,
    /// The resource.
    pub desc: Arc<Descriptor>,
    /// Who asks.
    pub user: User,
    /// The client's name for itself, up to the first slash of its user agent.
    pub agent: String,
    /// Decoded query parameters.
    pub query: Vec<(String, String)>,
    /// Media type of the body.
    pub media_type: String,
    /// What form the answer takes.
    pub accepted: Accepted,
    /// Warnings for the client, collected on the way.
    pub warnings: Mutex<Vec<String>>,
    /// Annotations of the request's audit event, collected on the way.
    pub annotations: Mutex<Vec<(String, String)>>,
}

impl Request {
    /// A query parameter.
    pub fn param(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Whether a boolean parameter is on: only its absence, `0` and `false` are off (`Convert_Slice_string_To_bool`).
    pub fn flag(&self, key: &str) -> bool {
        self.param(key).is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
    }

    /// 400 for options of a Table that there are none of.
    pub fn check_table_options(&self) -> Result<(), ApiError> {
        match self.param("includeObject").unwrap_or("") {
            other if self.accepted.view != View::Table || matches!(other, "" | "None" | "Metadata" | "Object") => {
                Ok(())
            }
            other => Err(ApiError::bad_request(format!(
                "includeObject: Invalid value: \"{other}\": must be 'Metadata', 'Object', 'None', or empty"
            ))),
        }
    }

    /// Adds a warning; once, however often it is given (a write may be tried again).
    pub fn warn(&self, text: impl Into<String>) {
        let (text, mut warnings) = (text.into(), self.warnings.lock());
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Annotates the request's audit event; the last value of a key counts.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        let (key, mut annotations) = (key.into(), self.annotations.lock());
        annotations.retain(|(known, _)| *known != key);
        annotations.push((key, value.into()));
    }

    /// Whether this is a server-side apply.
    pub fn is_apply(&self) -> bool {
        self.media_type == apply::MEDIA_TYPE
    }

    /// The storage key of the named object.
    pub fn key(&self) -> String {
        self.desc.key(&self.info.namespace, &self.info.name)
    }

    /// 404 for the named object.
    pub fn not_found(&self) -> ApiError {
        ApiError::not_found(&self.desc.group, &self.desc.plural, &self.info.name)
    }

    /// What a storage error means to the client.
    pub fn storage_error(&self, error: StoreError) -> ApiError {
        match error {
            StoreError::Corrupt { .. } => cached::failed(&self.server, error),
            other => storage_error(other, &self.desc, &self.info.name),
        }
    }
}

/// What a storage error means to the client.
pub fn storage_error(error: StoreError, desc: &Descriptor, name: &str) -> ApiError {
    match error {
        StoreError::Exists => ApiError::already_exists(&desc.group, &desc.plural, name),
        StoreError::Compacted => ApiError::expired("The resourceVersion for the provided list is too old."),
        StoreError::Future { wanted, current } => ApiError::version_too_large(wanted, current),
        StoreError::TooLarge => ApiError::too_large("etcdserver: request is too large"),
        StoreError::Unavailable(text) => {
            tracing::warn!(text, "etcd");
            ApiError::unavailable("etcdserver: the storage is unavailable")
        }
        StoreError::Corrupt { resource, key, reason } => match resource.is_empty() || resource == desc.prefix {
            true => {
                cached::unreadable(&kinit_apimachinery::status::qualified(&desc.group, &desc.plural), &key, &reason)
            }
            false => cached::unreadable(resource.trim_end_matches('/'), &key, &reason),
        },
        other => {
            tracing::error!(error = %other, "storage");
            ApiError::internal(other)
        }
    }
}
