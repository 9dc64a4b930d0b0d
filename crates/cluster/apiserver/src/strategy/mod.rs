//! What is particular to a kind: defaults, validation, what a write may touch. One small file per family of kinds.

mod autoscalers;
pub mod certificates;
mod definitions;
mod endpoints;
mod events;
mod flow;
mod job_indexes;
mod job_status;
mod kinds;
mod limit_ranges;
mod network_policies;
pub mod nodes;
mod persistent_volumes;
mod pod_spec;
mod pod_status;
mod pod_update;
mod pod_validation;
mod pods;
mod quotas;
mod services;
mod simple;
mod statuses;
mod tolerations;
pub(crate) mod tools;
mod volumes;
mod webhooks;
mod workload_status;
mod workload_validation;
mod workloads;

use std::sync::Arc;

use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

/// What is particular to a kind; the generic registry calls it in this order.
pub trait Strategy: Send + Sync {
    /// Fills in defaults, on every decode.
    fn default(&self, object: &mut Value);
    /// Before a create is validated.
    fn prepare_create(&self, object: &mut Value);
    /// Before an update is validated: (new, old).
    fn prepare_update(&self, new: &mut Value, old: &Value);
    /// Checks an object.
    fn validate(&self, object: &Value, errors: &mut FieldErrors);
    /// Checks a change, on top of `validate`: (new, old).
    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors);
    /// Checks a new object, on top of `validate`.
    fn validate_create(&self, object: &Value, errors: &mut FieldErrors);
    /// Checks an update of a subresource: (subresource, new, old).
    fn validate_sub(&self, sub: &str, new: &Value, old: &Value, errors: &mut FieldErrors);
    /// Before the first delete of an object is planned: what must be done before it may go.
    fn prepare_delete(&self, object: &mut Value);
    /// Facts the registry goes by.
    fn traits(&self) -> Traits;
}

/// Facts about a kind.
#[derive(Debug, Clone, Copy)]
pub struct Traits {
    /// Whether a PUT creates what is not there.
    pub create_on_update: bool,
    /// Whether a PUT may leave the resource version out.
    pub unconditional_update: bool,
    /// Whether a delete answers with the object.
    pub return_deleted: bool,
    /// Which changes get a new generation.
    pub generation: Generation,
    /// What becomes of dependents when a delete does not say (`rest.GarbageCollectionDeleteStrategy`).
    pub dependents: Dependents,
}

/// Which changes get a new `metadata.generation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// None.
    Never,
    /// Those of anything but metadata and status.
    Spec,
    /// Those of anything but metadata: the kind has no status of its own.
    Whole,
}

impl Strategy for Hooks {
    fn default(&self, object: &mut Value) {
        (self.default)(object);
    }
    fn prepare_create(&self, object: &mut Value) {
        (self.prepare_create)(object);
    }
    fn prepare_update(&self, new: &mut Value, old: &Value) {
        (self.prepare_update)(new, old);
    }
    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        (self.validate)(object, errors);
    }
    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        (self.validate_update)(new, old, errors);
    }
    fn validate_create(&self, object: &Value, errors: &mut FieldErrors) {
        (self.validate_create)(object, errors);
    }
    fn validate_sub(&self, sub: &str, new: &Value, old: &Value, errors: &mut FieldErrors) {
        (self.validate_sub)(sub, new, old, errors);
    }
    fn prepare_delete(&self, object: &mut Value) {
        (self.prepare_delete)(object);
    }
    fn traits(&self) -> Traits {
        Traits {
            create_on_update: self.create_on_update,
            unconditional_update: self.unconditional_update,
            return_deleted: self.return_deleted,
            generation: if self.generation { Generation::Spec } else { Generation::Never },
            dependents: self.dependents,
        }
    }
}

