//! Metadata rules that hold for every kind (`rest.BeforeCreate`, `rest.BeforeUpdate`, `ValidateObjectMeta`).

use jiff::Timestamp;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::names;
use kinit_apimachinery::status::FieldErrors;
use kinit_apimachinery::{ApiError, time};
use serde_json::Value;

use super::options::MANAGER_LIMIT;
use crate::resources::Descriptor;
use crate::strategy::Generation;

const ANNOTATIONS_LIMIT: usize = 256 * 1024;
/// `MaxSubresourceNameLength`.
const SUBRESOURCE_LIMIT: usize = 256;

/// Sets what the server alone sets on a new object.
pub fn before_create(object: &mut Value, desc: &Descriptor, namespace: &str) -> Result<(), ApiError> {
    let given = object.namespace().to_owned();
    if desc.namespaced && !given.is_empty() && given != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let generate = object.str_at(&["metadata", "generateName"]).to_owned();
    if object.name().is_empty() && generate.is_empty() {
        let mut errors = FieldErrors::default();
        errors.required("metadata.name", "name or generateName is required");
        return errors.into_result(&desc.group, &desc.kind, "");
    }
    let name = if object.name().is_empty() { names::generate(&generate) } else { object.name().to_owned() };
    let Some(meta) = object.object_at(&["metadata"]) else {
        return Err(ApiError::bad_request("metadata is not an object"));
    };
    for gone in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion", "generation"]
    {
        meta.shift_remove(gone);
    }
    meta.shift_insert(0, "name".into(), name.into());
    if desc.namespaced {
        meta.insert("namespace".into(), namespace.into());
    } else {
        meta.shift_remove("namespace");
    }
    meta.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    meta.insert("creationTimestamp".into(), time::format(Timestamp::now()).into());
    Ok(())
}

/// Carries over what an update may not change.
pub fn before_update(new: &mut Value, old: &Value) {
    let keep: Vec<(&str, Option<Value>)> = [
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
        "generateName",
    ]
    .into_iter()
    .map(|key| (key, old.at(&["metadata", key]).cloned()))
    .collect();
    let Some(meta) = new.object_at(&["metadata"]) else { return };
    for (key, value) in keep {
        match value {
            Some(value) => {
                meta.insert(key.into(), value);
            }
            None => {
                meta.shift_remove(key);
            }
        }
    }
}

/// Checks names, labels, annotations, owners and finalizers.
pub fn validate(object: &Value, desc: &Descriptor, errors: &mut FieldErrors) {
    let name = object.name();
    let prefix = object.str_at(&["metadata", "generateName"]);
    if !prefix.is_empty() {
        // A prefix may end in the dash that the suffix follows (`maskTrailingDash`).
        let masked = prefix.strip_suffix('-').filter(|p| !p.is_empty()).map(|p| format!("{p}a"));
        for problem in desc.names.check(masked.as_deref().unwrap_or(prefix)) {
            errors.invalid("metadata.generateName", &prefix.into(), &problem);
        }
    }
    for problem in desc.names.check(name) {
        errors.invalid("metadata.name", &name.into(), &problem);
    }
    for (key, value) in entries(object.at(&["metadata", "labels"])) {
        for problem in names::check_qualified_name(key) {
            errors.invalid("metadata.labels", &key.into(), &problem);
        }
        for problem in names::check_label_value(value) {
            errors.invalid("metadata.labels", &value.into(), &problem);
        }
    }
    let mut size = 0;
    for (key, value) in entries(object.at(&["metadata", "annotations"])) {
        size += key.len() + value.len();
        for problem in names::check_qualified_name(&key.to_lowercase()) {
            errors.invalid("metadata.annotations", &key.into(), &problem);
        }
    }
    if size > ANNOTATIONS_LIMIT {
        errors.too_long("metadata.annotations", ANNOTATIONS_LIMIT);
    }
    for finalizer in object.finalizers() {
        for problem in names::check_qualified_name(&finalizer) {
            errors.invalid("metadata.finalizers", &finalizer.as_str().into(), &problem);
        }
    }
    owners(object, errors);
    managed_fields(object, errors);
}

/// What a client may have brought (`ValidateManagedFields`); the rest of an entry was read already.
fn managed_fields(object: &Value, errors: &mut FieldErrors) {
    let list = object.at(&["metadata", "managedFields"]).and_then(Value::as_array);
    for (i, entry) in list.into_iter().flatten().enumerate() {
        let at = |field: &str| format!("metadata.managedFields[{i}].{field}");
        let (manager, sub) = (entry.str_at(&["manager"]), entry.str_at(&["subresource"]));
        if manager.len() > MANAGER_LIMIT {
            errors.too_long(&at("manager"), MANAGER_LIMIT);
        }
        if let Some((place, c)) = manager.char_indices().find(|(_, c)| c.is_control()) {
            let detail = format!("invalid character U+{:04X} (at position {place})", c as u32);
            errors.invalid(&at("manager"), &manager.into(), &detail);
        }
        if sub.len() > SUBRESOURCE_LIMIT {
            errors.too_long(&at("subresource"), SUBRESOURCE_LIMIT);
        }
    }
}

fn owners(object: &Value, errors: &mut FieldErrors) {
    let owners = object.at(&["metadata", "ownerReferences"]).and_then(Value::as_array);
    let mut controllers = 0;
    for (i, owner) in owners.into_iter().flatten().enumerate() {
        for key in ["apiVersion", "kind", "name", "uid"] {
            if owner.str_at(&[key]).is_empty() {
                errors.required(&format!("metadata.ownerReferences[{i}].{key}"), "must not be empty");
            }
        }
        controllers += usize::from(owner.get("controller").and_then(Value::as_bool) == Some(true));
    }
    if controllers > 1 {
        errors.invalid(
            "metadata.ownerReferences",
            &Value::from(controllers),
            "Only one reference can have Controller set to true",
        );
    }
}

/// Checks what of the metadata may not change.
pub fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if new.name() != old.name() {
        errors.invalid("metadata.name", &new.name().into(), "field is immutable");
    }
    if old.is_deleting() {
        let had = old.finalizers();
        let added: Vec<String> = new.finalizers().into_iter().filter(|f| !had.contains(f)).collect();
        if !added.is_empty() {
            errors.forbidden(
                "metadata.finalizers",
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
                ),
            );
        }
    }
}

fn entries(map: Option<&Value>) -> impl Iterator<Item = (&str, &str)> {
    map.and_then(Value::as_object)
        .into_iter()
        .flat_map(|m| m.iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default())))
}

/// Bumps `metadata.generation` when something changed that the kind counts.
pub fn bump_generation(new: &mut Value, old: &Value, generation: Generation) {
    let counts = |key: &str| match key {
        "metadata" | "apiVersion" | "kind" => false,
        "status" => generation == Generation::Whole,
        _ => true,
    };
    let differs = generation != Generation::Never && {
        let body = |v: &Value| {
            v.as_object().map(|m| {
                m.iter()
                    .filter(|(k, _)| counts(k))
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect::<serde_json::Map<_, _>>()
            })
        };
        body(new) != body(old)
    };
    if differs && let Some(generation) = old.at(&["metadata", "generation"]).and_then(Value::as_i64) {
        new["metadata"]["generation"] = (generation + 1).into();
    }
}
