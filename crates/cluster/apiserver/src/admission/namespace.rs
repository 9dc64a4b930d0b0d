//! NamespaceLifecycle: nothing new in a namespace that is not there or going; the first namespaces stay.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;

use super::{Attributes, Operation};
use crate::registry::cached;

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// For how long after its deletion a namespace is looked up in etcd (`forceLiveLookupTTL`).
const LIVE: Duration = Duration::from_secs(30);

/// Namespaces that somebody asked this server to delete: of them the cache may not know yet that they are going, so
/// that it is not believed for a while (`forceLiveLookupCache`).
#[derive(Default)]
pub struct Deleted(parking_lot::Mutex<HashMap<String, Instant>>);

impl Deleted {
    fn insert(&self, name: &str, now: Instant) {
        let mut names = self.0.lock();
        names.retain(|_, since| now.duration_since(*since) < LIVE);
        names.insert(name.to_owned(), now);
    }

    fn contains(&self, name: &str, now: Instant) -> bool {
        self.0.lock().get(name).is_some_and(|since| now.duration_since(*since) < LIVE)
    }
}

/// Checks the request's namespace.
pub async fn check(attributes: &Attributes<'_>) -> Result<(), ApiError> {
    let request = attributes.request;
    if request.desc.kind == "Namespace" && request.desc.custom.is_none() {
        if attributes.operation == Operation::Delete {
            if IMMORTAL.contains(&request.info.name.as_str()) {
                let cause = "this namespace may not be deleted";
                return Err(ApiError::forbidden("", "namespaces", &request.info.name, cause));
            }
            request.server.deleted_namespaces.insert(&request.info.name, Instant::now());
        }
        return Ok(());
    }
    if !request.desc.namespaced || attributes.operation != Operation::Create {
        return Ok(());
    }
    let name = request.info.namespace.as_str();
    let server = &request.server;
    let cached = cached::one(server, "namespaces/", name)?;
    let believed = !server.deleted_namespaces.contains(name, Instant::now());
    let namespace = match cached {
        Some(entry) if believed && entry.field("status.phase") != Some("Terminating") => return Ok(()),
        // The cache may be behind: a namespace made a moment ago counts.
        _ => server.store.get("namespaces/", name).await.map_err(|e| request.storage_error(e))?,
    };
    let Some(namespace) = namespace else {
        return Err(ApiError::not_found("", "namespaces", name));
    };
    if namespace.value().is_deleting() {
        let cause = format!("unable to create new content in namespace {name} because it is being terminated");
        let mut error = ApiError::forbidden(&request.desc.group, &request.desc.plural, &request.info.name, &cause);
        error.causes.push(kinit_apimachinery::Cause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {name} is being terminated"),
            field: "metadata.namespace".into(),
        });
        return Err(error);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_namespaces_are_looked_up_for_a_while() {
        let (deleted, now) = (Deleted::default(), Instant::now());
        deleted.insert("a", now);
        assert!(deleted.contains("a", now + LIVE / 2));
        assert!(!deleted.contains("b", now));
        assert!(!deleted.contains("a", now + LIVE));
        deleted.insert("b", now + LIVE);
        assert_eq!(deleted.0.lock().len(), 1, "old ones are forgotten");
    }
}
