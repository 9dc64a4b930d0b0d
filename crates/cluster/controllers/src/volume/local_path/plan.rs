//! What is made of a claim, and what becomes of a volume. No IO.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    LocalVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume,
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use kinit_apimachinery::names::check_label_value;
use kinit_component_helpers::storage::{
    BIND_COMPLETED, LocalPath, PROVISIONED_BY, PROVISIONER, allows, annotation, capacity, claim_ref, class_of_claim,
    is_bound, is_bound_to, phase, request, volume_name, waits_for_consumer,
};
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};

const HOSTNAME: &str = "kubernetes.io/hostname";

/// What is made of a claim.
#[derive(Debug, PartialEq)]
pub enum Making {
    /// Nothing, or nothing yet.
    Nothing,
    /// It asks for what there is not: nothing changes until it does.
    Refuse(String),
    /// The node does not do.
    Elsewhere(String),
    /// This volume.
    Volume(Box<PersistentVolume>),
}

/// Whether the claim waits for a volume of this provisioner.
pub fn is_asked(claim: &PersistentVolumeClaim) -> bool {
    annotation(claim, PROVISIONER) == Some(LocalPath::PROVISIONER)
        && annotation(claim, BIND_COMPLETED).is_none()
        && volume_name(claim).is_empty()
        && claim.metadata.deletion_timestamp.is_none()
}

/// Decides. `node` is the one that the scheduler chose, with its object if it exists.
pub fn making(
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    node: Option<(&str, Option<&Node>)>,
) -> Making {
    let Some(class) = class.filter(|c| is_asked(claim) && c.provisioner == LocalPath::PROVISIONER) else {
        return Making::Nothing;
    };
    let empty = PersistentVolumeClaimSpec::default();
    let spec = claim.spec.as_ref().unwrap_or(&empty);
    if let Some(reason) = unserved(class).or_else(|| unservable(spec)) {
        return Making::Refuse(format!(
            "failed to provision volume with StorageClass {:?}: {reason}",
            class.name_any()
        ));
    }
    let Some((name, node)) = node else { return Making::Nothing };
    let Some(node) = node else { return Making::Elsewhere(format!("node {name:?} does not exist")) };
    if !allows(class, node) {
        return Making::Elsewhere(format!("the class's allowedTopologies leave node {name:?} out"));
    }
    let Some(hostname) = node.labels().get(HOSTNAME) else {
        return Making::Elsewhere(format!("node {name:?} has no label {HOSTNAME}"));
    };
    if !check_label_value(name).is_empty() {
        return Making::Elsewhere(format!(
            "the name of node {name:?} is no label's value, by which its kubelet would find the volume"
        ));
    }
    Making::Volume(Box::new(volume(claim, spec, class, name, hostname)))
}

/// What a class must not ask for.
fn unserved(class: &StorageClass) -> Option<String> {
    if !waits_for_consumer(class) {
        return Some(
            "volumeBindingMode must be WaitForFirstConsumer: the volume is on the disk of the pod's node".into(),
        );
    }
    if let Some((name, _)) = class.parameters.iter().flatten().next() {
        return Some(format!("parameter {name:?} is not known; there are none"));
    }
    let options = class.mount_options.as_ref().is_some_and(|o| !o.is_empty());
    options.then(|| "mountOptions are not supported".into())
}

/// What a claim must not ask for.
fn unservable(spec: &PersistentVolumeClaimSpec) -> Option<String> {
    if spec.volume_mode.as_deref() == Some("Block") {
        return Some("volumeMode Block is not supported".into());
    }
    if spec.selector.is_some() {
        return Some("claim.spec.selector is not supported".into());
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Some("claim.spec.dataSource is not supported".into());
    }
    let modes = spec.access_modes.iter().flatten();
    let other = modes.into_iter().find(|m| !matches!(m.as_str(), "ReadWriteOnce" | "ReadWriteOncePod"))?;
    Some(format!(
        "access mode {other} is not supported: the volume is on one node; ReadWriteOnce and ReadWriteOncePod are"
    ))
}

