//! PATCH with `application/apply-patch+yaml`: server-side apply.

use kinit_apimachinery::apply::{self, Applied, Conflict, Kind, Owners, Scope, TypeRef, Writer, check};
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::typed::Typed;
use kinit_apimachinery::{ApiError, Cause};
use serde_json::Value;

use super::decode::{self, Wanted};
use super::owned_kind::{Converted, OwnedKind, type_of};
use super::ownership::{self, Ownership, with_writer};
use super::{Request, create, options, present, scale, update};
use crate::authz;
use crate::http::{ApiResponse, body};

/// Media type of an applied document (JSON is YAML).
pub const MEDIA_TYPE: &str = "application/apply-patch+yaml";

/// How often an apply is tried again for versions of an object that it lacked.
const ROUNDS: usize = 8;

/// Handles the request.
pub async fn handle(request: &Request, raw: &[u8]) -> Result<ApiResponse, ApiError> {
    let wanted = Wanted::of(request);
    let change = Change {
        dry_run: options::write_options(request)?,
        force: request.flag("force"),
        document: document(request, raw, &wanted)?,
        converted: Converted::default(),
        wanted,
    };
    for _ in 0..ROUNDS {
        match once(request, &change).await {
            Err(error) if !change.converted.fetch(&request.desc).await? => return Err(error),
            Err(_) => {}
            Ok(response) => return Ok(response),
        }
    }
    Err(ApiError::modified(&request.desc.group, &request.desc.plural, &request.info.name))
}

/// What is applied.
struct Change<'a> {
    dry_run: bool,
    force: bool,
    document: Value,
    wanted: Wanted<'a>,
    /// What is known of other versions in which somebody owns fields.
    converted: Converted,
}

async fn once(request: &Request, change: &Change<'_>) -> Result<ApiResponse, ApiError> {
    if request.info.subresource == "scale" {
        let applied = update::apply(request, change.dry_run, Ownership::Brought, |old| {
            with_writer(request, |by| to_scale(request, old, change, by))
        });
        return Ok(present::object(request, 200, scale::of(&request.desc, &applied.await?)));
    }
    let result = update::apply(request, change.dry_run, Ownership::Brought, |old| {
        let owners = live_owners(old)?;
        with_writer(request, |by| {
            let kind = OwnedKind::of(&request.desc, by.api_version, &change.converted);
            let applied = apply::apply(owners, false, old, &change.document, &kind, by, change.force);
            finished(request, change, applied.map_err(|c| conflicts(&c))?)
        })
    })
    .await;
    match result {
        Err(error) if error.code == 404 && error.name == request.info.name && request.info.subresource.is_empty() => {
            Ok(present::object(request, 201, created(request, change).await?))
        }
        Err(error) => Err(error),
        Ok(updated) => Ok(present::object(request, 200, updated)),
    }
}

async fn created(request: &Request, change: &Change<'_>) -> Result<Value, ApiError> {
    authz::require_create(request).await?;
    let (desc, document) = (&request.desc, &change.document);
    if !document.uid().is_empty() {
        let cause = format!(
            "uid mismatch: the provided object specified uid {}, and no existing object was found",
            document.uid()
        );
        return Err(ApiError::conflict(&desc.group, &desc.plural, &request.info.name, &cause));
    }
    let new = with_writer(request, |by| {
        let kind = OwnedKind::of(desc, by.api_version, &change.converted);
        let applied = apply::apply(Owners::default(), true, &kind.empty(), document, &kind, by, false);
        finished(request, change, applied.map_err(|c| conflicts(&c))?)
    })?;
    create::object_of(request, new, change.dry_run).await
}

fn live_owners(live: &Value) -> Result<Owners, ApiError> {
    Owners::decode(live.at(&["metadata", "managedFields"]))
        .map_err(|e| ApiError::internal(format!("failed to decode managed fields: {e}")))
}

/// What an apply made, fitted to its type, with its owners.
fn finished(request: &Request, change: &Change<'_>, applied: Applied) -> Result<Value, ApiError> {
    if change.converted.lacks() {
        // What was made without them is not to be written.
        return Err(ApiError::internal("the object is not known in all versions in which it is owned"));
    }
    let mut object = applied.object;
    apply::take(&mut object);
    decode::conform(request, &mut object, &change.wanted, Vec::new())?;
    apply::put(&mut object, applied.owners.encode());
    Ok(object)
}

