//! PersistentVolumeClaimResize: a claim grows only where something makes its volume grow
//! (`plugin/pkg/admission/storage/persistentvolume/resize`).

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::quantity::Quantity;
use serde_json::Value;

use super::{Attributes, Operation};
use crate::registry::cached;

/// Checks a change of a claim. That only a bound one grows is the kind's own rule.
pub fn check(attributes: &Attributes<'_>, claim: &Value) -> Result<(), ApiError> {
    let claims = attributes.kind() == ("", "PersistentVolumeClaim") && attributes.operation == Operation::Update;
    let (true, "", Some(old)) = (claims, attributes.subresource, attributes.old) else { return Ok(()) };
    if asked(claim) <= asked(old) {
        return Ok(());
    }
    let beta = claim.annotation("volume.beta.kubernetes.io/storage-class");
    let name = beta.unwrap_or_else(|| claim.str_at(&["spec", "storageClassName"]));
    let server = &attributes.request.server;
    let class = if name.is_empty() { None } else { cached::one(server, "storageclasses/", name)? };
    if class.is_some_and(|c| c.value().at(&["allowVolumeExpansion"]) == Some(&Value::Bool(true))) {
        return Ok(());
    }
    let desc = &attributes.request.desc;
    let cause = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    Err(ApiError::forbidden(&desc.group, &desc.plural, claim.name(), cause))
}

fn asked(claim: &Value) -> Option<Quantity> {
    claim.str_at(&["spec", "resources", "requests", "storage"]).parse().ok()
}
