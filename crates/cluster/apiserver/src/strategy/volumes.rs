//! Volumes, claims, storage classes, CSI drivers.

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::quantity::Quantity;
use kinit_apimachinery::status::FieldErrors;
use serde_json::{Value, json};

use super::tools::{absent, empty, immutable, items, object, one_of};

pub fn default_pv(o: &mut Value) {
    let spec = object(o, "spec");
    empty(spec, "persistentVolumeReclaimPolicy", "Retain");
    absent(spec, "volumeMode", "Filesystem");
    if let Some(path) = spec.get_mut("hostPath").filter(|p| p.is_object()) {
        absent(path, "type", "");
    }
    empty(object(o, "status"), "phase", "Pending");
}

pub fn default_pvc(o: &mut Value) {
    absent(object(o, "spec"), "volumeMode", "Filesystem");
    empty(object(o, "status"), "phase", "Pending");
}

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// The ways in which a volume or a claim is used.
pub fn modes(o: &Value, errors: &mut FieldErrors) {
    let list = items(o, &["spec", "accessModes"]);
    if list.is_empty() {
        errors.required("spec.accessModes", "at least 1 access mode is required");
    }
    for mode in list {
        one_of(mode, "spec.accessModes", MODES, errors);
    }
    if list.len() > 1 && list.iter().any(|mode| mode == "ReadWriteOncePod") {
        errors.forbidden("spec.accessModes", "may not use ReadWriteOncePod with other access modes");
    }
}

pub fn validate_pvc(o: &Value, errors: &mut FieldErrors) {
    modes(o, errors);
    if o.at(&["spec", "resources", "requests", "storage"]).is_none() {
        errors.required("spec.resources[storage]", "");
    }
}

/// Only the binding of an unbound claim changes, and of a bound one the size and the class of attributes
/// (`ValidatePersistentVolumeClaimUpdate`).
pub fn validate_pvc_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let bound = new.str_at(&["status", "phase"]) == "Bound";
    let unset = |value: Option<&Value>| value.is_none_or(|v| v.is_null() || v == "");
    let fixed = |o: &Value| {
        let mut spec = o.get("spec").cloned().unwrap_or_default();
        if bound {
            spec.object_at(&["resources", "requests"]).map(|requests| requests.shift_remove("storage"));
        }
        if let Some(map) = spec.as_object_mut() {
            if bound {
                map.shift_remove("volumeAttributesClassName");
            }
            if unset(old.at(&["spec", "volumeName"])) {
                map.shift_remove("volumeName");
            }
            // A claim made before there was a default class gets one later.
            if old.at(&["spec", "storageClassName"]).is_none_or(Value::is_null) {
                map.shift_remove("storageClassName");
            }
        }
        spec
    };
    if fixed(new) != fixed(old) {
        errors.forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
    let size = |o: &Value, path: &[&str]| o.str_at(path).parse::<Quantity>().ok();
    const REQUEST: [&str; 4] = ["spec", "resources", "requests", "storage"];
    let (wanted, before) = (size(new, &REQUEST), size(old, &REQUEST));
    // A request that could not be met may be taken back, but not below what the claim has.
    let has = size(old, &["status", "capacity", "storage"]);
    if bound && wanted < before && has.is_some_and(|has| wanted < Some(has)) {
        errors.forbidden(&REQUEST.join("."), "field can not be less than status.capacity");
    }
}

pub fn default_class(o: &mut Value) {
    absent(o, "reclaimPolicy", "Delete");
    absent(o, "volumeBindingMode", "Immediate");
}

pub fn validate_class(o: &Value, errors: &mut FieldErrors) {
    if o.str_at(&["provisioner"]).is_empty() {
        errors.required("provisioner", "");
    }
    one_of(&o["volumeBindingMode"], "volumeBindingMode", &["Immediate", "WaitForFirstConsumer"], errors);
    one_of(&o["reclaimPolicy"], "reclaimPolicy", &["Delete", "Retain"], errors);
}

pub fn validate_class_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    for key in ["parameters", "provisioner", "reclaimPolicy"] {
        if new.get(key) != old.get(key) {
            errors.forbidden(key, &format!("updates to {key} are forbidden."));
        }
    }
    immutable(new, old, &["volumeBindingMode"], errors);
}

pub fn default_driver(o: &mut Value) {
    let spec = object(o, "spec");
    absent(spec, "attachRequired", true);
    for key in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        absent(spec, key, false);
    }
    absent(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if spec.get("volumeLifecycleModes").is_none() {
        spec["volumeLifecycleModes"] = json!(["Persistent"]);
    }
}
