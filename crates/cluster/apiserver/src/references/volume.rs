//! The references of a PersistentVolume (`VisitPVSecretNames`, of what a kubelet may see).

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

/// Sources with a secret that a kubelet mounts with, and where it is named.
const SECRETS: [(&str, &str); 10] = [
    ("cephfs", "secretRef"),
    ("cinder", "secretRef"),
    ("csi", "nodePublishSecretRef"),
    ("csi", "nodeStageSecretRef"),
    ("csi", "nodeExpandSecretRef"),
    ("flexVolume", "secretRef"),
    ("iscsi", "secretRef"),
    ("rbd", "secretRef"),
    ("scaleIO", "secretRef"),
    ("storageos", "secretRef"),
];

/// What a bound volume refers to, as (namespace, name).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PersistentVolume {
    /// The claim it is bound to.
    pub claim: (String, String),
    /// The secrets it is mounted with.
    pub secrets: Vec<(String, String)>,
}

/// The references of a volume; nothing for one that no claim holds.
pub fn of_persistent_volume(volume: &Value) -> Option<PersistentVolume> {
    let claim = volume.at(&["spec", "claimRef"]).filter(|c| !c.is_null())?;
    let claim = (claim.str_at(&["namespace"]).to_owned(), claim.str_at(&["name"]).to_owned());
    let mut secrets = Vec::new();
    let mut add = |namespace: &str, name: &str| {
        if !name.is_empty() {
            // Older volumes say no namespace: the secret is beside the claim.
            let namespace = if namespace.is_empty() { &claim.0 } else { namespace };
            secrets.push((namespace.to_owned(), name.to_owned()));
        }
    };
    for (source, reference) in SECRETS {
        if let Some(reference) = volume.at(&["spec", source, reference]) {
            add(reference.str_at(&["namespace"]), reference.str_at(&["name"]));
        }
    }
    if let Some(share) = volume.at(&["spec", "azureFile"]) {
        add(share.str_at(&["secretNamespace"]), share.str_at(&["secretName"]));
    }
    Some(PersistentVolume { claim, secrets })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_of_the_node_but_not_of_the_controller() {
        let volume = json!({"spec": {"claimRef": {"namespace": "n", "name": "c"}, "csi": {"driver": "d",
            "nodeStageSecretRef": {"namespace": "s", "name": "stage"}, "nodePublishSecretRef": {"name": "publish"},
            "nodeExpandSecretRef": {"namespace": "s", "name": "expand"},
            "controllerExpandSecretRef": {"namespace": "s", "name": "no"},
            "controllerPublishSecretRef": {"namespace": "s", "name": "no"}}}});
        let found = of_persistent_volume(&volume).unwrap();
        assert_eq!(found.claim, ("n".into(), "c".into()));
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(found.secrets, [pair("n", "publish"), pair("s", "stage"), pair("s", "expand")]);
        let azure = json!({"spec": {"claimRef": {"namespace": "n", "name": "c"}, "azureFile": {"secretName": "a"}}});
        assert_eq!(of_persistent_volume(&azure).unwrap().secrets, [pair("n", "a")]);
    }

    #[test]
    fn an_unbound_volume_gives_nothing_away() {
        assert_eq!(of_persistent_volume(&json!({"spec": {"cephfs": {"secretRef": {"name": "x"}}}})), None);
    }
}
