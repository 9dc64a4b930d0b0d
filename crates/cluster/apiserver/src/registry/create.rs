//! POST: a new object.

use std::ops::ControlFlow::{self, Break, Continue};

use bytes::Bytes;
use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

use super::decode::{self, Wanted};
use super::{Request, metadata, options, ownership};
use crate::admission::{Attributes, Operation};
use crate::http::ApiResponse;
use crate::resources::Descriptor;
use crate::strategy::Generation;

/// Lifetime of events (upstream's `--event-ttl`).
const EVENT_TTL: i64 = 3600;

/// Handles the request.
pub async fn handle(request: &Request, body: Bytes) -> Result<ApiResponse, ApiError> {
    let wanted = Wanted::of(request);
    let dry_run = options::write_options(request)?;
    let object = decode::object(request, &body, &wanted)?;
    let created = object_of(request, object, dry_run).await?;
    Ok(super::present::object(request, 201, created))
}

/// How often a name is generated for one create (`maxNameGenerationCreateAttempts`).
const NAMES: usize = 8;

/// Creates an object that is decoded already; the stored object as the resource shows it.
pub async fn object_of(request: &Request, object: Value, dry_run: bool) -> Result<Value, ApiError> {
    if object.str_at(&["metadata", "generateName"]).is_empty() {
        return named(request, object, dry_run).await;
    }
    // Who sends both has chosen the name (`needsNameGeneration`).
    let attempts = if object.name().is_empty() { NAMES } else { 1 };
    let mut attempt = 1;
    loop {
        let result = named(request, object.clone(), dry_run).await;
        if let Break(result) = after(attempt, attempts, result) {
            return result;
        }
        attempt += 1;
    }
}

/// What follows from an attempt under a generated name: another one while the name was taken; after so many the client
/// is told to try again later (`NewGenerateNameConflict`).
fn after<T>(attempt: usize, attempts: usize, result: Result<T, ApiError>) -> ControlFlow<Result<T, ApiError>> {
    match result {
        Err(error) if error.reason == "AlreadyExists" && attempt < attempts => Continue(()),
        Err(mut error) if error.reason == "AlreadyExists" => {
            error.message.push_str(", the server was not able to generate a unique name for the object");
            error.retry_after = Some(1);
            Break(Err(error))
        }
        other => Break(other),
    }
}

/// One attempt, with the given name or a generated one.
async fn named(request: &Request, mut object: Value, dry_run: bool) -> Result<Value, ApiError> {
    let desc = &request.desc;
    check_new(desc, &object)?;
    if desc.has_status() && !keeps_status(request) {
        drop_status(&mut object, desc);
    }
    desc.complete(&mut object)?;
    desc.strategy.default(&mut object);
    ownership::record_new(request, &mut object).await;
    metadata::before_create(&mut object, desc, &request.info.namespace)?;
    if desc.kind == "CertificateSigningRequest" && desc.custom.is_none() {
        crate::strategy::certificates::stamp(&mut object, &request.user);
    }
    if desc.strategy.traits().generation != Generation::Never && (object.get("spec").is_some() || desc.custom.is_some())
    {
        object["metadata"]["generation"] = 1.into();
    }
    let attributes = Attributes { request, operation: Operation::Create, old: None, dry_run, subresource: "" };
    attributes.mutate(&mut object).await?;
    // What follows from the spec (a pod's quality of service) follows from what the plugins made of it.
    desc.strategy.prepare_create(&mut object);
    desc.strategy.default(&mut object);
    desc.complete(&mut object)?;
    let mut errors = FieldErrors::default();
    metadata::validate(&object, desc, &mut errors);
    desc.strategy.validate(&object, &mut errors);
    desc.strategy.validate_create(&object, &mut errors);
    errors.into_result(&desc.group, &desc.kind, object.name())?;
    attributes.validate(&object).await?;
    let name = object.name().to_owned();
    let key = desc.key(&request.info.namespace, &name);
    if dry_run {
        absent(request, &key, &name).await?;
        crate::services::try_allocate(request, &mut object, None).await?;
        return Ok(object);
    }
    let undo = crate::services::allocate(request, &mut object, None).await?;
    let mut stored = match desc.stored(object).await {
        Ok(stored) => stored,
        Err(error) => {
            undo.run(&request.server).await;
            return Err(error);
        }
    };
    let ttl = (desc.prefix == "events/").then_some(EVENT_TTL);
    match stored_new(request, &key, &mut stored, ttl).await {
        Ok(revision) => desc.shown(with_version(stored, revision)).await,
        Err(error) => {
            undo.run(&request.server).await;
            Err(super::storage_error(error, desc, &name))
        }
    }
}

