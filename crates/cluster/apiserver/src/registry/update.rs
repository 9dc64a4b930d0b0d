//! PUT, and the part of PATCH that follows the patching.

use std::sync::Arc;

use bytes::Bytes;
use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status::FieldErrors;
use kinit_storage::{Entry, Updated};
use serde_json::Value;

use super::decode::{self, Wanted};
use super::ownership::{self, Ownership};
use super::{Request, metadata, options};
use crate::admission::{Attributes, Operation};
use crate::http::ApiResponse;

/// How often a write is tried again when somebody else was faster.
const ATTEMPTS: usize = 8;

/// Handles a PUT.
pub async fn handle(request: &Request, body: Bytes) -> Result<ApiResponse, ApiError> {
    let wanted = Wanted::of(request);
    let dry_run = options::write_options(request)?;
    let new = decode::object(request, &body, &wanted)?;
    check_name(request, &new)?;
    let creatable = request.desc.strategy.traits().create_on_update && request.info.subresource.is_empty();
    match apply(request, dry_run, Ownership::Recorded, |_old| Ok(new.clone())).await {
        Err(error)
            if error.code == 404
                && error.name == request.info.name
                && creatable
                && new.resource_version().is_empty() =>
        {
            crate::authz::require_create(request).await?;
            let created = super::create::object_of(request, new, dry_run).await?;
            Ok(super::present::object(request, 201, created))
        }
        Err(error) => Err(error),
        Ok(updated) => Ok(super::present::object(request, 200, updated)),
    }
}

/// The object is the one of the path (`checkName`).
pub fn check_name(request: &Request, new: &Value) -> Result<(), ApiError> {
    let (name, namespace) = (&request.info.name, &request.info.namespace);
    if new.name().is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
    if new.name() != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            new.name()
        )));
    }
    if request.desc.namespaced && !new.namespace().is_empty() && new.namespace() != namespace {
        return Err(ApiError::bad_request(format!(
            "the namespace of the object ({}) does not match the namespace on the request ({namespace})",
            new.namespace()
        )));
    }
    Ok(())
}

/// Changes and writes an object until nobody else was faster. `change` gets the object as the resource shows it and
/// gives the new one; a resource version in the new one must be the current one.
///
/// The first attempt is made on what the cache has: etcd refuses the write should that be old. Whatever else an old
/// object leads to, an error or no change at all, is tried again on what etcd has (`GuaranteedUpdate`'s cached existing
/// object).
pub async fn apply(
    request: &Request,
    dry_run: bool,
    ownership: Ownership,
    change: impl Fn(&Value) -> Result<Value, ApiError>,
) -> Result<Value, ApiError> {
    let (desc, key) = (&request.desc, request.key());
    let store = &request.server.store;
    let read = async || {
        let found = store.get(&desc.prefix, &key).await.map_err(|e| request.storage_error(e));
        found.map(|entry| entry.map(Arc::new))
    };
    // One that cannot be read is read from etcd, which says so.
    let cached = || store.cache(&desc.prefix).and_then(|cache| cache.get(&key).ok().flatten());
    let mut current = if dry_run { None } else { cached() };
    let mut is_current = current.is_none();
    if is_current {
        current = read().await?;
    }
    for _ in 0..ATTEMPTS {
        let Some(entry) = current else { return Err(request.not_found()) };
        match attempt(request, dry_run, ownership, &change, &entry).await {
            Ok(Attempt::Written(object)) => return Ok(object),
            Ok(Attempt::Failed(error)) => return Err(error),
            Ok(Attempt::Overtaken(now)) => (current, is_current) = (now.map(Arc::new), true),
            Ok(Attempt::Unchanged(object)) if is_current => return Ok(object),
            Err(error) if is_current => return Err(error),
            Ok(Attempt::Unchanged(_)) | Err(_) => (current, is_current) = (read().await?, true),
        }
    }
    Err(ApiError::modified(&desc.group, &desc.plural, &request.info.name))
}

