//! Volumes of the kinds that every cluster has; storage comes through claims.

use std::collections::BTreeSet;

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::{Finding, Pod, plural, quoted};

const ALLOWED: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

const KNOWN: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

/// What of a volume is not allowed, by upstream's words; a volume that is nothing is unknown.
fn bad(volume: &Value) -> Vec<&str> {
    let fields = volume.as_object().into_iter().flatten();
    let sources: Vec<&str> =
        fields.filter(|(key, value)| *key != "name" && !value.is_null()).map(|(key, _)| key.as_str()).collect();
    if sources.is_empty() {
        return vec!["unknown"];
    }
    let bad = sources.into_iter().filter(|kind| !ALLOWED.contains(kind));
    bad.map(|kind| if KNOWN.contains(&kind) { kind } else { "unknown" }).collect()
}

/// `restrictedVolumes`.
pub fn types(pod: Pod<'_>) -> Option<Finding> {
    let names: Vec<&str> = pod.items("volumes").filter(|v| !bad(v).is_empty()).map(|v| v.str_at(&["name"])).collect();
    let kinds: BTreeSet<&str> = pod.items("volumes").flat_map(bad).collect();
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", names.len()),
            quoted(&names),
            plural("uses", "use", names.len()),
            plural("restricted volume type", "restricted volume types", kinds.len()),
            quoted(kinds)
        );
        Finding::new("restricted volume types", detail)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::*;
    use serde_json::json;

    #[test]
    fn all_kinds() {
        let fine: Vec<Value> = ALLOWED.iter().map(|kind| json!({"name": "x", *kind: {}})).collect();
        assert_eq!(run(types, &json!({"volumes": fine})), "");
        for kind in KNOWN {
            assert_eq!(
                run(types, &json!({"volumes": [{"name": "v", *kind: {}}, {"name": "w", "secret": {}}]})),
                format!(r#"restricted volume types (volume "v" uses restricted volume type "{kind}")"#)
            );
        }
    }

    #[test]
    fn many_and_unknown() {
        let spec =
            json!({"volumes": [{"name": "b", "nfs": {}}, {"name": "a", "new": {}}, {"name": "c", "emptyDir": null}]});
        assert_eq!(
            run(types, &spec),
            r#"restricted volume types (volumes "b", "a", "c" use restricted volume types "nfs", "unknown")"#
        );
        let both = json!({"volumes": [{"name": "a", "emptyDir": {}, "hostPath": {"path": "/"}}]});
        assert_eq!(run(types, &both), r#"restricted volume types (volume "a" uses restricted volume type "hostPath")"#);
    }
}
