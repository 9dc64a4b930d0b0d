//! What the server itself looks up in the caches to decide something: an object that cannot be read is an error of code
//! 500 that names it, never one that is not there.

use std::sync::Arc;

use kinit_apimachinery::ApiError;
use kinit_apimachinery::status::qualified;
use kinit_storage::{Entry, Error as StoreError};

use crate::server::Server;

/// An object by its key below a resource's prefix.
pub fn one(server: &Server, prefix: &str, key: &str) -> Result<Option<Arc<Entry>>, ApiError> {
    let cache = server.store.cache(prefix);
    cache.map_or(Ok(None), |cache| cache.get(key)).map_err(|error| failed(server, error))
}

/// All objects of a resource below `within` (`ns/` or "").
pub fn all(server: &Server, prefix: &str, within: &str) -> Result<Vec<Arc<Entry>>, ApiError> {
    let Some(cache) = server.store.cache(prefix) else { return Ok(Vec::new()) };
    let (entries, _) = cache.list(within, |_| true).map_err(|error| failed(server, error))?;
    Ok(entries)
}

/// What an error of a cache means to a client.
pub fn failed(server: &Server, error: StoreError) -> ApiError {
    let StoreError::Corrupt { resource, key, reason } = &error else {
        tracing::error!(%error, "storage");
        return ApiError::internal(error);
    };
    let served = server.registry.all().into_iter().find(|desc| desc.prefix == *resource);
    let name = match served {
        Some(desc) => qualified(&desc.group, &desc.plural),
        None => resource.trim_end_matches('/').to_owned(),
    };
    unreadable(&name, key, reason)
}

/// The error of an object that cannot be read, by the name of its resource.
pub fn unreadable(resource: &str, key: &str, reason: &str) -> ApiError {
    let text = format!("{resource} \"{key}\" cannot be read from the storage: {reason}");
    tracing::error!(text, "storage");
    ApiError::internal(text)
}
