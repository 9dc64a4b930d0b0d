//! What is particular to a kind: defaults, validation, what a write may touch. One small file per family of kinds.

pub mod certificates;

use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

/// The hooks of a kind, called by the generic registry in this order.
#[derive(Debug, Clone, Copy)]
pub struct Strategy {
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
    /// Whether a PUT creates what is not there.
    pub create_on_update: bool,
    /// Whether a delete answers with the object.
    pub return_deleted: bool,
    /// Whether a changed spec gets a new generation.
    pub generation: bool,
}

const PLAIN: Strategy = Strategy {
    default: |_| {},
    prepare_create: |_| {},
    prepare_update: |_, _| {},
    validate: |_, _| {},
    validate_update: |_, _, _| {},
    create_on_update: false,
    return_deleted: false,
    generation: true,
};

/// The strategy of a built-in kind.
pub fn of(group: &str, kind: &str) -> Strategy {
    match (group, kind) {
        ("coordination.k8s.io", "Lease")
        | ("rbac.authorization.k8s.io", _)
        | ("", "Event" | "Endpoints" | "LimitRange") => Strategy { create_on_update: true, ..PLAIN },
        ("certificates.k8s.io", _) => Strategy {
            validate: certificates::validate,
            prepare_update: certificates::prepare_update,
            generation: false,
            ..PLAIN
        },
        _ => PLAIN,
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
        // Controllers set labels and annotations with the status; finalizers and owners of pods stay theirs.
        let keys: &[&str] = match kind {
            "Pod" => &["labels", "annotations", "finalizers"],
            _ => &["labels", "annotations", "finalizers", "ownerReferences"],
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