/// What became of an attempt to change an object; an error came before anything was written.
enum Attempt {
    /// The object as it is now.
    Written(Value),
    /// There was nothing to write.
    Unchanged(Value),
    /// Somebody was faster; what is there now.
    Overtaken(Option<Entry>),
    /// The write failed.
    Failed(ApiError),
}

async fn attempt(
    request: &Request,
    dry_run: bool,
    ownership: Ownership,
    change: &impl Fn(&Value) -> Result<Value, ApiError>,
    entry: &Entry,
) -> Result<Attempt, ApiError> {
    let desc = &request.desc;
    let (store, key) = (&request.server.store, request.key());
    let mut old = desc.shown(entry.value()).await?;
    // An object that another version wrote is compared as this one would have written it.
    desc.complete(&mut old)?;
    let mut new = change(&old)?;
    check_preconditions(request, &new, &old)?;
    let explicit = !new.resource_version().is_empty();
    let mut new = prepared(request, &mut new, &old, dry_run, ownership).await?;
    let (same, finished) = (ownership::same(&new, &old) && desc.is_current(entry), is_finished(&new, &old));
    if dry_run || (same && !finished) {
        if same {
            // A time alone is no change.
            kinit_apimachinery::apply::put(&mut new, old.at(&["metadata", "managedFields"]).cloned());
        }
        if dry_run && !same && !finished {
            crate::services::try_allocate(request, &mut new, Some(&old)).await?;
        }
        return Ok(Attempt::Unchanged(super::create::with_version(new, entry.revision)));
    }
    if finished {
        return Ok(match store.delete(&desc.prefix, &key, entry.revision).await {
            Ok(Updated::Done(revision)) => {
                crate::services::release(request, &new).await;
                Attempt::Written(super::create::with_version(new, revision))
            }
            Ok(Updated::Changed(now)) => Attempt::Overtaken(now),
            Err(error) => Attempt::Failed(request.storage_error(error)),
        });
    }
    let undo = crate::services::allocate(request, &mut new, Some(&old)).await?;
    let mut stored = match desc.stored(new).await {
        Ok(stored) => stored,
        Err(error) => {
            undo.run(&request.server).await;
            return Err(error);
        }
    };
    let ttl = (desc.prefix == "events/").then_some(3600);
    let mut written = store.update(&desc.prefix, &key, entry.revision, &stored, ttl).await;
    if matches!(written, Err(kinit_storage::Error::TooLarge)) && kinit_apimachinery::apply::take(&mut stored).is_some()
    {
        // As upstream: rather without owners than not at all.
        written = store.update(&desc.prefix, &key, entry.revision, &stored, ttl).await;
    }
    let failed = match written {
        Ok(Updated::Done(revision)) => {
            undo.commit(&request.server).await;
            let shown = desc.shown(super::create::with_version(stored, revision)).await;
            return Ok(shown.map_or_else(Attempt::Failed, Attempt::Written));
        }
        Ok(Updated::Changed(Some(_))) if explicit && request.info.verb == "update" => {
            Attempt::Failed(ApiError::modified(&desc.group, &desc.plural, &request.info.name))
        }
        Ok(Updated::Changed(now)) => Attempt::Overtaken(now),
        Err(error) => Attempt::Failed(request.storage_error(error)),
    };
    undo.run(&request.server).await;
    Ok(failed)
}

