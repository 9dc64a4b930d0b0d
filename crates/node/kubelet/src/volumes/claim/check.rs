//! Whether a claim and a volume are what a pod may have mounted here. No IO; the words are upstream's.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kinit_component_helpers::storage::{
    PodClaim, claim_phase, claim_ref, is_for_pod, mode_of_claim, mode_of_volume, reaches, volume_name,
};

/// A claim of a pod (`getPVCExtractPV`). A pod must not be started on a claim that is going.
pub fn claim(claim: &PersistentVolumeClaim, pod: &Pod, wanted: &PodClaim) -> Result<(), String> {
    if wanted.ephemeral {
        is_for_pod(claim, pod)?;
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err("PVC is being deleted".to_owned());
    }
    if claim_phase(claim) != "Bound" || volume_name(claim).is_empty() {
        return Err("PVC is not bound".to_owned());
    }
    Ok(())
}

/// The volume that a claim names (`getPVSpec`): a claim alone must not get at a volume that was not given to it.
pub fn volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim, pod: &Pod, name: &str) -> Result<(), String> {
    let shown = volume.metadata.name.as_deref().unwrap_or("");
    let Some(reference) = claim_ref(volume) else {
        return Err(format!(
            "found PV object {shown} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ));
    };
    let uid = claim.metadata.uid.as_deref();
    if uid.is_none() || reference.uid.as_deref() != uid {
        return Err(format!(
            "found PV object {shown} but its pv.Spec.ClaimRef.UID {} does not point to claim.UID {}",
            reference.uid.as_deref().unwrap_or(""),
            uid.unwrap_or("")
        ));
    }
    let (has, asked) = (mode_of_volume(volume), mode_of_claim(claim));
    if has != asked {
        return Err(format!("PV {shown} has volumeMode {has}, its claim {asked}"));
    }
    let (mounted, as_device) = usage(pod, name);
    if has == "Block" && mounted {
        return Err(format!("volume {name} has volumeMode Block, but is specified in volumeMounts"));
    }
    if has != "Block" && as_device {
        return Err(format!("volume {name} has volumeMode {has}, but is specified in volumeDevices"));
    }
    if has == "Block" {
        return Err(format!("volume {name} has volumeMode Block, which is not supported by this kubelet"));
    }
    Ok(())
}

/// Whether containers mount a volume, and whether they have it as a device.
fn usage(pod: &Pod, name: &str) -> (bool, bool) {
    let spec = pod.spec.iter();
    let containers: Vec<&Container> =
        spec.flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers)).collect();
    let mounted = containers.iter().any(|c| c.volume_mounts.iter().flatten().any(|m| m.name == name));
    let device = containers.iter().any(|c| c.volume_devices.iter().flatten().any(|d| d.name == name));
    (mounted, device)
}

/// A volume of another node has nothing of its own here, whatever has its path (`CheckNodeAffinity`).
pub fn node(volume: &PersistentVolume, node: &Node) -> Result<(), String> {
    if reaches(volume, node) { Ok(()) } else { Err("no matching NodeSelectorTerms".to_owned()) }
}

/// What a volume is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path of the node, bound into the pod.
    Local(PathBuf),
    /// A path of the node as it is.
    HostPath {
        /// The path.
        path: PathBuf,
        /// What it has to be.
        kind: String,
    },
}