/// Applies a document to an object's scale. Who owns `spec.replicas` of the object owns it there, and the other way
/// round (`managedfields.ScaleHandler`).
fn to_scale(request: &Request, old: &Value, change: &Change<'_>, by: &Writer<'_>) -> Result<Value, ApiError> {
    let (owners, wanted, desc) = (live_owners(old)?, &change.wanted, &request.desc);
    let api_version = crate::resources::descriptor::api_version(wanted.group, wanted.version);
    let kind = OwnedKind::named(&api_version, wanted.kind, wanted.ty.built_in());
    let writer = Writer { api_version: &api_version, scope: Scope::Within(&[&["spec", "replicas"]]), ..*by };
    let (live, of_scale) = (scale::of(desc, old), ownership::of_scale(&owners, desc, &api_version));
    let applied = apply::apply(of_scale, false, &live, &change.document, &kind, &writer, change.force)
        .map_err(|c| conflicts(&c))?;
    let mut scale = applied.object;
    decode::conform(request, &mut scale, wanted, Vec::new())?;
    let mut new = scale::changed(request, old, &scale)?;
    apply::put(&mut new, ownership::with_scale(owners, applied.owners, desc, by.api_version).encode());
    Ok(new)
}

fn document(request: &Request, raw: &[u8], wanted: &Wanted<'_>) -> Result<Value, ApiError> {
    let mut value = body::yaml(raw).map_err(|e| ApiError::bad_request(format!("error decoding YAML: yaml: {e}")))?;
    if !value.is_object() {
        return Err(ApiError::bad_request("error decoding YAML: the applied document is not an object"));
    }
    decode::repeated(request, raw)?;
    for key in ["apiVersion", "kind"] {
        if value.str_at(&[key]).is_empty() {
            return Err(ApiError::bad_request(format!("the applied document has no {key}")));
        }
    }
    let version = crate::resources::descriptor::api_version(wanted.group, wanted.version);
    if value.str_at(&["apiVersion"]) != version {
        return Err(ApiError::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: {version}",
            value.str_at(&["apiVersion"])
        )));
    }
    decode::same_kind(&value, wanted)?;
    if value.at(&["metadata", "managedFields"]).is_some_and(|fields| !fields.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    // Fields that are not known are told in the words of the apply, and wrong types in those of the decoder.
    let ty = match &wanted.ty {
        Typed::Custom(_) => type_of(&request.desc, &version),
        other => TypeRef::of(other.built_in()),
    };
    check(&value, ty).map_err(|problem| {
        let (namespace, name) = (value.namespace(), value.name());
        let gvk = format!("{version}, Kind={}", wanted.kind);
        let gvk = if wanted.group.is_empty() { format!("/{gvk}") } else { gvk };
        ApiError::bad_request(format!("failed to create typed patch object ({namespace}/{name}; {gvk}): {problem}"))
    })?;
    decode::conform(request, &mut value.clone(), wanted, Vec::new())?;
    if value.name().is_empty()
        && let Some(meta) = value.object_at(&["metadata"])
    {
        meta.insert("name".into(), request.info.name.clone().into());
    }
    update::check_name(request, &value)?;
    Ok(value)
}

/// `NewConflictError` of upstream's field manager.
fn conflicts(list: &[Conflict]) -> ApiError {
    let message = match list {
        [one] => format!("Apply failed with 1 conflict: conflict with {}: {}", one.owner, one.path),
        many => {
            let mut lines = Vec::new();
            for (i, conflict) in many.iter().enumerate() {
                if i == 0 || many[i - 1].owner != conflict.owner {
                    lines.push(format!("conflicts with {}:", conflict.owner));
                }
                lines.push(format!("- {}", conflict.path));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    let mut error = ApiError::new(409, "Conflict", message);
    error.causes = list
        .iter()
        .map(|c| Cause {
            reason: "FieldManagerConflict".into(),
            message: format!("conflict with {}", c.owner),
            field: c.path.clone(),
        })
        .collect();
    error
}
