//! PersistentVolumes (`ValidatePersistentVolumeSpec`, `ValidatePersistentVolumeUpdate`).

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::names::NameRule;
use kinit_apimachinery::quantity::Quantity;
use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

use super::tools::{items, one_of};
use super::volumes::modes;

/// The ways to name a volume's storage.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// What is needed of a source beside what is checked of each for itself.
const NEEDED: [(&str, &[&str]); 6] = [
    ("hostPath", &["path"]),
    ("local", &["path"]),
    ("nfs", &["server", "path"]),
    ("csi", &["driver", "volumeHandle"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
];

const HOST_PATHS: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

fn is_set(value: Option<&Value>) -> bool {
    value.is_some_and(|value| !value.is_null())
}

/// Checks a volume.
pub fn validate(o: &Value, errors: &mut FieldErrors) {
    let spec = o.get("spec").unwrap_or(&Value::Null);
    modes(o, errors);
    capacity(spec, errors);
    let policy = spec.get("persistentVolumeReclaimPolicy").cloned().unwrap_or_default();
    one_of(&policy, "spec.persistentVolumeReclaimPolicy", &["Delete", "Recycle", "Retain"], errors);
    let affinity = spec.get("nodeAffinity").filter(|a| !a.is_null());
    if let Some(affinity) = affinity {
        node_affinity(affinity, errors);
    }
    sources(spec, affinity.is_some(), errors);
    if policy == "Recycle" && is_root(spec.str_at(&["hostPath", "path"])) {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.forbidden("spec.persistentVolumeReclaimPolicy", detail);
    }
    let class = spec.str_at(&["storageClassName"]);
    if !class.is_empty() {
        for problem in NameRule::Subdomain.check(class) {
            errors.invalid("spec.storageClassName", &class.into(), &problem);
        }
    }
    if let Some(mode) = spec.get("volumeMode").filter(|mode| !mode.is_null()) {
        one_of(mode, "spec.volumeMode", &["Block", "Filesystem"], errors);
    }
    if is_set(spec.get("volumeAttributesClassName")) && !is_set(spec.get("csi")) {
        errors.required("spec.csi", "has to be specified when using volumeAttributesClassName");
    }
}

fn capacity(spec: &Value, errors: &mut FieldErrors) {
    let capacity = spec.get("capacity").and_then(Value::as_object).filter(|map| !map.is_empty());
    let Some(capacity) = capacity else { return errors.required("spec.capacity", "") };
    if capacity.len() > 1 || !capacity.contains_key("storage") {
        errors.not_supported("spec.capacity", &spec["capacity"], &["storage"]);
    }
    for (name, amount) in capacity {
        let positive = amount.as_str().and_then(|text| text.parse::<Quantity>().ok());
        if positive.is_none_or(|q| q.thousandths() <= 0) {
            errors.invalid(&format!("spec.capacity[{name}]"), amount, "must be greater than zero");
        }
    }
}

/// `validateVolumeNodeAffinity`.
fn node_affinity(affinity: &Value, errors: &mut FieldErrors) {
    let Some(required) = affinity.get("required").filter(|r| !r.is_null()) else {
        return errors.required("spec.nodeAffinity.required", "must specify required node constraints");
    };
    if items(required, &["nodeSelectorTerms"]).is_empty() {
        let field = "spec.nodeAffinity.required.nodeSelectorTerms";
        errors.required(field, "must have at least one node selector term");
    }
}

/// There is exactly one, and it names what it has to.
fn sources(spec: &Value, has_affinity: bool, errors: &mut FieldErrors) {
    let mut found = SOURCES.into_iter().filter(|key| is_set(spec.get(*key)));
    let Some(first) = found.next() else { return errors.required("spec", "must specify a volume type") };
    for other in found {
        errors.forbidden(&format!("spec.{other}"), "may not specify more than 1 volume type");
    }
    for (_, keys) in NEEDED.iter().filter(|(source, _)| *source == first) {
        for key in *keys {
            if spec.str_at(&[first, key]).is_empty() {
                errors.required(&format!("spec.{first}.{key}"), "");
            }
        }
    }
    let path = spec.str_at(&[first, "path"]);
    let field = format!("spec.{first}.path");
    match first {
        "hostPath" | "local" if path.split('/').any(|part| part == "..") => {
            errors.invalid(&field, &path.into(), "must not contain '..'");
        }
        "nfs" if !path.is_empty() && !path.starts_with('/') => {
            errors.invalid(&field, &path.into(), "must be an absolute path");
        }
        _ => {}
    }
    if first == "hostPath"
        && let Some(kind) = spec.at(&["hostPath", "type"]).filter(|kind| !kind.is_null())
    {
        one_of(kind, "spec.hostPath.type", HOST_PATHS, errors);
    }
    if first == "local" && !has_affinity {
        errors.required("spec.nodeAffinity", "Local volume requires node affinity");
    }
}

/// Whether a path is that of the root, once its empty steps are gone.
fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| matches!(part, "" | "."))
}

