//! POST: a new object.

use bytes::Bytes;
use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

use super::decode::{self, Wanted};
use super::{Request, metadata, options};
use crate::admission::{Attributes, Operation};
use crate::http::ApiResponse;

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
    if !object.name().is_empty() || object.str_at(&["metadata", "generateName"]).is_empty() {
        return named(request, object, dry_run).await;
    }
    for _ in 1..NAMES {
        match named(request, object.clone(), dry_run).await {
            Err(error) if error.reason == "AlreadyExists" => {}
            other => return other,
        }
    }
    named(request, object, dry_run).await.map_err(|mut error| {
        if error.reason == "AlreadyExists" {
            error.message.push_str(", the server was not able to generate a unique name for the object");
            error.retry_after = Some(1);
        }
        error
    })
}

/// One attempt, with the given name or a generated one.
async fn named(request: &Request, mut object: Value, dry_run: bool) -> Result<Value, ApiError> {
    let desc = &request.desc;
    if !object.resource_version().is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    if !request.is_apply()
        && let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut)
    {
        // Owners are recorded from the first apply on.
        meta.shift_remove("managedFields");
    }
    if desc.has_status() && !keeps_status(request) {
        drop_status(&mut object, desc);
    }
    desc.complete(&mut object);
    (desc.strategy.default)(&mut object);
    metadata::before_create(&mut object, desc, &request.info.namespace)?;
    if desc.kind == "CertificateSigningRequest" {
        crate::strategy::certificates::stamp(&mut object, &request.user);
    }
    if desc.strategy.generation && object.get("spec").is_some() {
        object["metadata"]["generation"] = 1.into();
    }
    let attributes = Attributes { request, operation: Operation::Create, old: None, dry_run, subresource: "" };
    attributes.mutate(&mut object).await?;
    // What follows from the spec (a pod's quality of service) follows from what the plugins made of it.
    (desc.strategy.prepare_create)(&mut object);
    (desc.strategy.default)(&mut object);
    desc.complete(&mut object);
    let mut errors = FieldErrors::default();
    metadata::validate(&object, desc, &mut errors);
    (desc.strategy.validate)(&object, &mut errors);
    (desc.strategy.validate_create)(&object, &mut errors);
    errors.into_result(&desc.group, &desc.kind, object.name())?;
    crate::inert::warn(request, &object);
    attributes.validate(&object).await?;
    let name = object.name().to_owned();
    let key = desc.key(&request.info.namespace, &name);
    if dry_run {
        absent(request, &key, &name).await?;
        crate::services::try_allocate(request, &mut object, None).await?;
        return Ok(object);
    }
    let undo = crate::services::allocate(request, &mut object, None).await?;
    let stored = desc.stored(object);
    let ttl = (desc.prefix == "events/").then_some(EVENT_TTL);
    match request.server.store.create(&desc.prefix, &key, &stored, ttl).await {
        Ok(revision) => Ok(desc.shown(with_version(stored, revision))),
        Err(error) => {
            undo.run(&request.server).await;
            Err(super::storage_error(error, desc, &name))
        }
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
    request.desc.kind == "Node"
}

fn drop_status(object: &mut Value, desc: &crate::resources::Descriptor) {
    if let Some(map) = object.as_object_mut() {
        map.shift_remove("status");
        if desc.ty.is_some_and(|ty| kinit_apimachinery::schema::schema().field(ty, "status").is_some()) {
            map.insert("status".into(), Value::Object(serde_json::Map::new()));
        }
    }
}