fn check_preconditions(request: &Request, new: &Value, old: &Value) -> Result<(), ApiError> {
    let desc = &request.desc;
    if !new.uid().is_empty() && new.uid() != old.uid() {
        let cause = format!(
            "StorageError: invalid object, Code: 4, Key: /registry/{}{}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {}, UID in object meta: {}",
            desc.prefix,
            request.key(),
            new.uid(),
            old.uid()
        );
        return Err(ApiError::conflict(&desc.group, &desc.plural, &request.info.name, &cause));
    }
    let version = new.resource_version();
    if version.is_empty() && request.info.verb == "update" && !desc.strategy.traits().unconditional_update {
        let mut errors = FieldErrors::default();
        errors.invalid("metadata.resourceVersion", &0.into(), "must be specified for an update");
        return errors.into_result(&desc.group, &desc.plural, &request.info.name);
    }
    if !version.is_empty() && version != old.resource_version() {
        if version.parse::<u64>().is_err() {
            let mut errors = FieldErrors::default();
            errors.invalid("metadata.resourceVersion", &version.into(), "must be an unsigned integer");
            return errors.into_result(&desc.group, &desc.kind, &request.info.name);
        }
        return Err(ApiError::modified(&desc.group, &desc.plural, &request.info.name));
    }
    Ok(())
}

/// Everything between the change and the write: defaults, what may not change, admission, validation.
async fn prepared(
    request: &Request,
    new: &mut Value,
    old: &Value,
    dry_run: bool,
    ownership: Ownership,
) -> Result<Value, ApiError> {
    let desc = &request.desc;
    let sub = request.info.subresource.as_str();
    desc.complete(new)?;
    desc.strategy.default(new);
    metadata::before_update(new, old);
    if let Some(meta) = new.object_at(&["metadata"]) {
        meta.shift_remove("resourceVersion");
    }
    ownership::record(request, new, old, ownership).await;
    let mut new = shaped(request, new.take(), old);
    let attributes = Attributes { request, operation: Operation::Update, old: Some(old), dry_run, subresource: sub };
    if attributes.mutate(&mut new).await? {
        new = shaped(request, new, old);
    }
    desc.complete(&mut new)?;
    let mut errors = FieldErrors::default();
    metadata::validate(&new, desc, &mut errors);
    metadata::validate_update(&new, old, &mut errors);
    if sub.is_empty() {
        desc.strategy.validate(&new, &mut errors);
        desc.strategy.validate_update(&new, old, &mut errors);
    } else {
        desc.strategy.validate_sub(sub, &new, old, &mut errors);
    }
    errors.into_result(&desc.group, &desc.kind, &request.info.name)?;
    attributes.validate(&new).await?;
    Ok(new)
}

/// What of a change this way of writing takes over, and what follows from it.
fn shaped(request: &Request, mut new: Value, old: &Value) -> Value {
    let desc = &request.desc;
    let sub = request.info.subresource.as_str();
    let owners = kinit_apimachinery::apply::take(&mut new);
    let mut new = match sub {
        "" => {
            if desc.has_status() {
                carry(&mut new, old, "status");
            }
            new
        }
        sub => crate::strategy::sub_update(sub, if desc.custom.is_some() { "" } else { &desc.kind }, new, old),
    };
    if let Some(converter) = &desc.converter {
        converter.keep(&mut new, old, sub);
    }
    if matches!(sub, "" | "resize" | "ephemeralcontainers") {
        desc.strategy.prepare_update(&mut new, old);
    }
    if matches!(sub, "" | "resize" | "ephemeralcontainers" | "scale") {
        metadata::bump_generation(&mut new, old, desc.strategy.traits().generation);
    }
    kinit_apimachinery::apply::put(&mut new, owners);
    new
}

fn carry(new: &mut Value, old: &Value, key: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(key) {
        Some(value) => {
            map.insert(key.into(), value.clone());
        }
        None => {
            map.shift_remove(key);
        }
    }
}

/// Whether the object was only kept by finalizers and the last one is gone.
fn is_finished(new: &Value, old: &Value) -> bool {
    let grace = new.at(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0);
    let namespaced_out = new.get("kind").is_none_or(|k| k != "Namespace")
        || new.get("apiVersion").is_none_or(|v| v != "v1")
        || new.at(&["spec", "finalizers"]).and_then(Value::as_array).is_none_or(Vec::is_empty);
    old.is_deleting() && grace == 0 && new.finalizers().is_empty() && namespaced_out
}