/// Where the storage is does not change, nor how it is shown and which nodes reach it.
pub fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let source = |o: &Value, without_secret: bool| {
        let mut all: Vec<Option<Value>> = SOURCES.iter().map(|key| o.at(&["spec", key]).cloned()).collect();
        if without_secret && let Some(Some(csi)) = all.last_mut() {
            csi.as_object_mut().map(|csi| csi.shift_remove("controllerExpandSecretRef"));
        }
        all
    };
    // A secret to expand the volume may come later.
    let fresh = !is_set(old.at(&["spec", "csi", "controllerExpandSecretRef"]));
    if source(new, fresh) != source(old, false) {
        errors.forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation");
    }
    let same = |key: &str| new.at(&["spec", key]) == old.at(&["spec", key]);
    let shown = |key: &str| new.at(&["spec", key]).cloned().unwrap_or_default();
    if !same("volumeMode") {
        errors.invalid("volumeMode", &shown("volumeMode"), "field is immutable");
    }
    if is_set(old.at(&["spec", "nodeAffinity"])) && !same("nodeAffinity") {
        errors.invalid("nodeAffinity", &shown("nodeAffinity"), "field is immutable");
    }
    let class = ["spec", "volumeAttributesClassName"];
    if is_set(old.at(&class)) && !is_set(new.at(&class)) {
        errors.forbidden(&class.join("."), "update from non-nil value to nil is forbidden");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tools::assert_told;
    use super::*;

    fn volume(change: Value) -> Value {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"});
        change.as_object().unwrap().iter().for_each(|(key, value)| spec[key] = value.clone());
        json!({"metadata": {"name": "v"}, "spec": spec})
    }

    fn affinity() -> Value {
        json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["a"]}]}]}})
    }

    #[test]
    fn one_source_with_what_it_needs() {
        for (change, wanted) in [
            (json!({"hostPath": {"path": "/data", "type": ""}}), &[][..]),
            (json!({"local": {"path": "/data/..a"}, "nodeAffinity": affinity()}), &[]),
            (json!({"csi": {"driver": "d", "volumeHandle": "h"}}), &[]),
            (json!({}), &["spec: must specify a volume type"]),
            (
                json!({"hostPath": {"path": "/a"}, "nfs": {"server": "s", "path": "/a"}}),
                &["spec.nfs: may not specify more than 1 volume type"],
            ),
            (
                json!({"local": {"path": "/a/../b"}}),
                &["spec.local.path: must not contain '..'", "spec.nodeAffinity: Local volume requires node affinity"],
            ),
            (
                json!({"local": {"path": ""}, "nodeAffinity": {"required": {"nodeSelectorTerms": []}}}),
                &[
                    "spec.nodeAffinity.required.nodeSelectorTerms: must have at least one",
                    "spec.local.path: Required value",
                ],
            ),
            (
                json!({"hostPath": {"path": "..", "type": "Odd"}}),
                &["spec.hostPath.path: must not contain '..'", "spec.hostPath.type: Unsupported value"],
            ),
            (
                json!({"hostPath": {"path": "//."}, "persistentVolumeReclaimPolicy": "Recycle"}),
                &["spec.persistentVolumeReclaimPolicy: may not be 'recycle'"],
            ),
            (
                json!({"nfs": {"path": "a"}}),
                &["spec.nfs.server: Required value", "spec.nfs.path: must be an absolute path"],
            ),
            (
                json!({"hostPath": {"path": "/a"}, "capacity": {"storage": "0", "cpu": "1"}, "volumeMode": "Odd",
                    "storageClassName": "A"}),
                &[
                    "spec.capacity: Unsupported value",
                    "spec.capacity[storage]: must be greater than zero",
                    "spec.storageClassName: a lowercase RFC 1123 subdomain",
                    "spec.volumeMode: Unsupported value",
                ],
            ),
            (
                json!({"hostPath": {"path": "/a"}, "accessModes": ["ReadWriteOncePod", "ReadOnlyMany"]}),
                &["spec.accessModes: may not use ReadWriteOncePod with other access modes"],
            ),
        ] {
            let (object, mut errors) = (volume(change), FieldErrors::default());
            validate(&object, &mut errors);
            assert_told(&errors, wanted, &object);
        }
    }

    #[test]
    fn where_the_storage_is_stays() {
        let local = volume(json!({"local": {"path": "/a"}, "nodeAffinity": affinity()}));
        let host = volume(json!({"hostPath": {"path": "/a"}}));
        let csi = volume(json!({"csi": {"driver": "d", "volumeHandle": "h"}}));
        let with = |old: &Value, key: &str, value: Value| {
            let mut new = old.clone();
            new["spec"][key] = value;
            new
        };
        let secret = json!({"driver": "d", "volumeHandle": "h", "controllerExpandSecretRef": {"name": "s"}});
        for (old, new, wanted) in [
            (&local, with(&local, "claimRef", json!({"name": "c"})), &[][..]),
            (&local, with(&local, "persistentVolumeReclaimPolicy", json!("Delete")), &[]),
            (&host, with(&host, "nodeAffinity", affinity()), &[]),
            (&csi, with(&csi, "csi", secret.clone()), &[]),
            (&with(&csi, "csi", secret), csi.clone(), &["spec.persistentvolumesource: is immutable after creation"]),
            (&host, with(&host, "hostPath", json!({"path": "/b"})), &["spec.persistentvolumesource: is immutable"]),
            (&local, with(&local, "nodeAffinity", Value::Null), &["nodeAffinity: field is immutable"]),
            (&local, with(&local, "volumeMode", json!("Block")), &["volumeMode: field is immutable"]),
        ] {
            let mut errors = FieldErrors::default();
            validate_update(&new, old, &mut errors);
            assert_told(&errors, wanted, &new);
        }
    }
}
