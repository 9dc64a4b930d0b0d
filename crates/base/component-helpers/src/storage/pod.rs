//! The claims of a pod's volumes (`k8s.io/component-helpers/storage/ephemeral`).

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

/// A claim that one of a pod's volumes is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodClaim {
    /// The volume's name in the pod.
    pub volume: String,
    /// The claim's name.
    pub claim: String,
    /// The claim is made for this pod from a template, and goes with it.
    pub ephemeral: bool,
    /// The pod only reads it, whatever its containers ask for.
    pub read_only: bool,
}

/// The name of the claim that is made for an ephemeral volume (`VolumeClaimName`).
pub fn ephemeral_claim_name(pod: &Pod, volume: &str) -> String {
    format!("{}-{volume}", pod.metadata.name.as_deref().unwrap_or(""))
}

/// The claims of a pod's volumes, those of ephemeral volumes included.
pub fn claims_of(pod: &Pod) -> impl Iterator<Item = PodClaim> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(move |v| match (&v.persistent_volume_claim, &v.ephemeral) {
        (Some(source), _) => Some(PodClaim {
            volume: v.name.clone(),
            claim: source.claim_name.clone(),
            ephemeral: false,
            read_only: source.read_only == Some(true),
        }),
        (None, Some(_)) => Some(PodClaim {
            volume: v.name.clone(),
            claim: ephemeral_claim_name(pod, &v.name),
            ephemeral: true,
            read_only: false,
        }),
        (None, None) => None,
    })
}

/// Whether a claim was made for this pod: an ephemeral volume is made of no other (`VolumeIsForPod`, whose words the
/// error has).
pub fn is_for_pod(claim: &PersistentVolumeClaim, pod: &Pod) -> Result<(), String> {
    let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|o| o.controller == Some(true));
    let same_place = claim.metadata.namespace == pod.metadata.namespace;
    if same_place && owner.is_some_and(|o| Some(&o.uid) == pod.metadata.uid.as_ref()) {
        return Ok(());
    }
    let place = |namespace: &Option<String>, name: &Option<String>| {
        format!("{}/{}", namespace.as_deref().unwrap_or(""), name.as_deref().unwrap_or(""))
    };
    Err(format!(
        "PVC {} was not created for pod {} (pod is not owner)",
        place(&claim.metadata.namespace, &claim.metadata.name),
        place(&pod.metadata.namespace, &pod.metadata.name)
    ))
}
