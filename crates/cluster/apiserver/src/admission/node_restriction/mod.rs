//! NodeRestriction: a kubelet writes its own node, and pods bound to it (`plugin/pkg/admission/noderestriction`).

mod node;
mod pod;
mod volume;

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::{Attributes, Operation};
use crate::authz::node::node_of;

/// Checks what a kubelet writes.
pub fn check(attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
    let request = attributes.request;
    if !request.user.in_group("system:nodes") || attributes.operation == Operation::Connect {
        return Ok(());
    }
    let Some(node) = node_of(&request.user) else {
        return Err(forbidden(
            attributes,
            object,
            &format!("could not determine node from user \"{}\"", request.user.name),
        ));
    };
    let refused = |cause: &str| Err(forbidden(attributes, object, cause));
    match attributes.kind() {
        ("", "Pod") => pod::check(attributes, object, node),
        ("", "Node") => node::check(attributes, object, node),
        ("", "PersistentVolumeClaim") => claim(attributes, object, node),
        ("", "PersistentVolume") => volume::check(attributes, object, node),
        ("resource.k8s.io", "ResourceSlice") => slice(attributes, object, node),
        ("coordination.k8s.io", "Lease") if object.namespace() != "kube-node-lease" => {
            refused("can only access leases in the \"kube-node-lease\" system namespace")
        }
        ("coordination.k8s.io", "Lease") if object.name() != node => {
            refused("can only access node lease with the same name as the requesting node")
        }
        ("storage.k8s.io", "CSINode") if object.name() != node => {
            refused("can only access CSINode with the same name as the requesting node")
        }
        _ => Ok(()),
    }
}

fn forbidden(attributes: &Attributes<'_>, object: &Value, cause: &str) -> ApiError {
    let desc = &attributes.request.desc;
    ApiError::forbidden(&desc.group, &desc.plural, object.name(), cause)
}

/// Of a claim a kubelet reports sizes and conditions.
fn claim(attributes: &Attributes<'_>, claim: &Value, node: &str) -> Result<(), ApiError> {
    let (Operation::Update, "status", Some(old)) = (attributes.operation, attributes.subresource, attributes.old)
    else {
        return Err(forbidden(attributes, claim, "may only update PVC status"));
    };
    if rest_of_claim(claim) == rest_of_claim(old) {
        return Ok(());
    }
    let cause =
        format!("node \"{node}\" is not allowed to update fields other than status.capacity and status.conditions");
    Err(forbidden(attributes, claim, &cause))
}

/// A claim without what its node may change.
fn rest_of_claim(claim: &Value) -> Value {
    let mut rest = claim.clone();
    if let Some(meta) = rest.object_at(&["metadata"]) {
        meta.shift_remove("resourceVersion");
        meta.shift_remove("managedFields");
    }
    if let Some(status) = rest.object_at(&["status"]) {
        for field in ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"] {
            status.shift_remove(field);
        }
    }
    rest
}

/// A kubelet publishes the devices of its own node; an update keeps them its own.
fn slice(attributes: &Attributes<'_>, slice: &Value, node: &str) -> Result<(), ApiError> {
    let ours = |slice: &Value| slice.str_at(&["spec", "nodeName"]) == node;
    let verb = match attributes.operation {
        Operation::Create => "create",
        Operation::Delete => "delete",
        _ => "update",
    };
    if ours(slice) && attributes.old.is_none_or(ours) {
        return Ok(());
    }
    let cause = format!("can only {verb} ResourceSlice with the same NodeName as the requesting node");
    Err(forbidden(attributes, slice, &cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_node_may_change_of_a_claim() {
        let old = json!({"metadata": {"name": "c", "resourceVersion": "1"}, "spec": {}, "status": {"phase": "Bound"}});
        for (change, same) in [
            (json!({"metadata": {"name": "c", "resourceVersion": "2"}}), true),
            (json!({"status": {"phase": "Bound", "capacity": {"storage": "2Gi"}, "conditions": []}}), true),
            (json!({"status": {"phase": "Bound", "allocatedResources": {"storage": "2Gi"}}}), true),
            (json!({"status": {"phase": "Lost"}}), false),
            (json!({"metadata": {"name": "c", "labels": {"a": "b"}}}), false),
            (json!({"metadata": {"name": "c", "finalizers": ["a/b"]}}), false),
        ] {
            let mut new = old.clone();
            for (key, value) in change.as_object().unwrap() {
                new[key] = value.clone();
            }
            assert_eq!(rest_of_claim(&new) == rest_of_claim(&old), same, "{change}");
        }
    }
}