/// The strategy of a built-in kind: functions, which need nothing but the object.
#[derive(Debug, Clone, Copy)]
struct Hooks {
    /// Fills in defaults, on every decode.
    pub default: fn(&mut Value),
    /// Before a create is validated.
    pub prepare_create: fn(&mut Value),
    /// Before an update is validated: (new, old).
    pub prepare_update: fn(&mut Value, &Value),
    /// Checks an object.
    pub validate: fn(&Value, &mut FieldErrors),
    /// Checks a change, on top of `validate`: (new, old).
    pub validate_update: fn(&Value, &Value, &mut FieldErrors),
    /// Checks a new object, on top of `validate`.
    pub validate_create: fn(&Value, &mut FieldErrors),
    /// Checks an update of a subresource: (subresource, new, old).
    pub validate_sub: fn(&str, &Value, &Value, &mut FieldErrors),
    /// Before the first delete.
    pub prepare_delete: fn(&mut Value),
    /// Whether a PUT creates what is not there.
    pub create_on_update: bool,
    /// Whether a PUT may leave the resource version out.
    pub unconditional_update: bool,
    /// Whether a delete answers with the object.
    pub return_deleted: bool,
    /// Whether a changed spec gets a new generation.
    pub generation: bool,
    /// What becomes of dependents when a delete does not say (`rest.GarbageCollectionDeleteStrategy`).
    pub dependents: Dependents,
}

/// What a kind's deletion means for the objects it owns, when nobody says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependents {
    /// They go.
    Delete,
    /// They are let go: so it was before there was a garbage collector, and so it stays for the oldest kinds.
    Orphan,
}

const PLAIN: Hooks = Hooks {
    default: |_| {},
    prepare_create: |_| {},
    prepare_update: |_, _| {},
    validate: |_, _| {},
    validate_update: |_, _, _| {},
    validate_create: |_, _| {},
    validate_sub: |_, _, _, _| {},
    prepare_delete: |_| {},
    create_on_update: false,
    unconditional_update: true,
    return_deleted: false,
    generation: true,
    dependents: Dependents::Delete,
};

/// Kinds whose objects have no generation upstream.
const NO_GENERATION: Hooks = Hooks { generation: false, ..PLAIN };

/// The strategy of a built-in kind.
pub fn of(group: &str, kind: &str) -> Arc<dyn Strategy> {
    // Kinds whose updates must name the version they change (`AllowUnconditionalUpdate` is false).
    let versioned = matches!(
        (group, kind),
        ("coordination.k8s.io", "Lease")
            | ("policy", "PodDisruptionBudget")
            | ("node.k8s.io", "RuntimeClass")
            | ("storage.k8s.io", "CSIDriver" | "CSINode" | "VolumeAttachment")
            | ("admissionregistration.k8s.io" | "apiextensions.k8s.io" | "apiregistration.k8s.io", _)
    );
    Arc::new(Hooks { unconditional_update: !versioned, ..kinds::family(group, kind) })
}

/// What an update of a subresource takes over from the new object: its own part, and nothing else.
pub fn sub_update(sub: &str, kind: &str, new: Value, old: &Value) -> Value {
    match sub {
        "status" if kind == "CertificateSigningRequest" => certificates::status_update(new, old),
        "status" => status_update(kind, new, old),
        "approval" => certificates::approval_update(&new, old),
        "finalize" => {
            let mut out = old.clone();
            out["spec"]["finalizers"] = new.get("spec").and_then(|s| s.get("finalizers")).cloned().unwrap_or_default();
            if out["spec"]["finalizers"].is_null()
                && let Some(spec) = out["spec"].as_object_mut()
            {
                spec.shift_remove("finalizers");
            }
            out
        }
        "ephemeralcontainers" => pods::ephemeral_update(&new, old),
        "resize" => pods::resize_update(&new, old),
        // binding and scale come from the server itself.
        _ => new,
    }
}

/// What an update of the status subresource takes over: the status, and nothing else but what upstream lets through.
pub fn status_update(kind: &str, new: Value, old: &Value) -> Value {
    let mut out = old.clone();
    let (Some(map), Some(given)) = (out.as_object_mut(), new.as_object()) else { return new };
    match given.get("status") {
        Some(status) => {
            map.insert("status".into(), status.clone());
        }
        None => {
            map.shift_remove("status");
        }
    }
    if let (Some(meta), Some(given)) = (map.get_mut("metadata").and_then(Value::as_object_mut), given.get("metadata")) {
        // Controllers set labels and annotations with the status; the owners of pods stay theirs.
        let keys: &[&str] = match kind {
            // A custom resource's status is all that is taken.
            "" => &["managedFields"],
            "Pod" => &["labels", "annotations", "finalizers", "managedFields"],
            _ => &["labels", "annotations", "finalizers", "ownerReferences", "managedFields"],
        };
        for key in keys {
            match given.get(*key) {
                Some(value) => {
                    meta.insert((*key).to_owned(), value.clone());
                }
                None => {
                    meta.shift_remove(*key);
                }
            }
        }
        meta.shift_remove("resourceVersion");
    }
    out
}