/// What no new object may be.
fn check_new(desc: &Descriptor, object: &Value) -> Result<(), ApiError> {
    if desc.is_terminating() {
        let mut error = ApiError::method_not_supported(&desc.group, &desc.plural, "create");
        error.message = "create not allowed while custom resource definition is terminating".into();
        return Err(error);
    }
    match object.resource_version() {
        "" => Ok(()),
        _ => Err(ApiError::bad_request("resourceVersion should not be set on objects to be created")),
    }
}

/// Writes a new object. One that is too large is tried again without owners, as upstream does.
async fn stored_new(
    request: &Request,
    key: &str,
    object: &mut Value,
    ttl: Option<i64>,
) -> Result<u64, kinit_storage::Error> {
    let (store, prefix) = (&request.server.store, &request.desc.prefix);
    match store.create(prefix, key, object, ttl).await {
        Err(kinit_storage::Error::TooLarge) if kinit_apimachinery::apply::take(object).is_some() => {
            store.create(prefix, key, object, ttl).await
        }
        other => other,
    }
}

/// A dry run is refused where the write would be: when the object is there already (`DryRunnableStorage.Create`).
async fn absent(request: &Request, key: &str, name: &str) -> Result<(), ApiError> {
    let found = request.server.store.get(&request.desc.prefix, key).await;
    match found.map_err(|e| super::storage_error(e, &request.desc, name))? {
        Some(_) => Err(super::storage_error(kinit_storage::Error::Exists, &request.desc, name)),
        None => Ok(()),
    }
}

/// An object with its resource version set.
pub fn with_version(mut object: Value, revision: u64) -> Value {
    if let Some(meta) = object.object_at(&["metadata"]) {
        meta.insert("resourceVersion".into(), revision.to_string().into());
    }
    object
}

/// A kubelet registers its node with its status.
fn keeps_status(request: &Request) -> bool {
    request.desc.core_kind() == "Node"
}

fn drop_status(object: &mut Value, desc: &Descriptor) {
    if let Some(map) = object.as_object_mut() {
        map.shift_remove("status");
        if desc.ty.built_in().is_some() && desc.ty.has_field("status") {
            map.insert("status".into(), Value::Object(serde_json::Map::new()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The attempts of a create whose first `taken` names are taken, and what came of it.
    fn attempts(taken: usize, reason: &'static str) -> (usize, Result<(), ApiError>) {
        let mut attempt = 1;
        loop {
            let mut error = ApiError::already_exists("", "pods", &format!("p-{attempt}"));
            error.reason = reason;
            let result = if attempt <= taken { Err(error) } else { Ok(()) };
            match after(attempt, NAMES, result) {
                Break(result) => return (attempt, result),
                Continue(()) => attempt += 1,
            }
        }
    }

    #[test]
    fn names_are_generated_until_one_is_free() {
        assert!(matches!(attempts(0, "AlreadyExists"), (1, Ok(()))));
        assert!(matches!(attempts(7, "AlreadyExists"), (8, Ok(()))));
        let (made, result) = attempts(8, "AlreadyExists");
        let error = result.unwrap_err();
        assert_eq!((made, error.retry_after), (8, Some(1)));
        let want = "pods \"p-8\" already exists, the server was not able to generate a unique name for the object";
        assert_eq!(error.message, want);
        let (made, result) = attempts(1, "Forbidden");
        assert!(made == 1 && result.is_err(), "anything else is no reason to try again");
    }
}