fn volume(
    claim: &PersistentVolumeClaim,
    spec: &PersistentVolumeClaimSpec,
    class: &StorageClass,
    node: &str,
    hostname: &str,
) -> PersistentVolume {
    let name = format!("pvc-{}", claim.uid().unwrap_or_default());
    let here = NodeSelectorTerm {
        match_expressions: Some(vec![NodeSelectorRequirement {
            key: HOSTNAME.to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![hostname.to_owned()]),
        }]),
        ..Default::default()
    };
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some(BTreeMap::from([(LocalPath::NODE.to_owned(), node.to_owned())])),
            annotations: Some(BTreeMap::from([(PROVISIONED_BY.to_owned(), LocalPath::PROVISIONER.to_owned())])),
            finalizers: Some(vec![LocalPath::FINALIZER.to_owned()]),
            ..Default::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes.clone(),
            capacity: spec.resources.as_ref().and_then(|r| r.requests.clone()),
            claim_ref: Some(claim.object_ref(&())),
            local: Some(LocalVolumeSource { path: LocalPath::path(&name), fs_type: None }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector { node_selector_terms: vec![here] }),
            }),
            persistent_volume_reclaim_policy: Some(class.reclaim_policy.clone().unwrap_or_else(|| "Delete".into())),
            storage_class_name: Some(class_of_claim(claim).to_owned()),
            volume_mode: Some("Filesystem".to_owned()),
            ..Default::default()
        }),
        status: None,
    }
}

/// What a claim that has grown changes.
#[derive(Debug, PartialEq)]
pub enum Growth {
    /// Nothing.
    No,
    /// The volume's size, first.
    Volume(Box<PersistentVolume>),
    /// The claim's, which its volume has already.
    Claim(Box<PersistentVolumeClaim>),
}

/// Whether a bound claim asks for more than it says to have.
pub fn grows(claim: &PersistentVolumeClaim) -> bool {
    let status = claim.status.as_ref().and_then(|s| s.capacity.as_ref());
    let has = status.and_then(|c| c.get("storage")).and_then(|q| q.0.parse().ok());
    is_bound(claim) && has.is_some() && request(claim) > has
}

/// Decides. A folder has no size of its own: what grows is the account.
pub fn growth(
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    volume: Option<&PersistentVolume>,
) -> Growth {
    let allowed = class.is_some_and(|c| c.allow_volume_expansion == Some(true));
    let ours = volume.filter(|v| LocalPath::of(v).is_some() && is_bound_to(v, claim) && claim_uid(v) == claim.uid());
    let (Some(volume), true) = (ours, allowed && grows(claim)) else { return Growth::No };
    let Some(wanted) = claim.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.as_ref()?.get("storage")) else {
        return Growth::No;
    };
    if capacity(volume) < request(claim) {
        let mut grown = volume.clone();
        let sizes = grown.spec.get_or_insert_default().capacity.get_or_insert_default();
        sizes.insert("storage".to_owned(), wanted.clone());
        return Growth::Volume(Box::new(grown));
    }
    let mut reported = claim.clone();
    reported.status.get_or_insert_default().capacity = volume.spec.as_ref().and_then(|s| s.capacity.clone());
    Growth::Claim(Box::new(reported))
}

fn claim_uid(volume: &PersistentVolume) -> Option<String> {
    claim_ref(volume)?.uid.clone()
}

/// The node whose disk the volume is on, as far as its author says; the name decides nothing about folders.
pub fn node_of(volume: &PersistentVolume) -> Option<&str> {
    volume.metadata.labels.as_ref()?.get(LocalPath::NODE).map(String::as_str)
}

/// What becomes of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Nothing now.
    No,
    /// Its claim is gone, and with it the volume goes.
    Delete,
    /// Its kubelet will never answer for its folder.
    Abandon,
}