/// The source, of those that this kubelet serves, in all that is asked of it.
pub fn source(volume: &PersistentVolume) -> Result<Source, String> {
    let spec = volume.spec.clone().unwrap_or_default();
    if spec.mount_options.as_ref().is_some_and(|o| !o.is_empty()) {
        return Err(
            "mountOptions of the PersistentVolume: Mount options are not supported for this volume type".to_owned()
        );
    }
    if let Some(local) = &spec.local {
        if local.fs_type.as_deref().is_some_and(|t| !t.is_empty()) {
            return Err("local.fsType of the PersistentVolume (a file system made on a device) is not supported by this kubelet".to_owned());
        }
        return Ok(Source::Local(PathBuf::from(&local.path)));
    }
    if let Some(host) = &spec.host_path {
        return Ok(Source::HostPath { path: PathBuf::from(&host.path), kind: host.type_.clone().unwrap_or_default() });
    }
    let given = serde_json::to_value(&spec).unwrap_or_default();
    const OTHERS: [&str; 8] = ["csi", "nfs", "iscsi", "fc", "rbd", "cephfs", "azureFile", "flexVolume"];
    let kind = OTHERS.into_iter().find(|kind| given.get(kind).is_some()).unwrap_or("of this kind");
    Err(format!("a PersistentVolume {kind} is not supported by this kubelet; local and hostPath are"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(container: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "pu"},
            "spec": {"containers": [container]}}))
        .unwrap()
    }

    fn a_claim(change: Value) -> PersistentVolumeClaim {
        let mut claim = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": {"volumeName": "v"},
            "status": {"phase": "Bound"}});
        for (key, value) in change.as_object().unwrap() {
            claim[key] = value.clone();
        }
        serde_json::from_value(claim).unwrap()
    }

    fn a_volume(spec: Value) -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).unwrap()
    }

    #[test]
    fn claims_that_lead_to_no_volume() {
        let wanted = |ephemeral| PodClaim { volume: "d".into(), claim: "c".into(), ephemeral, read_only: false };
        let pod = pod(json!({"name": "c"}));
        let said =
            |change: Value, ephemeral| claim(&a_claim(change), &pod, &wanted(ephemeral)).err().unwrap_or_default();
        assert_eq!(said(json!({}), false), "");
        assert_eq!(said(json!({"status": {"phase": "Pending"}}), false), "PVC is not bound");
        assert_eq!(said(json!({"spec": {}}), false), "PVC is not bound");
        assert_eq!(said(json!({}), true), "PVC n/c was not created for pod n/p (pod is not owner)");
        let going = json!({"metadata": {"name": "c", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(said(going, false), "PVC is being deleted");
    }

    #[test]
    fn volumes_that_are_not_the_claims() {
        let plain = pod(json!({"name": "c", "volumeMounts": [{"name": "d", "mountPath": "/d"}]}));
        let device = pod(json!({"name": "c", "volumeDevices": [{"name": "d", "devicePath": "/d"}]}));
        let holder = |uid: &str| json!({"claimRef": {"name": "c", "namespace": "n", "uid": uid}});
        let said = |spec: Value, pod: &Pod, claim: &PersistentVolumeClaim| {
            volume(&a_volume(spec), claim, pod, "d").err().unwrap_or_default()
        };
        let claim = a_claim(json!({}));
        assert_eq!(said(holder("u"), &plain, &claim), "");
        assert!(said(json!({}), &plain, &claim).contains("nil pv.Spec.ClaimRef"));
        assert!(said(holder("other"), &plain, &claim).contains("ClaimRef.UID other does not point to claim.UID u"));
        assert!(said(holder(""), &plain, &claim).contains("does not point to"));
        assert!(
            said(holder("u"), &device, &claim).contains("volumeMode Filesystem, but is specified in volumeDevices")
        );
        let block = a_claim(json!({"spec": {"volumeName": "v", "volumeMode": "Block"}}));
        let mut spec = holder("u");
        assert!(said(spec.clone(), &plain, &block).contains("has volumeMode Filesystem, its claim Block"));
        spec["volumeMode"] = "Block".into();
        assert!(said(spec.clone(), &plain, &block).contains("volumeMode Block, but is specified in volumeMounts"));
        assert!(said(spec, &device, &block).contains("not supported by this kubelet"));
    }

    #[test]
    fn sources() {
        let said = |spec: Value| source(&a_volume(spec));
        assert_eq!(said(json!({"local": {"path": "/x"}})), Ok(Source::Local("/x".into())));
        let host = Source::HostPath { path: "/x".into(), kind: "Directory".into() };
        assert_eq!(said(json!({"hostPath": {"path": "/x", "type": "Directory"}})), Ok(host));
        assert!(said(json!({"nfs": {"server": "s", "path": "/x"}})).unwrap_err().contains("nfs is not supported"));
        assert!(said(json!({"local": {"path": "/x", "fsType": "ext4"}})).unwrap_err().contains("fsType"));
        assert!(said(json!({"local": {"path": "/x"}, "mountOptions": ["ro"]})).unwrap_err().contains("mountOptions"));
        assert!(said(json!({})).is_err());
    }
}
