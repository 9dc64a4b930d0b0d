//! Volumes, claims and classes.

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::{AGE, NAME, col, wide};
use crate::tables::Column;
use crate::tables::values::text;

fn modes(o: &Value, path: &[&str]) -> String {
    kinit_apimachinery::meta::strings(o.at(path))
        .iter()
        .map(|m| match m.as_str() {
            "ReadWriteOnce" => "RWO",
            "ReadOnlyMany" => "ROX",
            "ReadWriteMany" => "RWX",
            "ReadWriteOncePod" => "RWOP",
            other => other,
        })
        .collect::<Vec<_>>()
        .join(",")
}
pub(super) static PV: &[Column] = &[
    NAME,
    col("Capacity", |o| text(o, &["spec", "capacity", "storage"], "")),
    col("Access Modes", |o| modes(o, &["spec", "accessModes"]).into()),
    col("Reclaim Policy", |o| text(o, &["spec", "persistentVolumeReclaimPolicy"], "")),
    col("Status", |o| if o.is_deleting() { "Terminating".into() } else { text(o, &["status", "phase"], "") }),
    col("Claim", |o| match o.str_at(&["spec", "claimRef", "name"]) {
        "" => "".into(),
        claim => format!("{}/{claim}", o.str_at(&["spec", "claimRef", "namespace"])).into(),
    }),
    col("StorageClass", |o| text(o, &["spec", "storageClassName"], "")),
    col("VolumeAttributesClass", |o| text(o, &["spec", "volumeAttributesClassName"], "<unset>")),
    col("Reason", |o| text(o, &["status", "reason"], "")),
    AGE,
    wide("VolumeMode", |o| text(o, &["spec", "volumeMode"], "Filesystem")),
];
pub(super) static PVC: &[Column] = &[
    NAME,
    col("Status", |o| if o.is_deleting() { "Terminating".into() } else { text(o, &["status", "phase"], "") }),
    col("Volume", |o| text(o, &["spec", "volumeName"], "")),
    col("Capacity", |o| text(o, &["status", "capacity", "storage"], "")),
    col("Access Modes", |o| modes(o, &["status", "accessModes"]).into()),
    col("StorageClass", |o| text(o, &["spec", "storageClassName"], "")),
    col("VolumeAttributesClass", |o| text(o, &["spec", "volumeAttributesClassName"], "<unset>")),
    AGE,
    wide("VolumeMode", |o| text(o, &["spec", "volumeMode"], "Filesystem")),
];

pub(super) static STORAGE_CLASS: &[Column] = &[
    col("Name", |o| {
        if o.annotation("storageclass.kubernetes.io/is-default-class") == Some("true") {
            format!("{} (default)", o.name()).into()
        } else {
            o.name().into()
        }
    }),
    col("Provisioner", |o| text(o, &["provisioner"], "")),
    col("ReclaimPolicy", |o| text(o, &["reclaimPolicy"], "Delete")),
    col("VolumeBindingMode", |o| text(o, &["volumeBindingMode"], "Immediate")),
    col("AllowVolumeExpansion", |o| (o.get("allowVolumeExpansion") == Some(&Value::Bool(true))).into()),
    AGE,
];