/// Decides. `node_gone` says that the volume's node does not exist.
pub fn ending(volume: &PersistentVolume, node_gone: bool) -> Ending {
    if LocalPath::is_due(volume) {
        return if node_gone { Ending::Abandon } else { Ending::No };
    }
    let ours = LocalPath::of(volume).is_some() && volume.metadata.deletion_timestamp.is_none();
    if ours && phase(volume) == "Released" && LocalPath::deletes_data(volume) { Ending::Delete } else { Ending::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn class(change: Value) -> StorageClass {
        let mut class = json!({"metadata": {"name": "local-path"}, "provisioner": LocalPath::PROVISIONER,
            "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": "Delete"});
        for (key, value) in change.as_object().unwrap() {
            class[key] = value.clone();
        }
        serde_json::from_value(class).unwrap()
    }

    fn claim(change: Value) -> PersistentVolumeClaim {
        let mut claim = json!({"metadata": {"name": "c", "namespace": "n", "uid": "1-2",
            "annotations": {PROVISIONER: LocalPath::PROVISIONER}}, "spec": {"accessModes": ["ReadWriteOnce"],
            "storageClassName": "local-path", "resources": {"requests": {"storage": "1Gi"}}}});
        for (key, value) in change.as_object().unwrap() {
            claim["spec"][key] = value.clone();
        }
        serde_json::from_value(claim).unwrap()
    }

    fn node(name: &str, labels: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
    }

    #[test]
    fn a_volume_on_the_chosen_node() {
        let n1 = node("n1", json!({HOSTNAME: "host-1"}));
        let Making::Volume(volume) = making(&claim(json!({})), Some(&class(json!({}))), Some(("n1", Some(&n1)))) else {
            panic!("no volume")
        };
        assert_eq!(LocalPath::of(&volume), Some(LocalPath { name: "pvc-1-2".into(), node: "n1".into() }));
        assert!(LocalPath::has_finalizer(&volume));
        assert!(kinit_component_helpers::storage::reaches(&volume, &n1));
        assert!(!kinit_component_helpers::storage::reaches(&volume, &node("n2", json!({HOSTNAME: "host-2"}))));
        assert!(kinit_component_helpers::storage::is_bound_to(&volume, &claim(json!({}))));
        assert_eq!(volume.spec.unwrap().capacity.unwrap()["storage"].0, "1Gi");
    }

    #[test]
    fn what_is_not_made() {
        let n1 = node("n1", json!({HOSTNAME: "host-1"}));
        let on = |claim: &PersistentVolumeClaim, class: &StorageClass, node: Option<(&str, Option<&Node>)>| match making(
            claim,
            Some(class),
            node,
        ) {
            Making::Volume(_) => "made".to_owned(),
            Making::Nothing => "-".to_owned(),
            Making::Refuse(m) | Making::Elsewhere(m) => m,
        };
        let (plain, usual, here) = (claim(json!({})), class(json!({})), Some(("n1", Some(&n1))));
        for (claim, class, expected) in [
            (claim(json!({"volumeMode": "Block"})), usual.clone(), "volumeMode Block"),
            (claim(json!({"selector": {}})), usual.clone(), "selector"),
            (claim(json!({"dataSource": {"kind": "K", "name": "x"}})), usual.clone(), "dataSource"),
            (claim(json!({"accessModes": ["ReadWriteMany"]})), usual.clone(), "access mode ReadWriteMany"),
            (plain.clone(), class(json!({"volumeBindingMode": "Immediate"})), "WaitForFirstConsumer"),
            (plain.clone(), class(json!({"parameters": {"path": "/etc"}})), "parameter \"path\""),
            (plain.clone(), class(json!({"mountOptions": ["noatime"]})), "mountOptions"),
        ] {
            let got = on(&claim, &class, here);
            assert!(got.contains(expected), "{got} has no {expected}");
        }
        assert_eq!(on(&plain, &usual, None), "-", "the scheduler has not chosen");
        assert_eq!(on(&plain, &class(json!({"provisioner": "example.com/p"})), here), "-");
        let mut bound = plain.clone();
        bound.spec.as_mut().unwrap().volume_name = Some("v".into());
        assert_eq!(on(&bound, &usual, here), "-");
        assert!(on(&plain, &usual, Some(("n9", None))).contains("does not exist"));
        assert!(on(&plain, &usual, Some(("n2", Some(&node("n2", json!({})))))).contains("no label"));
        let long = "n".repeat(70);
        assert!(
            on(&plain, &usual, Some((&long, Some(&node(&long, json!({HOSTNAME: "h"})))))).contains("no label's value")
        );
        let zoned =
            class(json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": HOSTNAME, "values": ["other"]}]}]}));
        assert!(on(&plain, &zoned, here).contains("allowedTopologies"));
    }

    #[test]
    fn claims_that_grow() {
        let n1 = node("n1", json!({HOSTNAME: "n1"}));
        let Making::Volume(volume) = making(&claim(json!({})), Some(&class(json!({}))), Some(("n1", Some(&n1)))) else {
            panic!("no volume")
        };
        let mut bound = claim(json!({"volumeName": "pvc-1-2", "resources": {"requests": {"storage": "3Gi"}}}));
        bound.annotations_mut().insert(BIND_COMPLETED.into(), "yes".into());
        bound.status = serde_json::from_value(json!({"phase": "Bound", "capacity": {"storage": "1Gi"}})).unwrap();
        let growing = class(json!({"allowVolumeExpansion": true}));
        assert_eq!(growth(&bound, Some(&class(json!({}))), Some(&volume)), Growth::No, "the class does not allow it");
        assert_eq!(growth(&bound, Some(&growing), None), Growth::No);
        let Growth::Volume(grown) = growth(&bound, Some(&growing), Some(&volume)) else { panic!("no growth") };
        assert_eq!(grown.spec.as_ref().unwrap().capacity.as_ref().unwrap()["storage"].0, "3Gi");
        let Growth::Claim(reported) = growth(&bound, Some(&growing), Some(&grown)) else { panic!("nothing told") };
        assert_eq!(growth(&reported, Some(&growing), Some(&grown)), Growth::No, "all is said");
        let mut others = (*volume).clone();
        others.spec.as_mut().unwrap().claim_ref.as_mut().unwrap().uid = Some("other".into());
        assert_eq!(growth(&bound, Some(&growing), Some(&others)), Growth::No);
    }

    #[test]
    fn how_volumes_end() {
        let volume = |policy: &str, phase: &str, deleted: bool, path: &str, finalizers: &[&str]| -> PersistentVolume {
            let at = deleted.then_some("2026-01-01T00:00:00Z");
            serde_json::from_value(json!({"metadata": {"name": "v", "labels": {LocalPath::NODE: "n1"}, "deletionTimestamp": at,
                "annotations": {PROVISIONED_BY: LocalPath::PROVISIONER}, "finalizers": finalizers},
                "spec": {"persistentVolumeReclaimPolicy": policy, "local": {"path": path}}, "status": {"phase": phase}}))
            .unwrap()
        };
        let (path, own) = ("/var/lib/kinit/local-path/v", LocalPath::FINALIZER);
        let both = ["kubernetes.io/pv-protection", own];
        for (what, volume, gone, expected) in [
            ("bound", volume("Delete", "Bound", false, path, &both), false, Ending::No),
            ("released", volume("Delete", "Released", false, path, &both), false, Ending::Delete),
            ("retained", volume("Retain", "Released", false, path, &both), false, Ending::No),
            ("of another path", volume("Delete", "Released", false, "/etc", &both), false, Ending::No),
            ("on its way", volume("Delete", "Released", true, path, &both), false, Ending::No),
            ("the kubelet's turn", volume("Delete", "Released", true, path, &[own]), false, Ending::No),
            ("no node", volume("Delete", "Released", true, path, &[own]), true, Ending::Abandon),
            ("no node, but bound", volume("Delete", "Bound", true, path, &both), true, Ending::No),
            ("no node, not deleted", volume("Delete", "Bound", false, path, &[own]), true, Ending::No),
        ] {
            assert_eq!(ending(&volume, gone), expected, "{what}");
        }
    }
}
