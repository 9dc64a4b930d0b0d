//! NodeRestriction: a kubelet writes its own node, and pods bound to it (`plugin/pkg/admission/noderestriction`).

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::{Attributes, Operation};
use crate::authz::node::node_of;

/// Checks what a kubelet writes.
pub fn check(attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
    let request = attributes.request;
    if !request.user.in_group("system:nodes") {
        return Ok(());
    }
    let Some(node) = node_of(&request.user) else {
        return Err(forbidden(
            attributes,
            object,
            &format!("could not determine node from user \"{}\"", request.user.name),
        ));
    };
    match attributes.kind() {
        ("", "Pod") => pod(attributes, object, node),
        ("", "Node") => own_node(attributes, object, node),
        ("coordination.k8s.io", "Lease") if object.name() != node || object.namespace() != "kube-node-lease" => {
            Err(forbidden(attributes, object, "can only access node lease with the same name as the requesting node"))
        }
        ("storage.k8s.io", "CSINode") if object.name() != node => {
            Err(forbidden(attributes, object, "can only access CSINode with the same name as the requesting node"))
        }
        _ => Ok(()),
    }
}

fn forbidden(attributes: &Attributes<'_>, object: &Value, cause: &str) -> ApiError {
    let desc = &attributes.request.desc;
    ApiError::forbidden(&desc.group, &desc.plural, object.name(), cause)
}

fn pod(attributes: &Attributes<'_>, pod: &Value, node: &str) -> Result<(), ApiError> {
    let current = attributes.old.unwrap_or(pod);
    let bound = current.str_at(&["spec", "nodeName"]);
    match (attributes.operation, attributes.subresource) {
        (Operation::Create, "") => {
            if pod.annotation("kubernetes.io/config.mirror").is_none() {
                let cause = format!(
                    "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"{node}\" can only create mirror pods"
                );
                return Err(forbidden(attributes, pod, &cause));
            }
            if bound != node {
                return Err(forbidden(
                    attributes,
                    pod,
                    &format!("node \"{node}\" can only create pods with spec.nodeName set to itself"),
                ));
            }
            if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
                return Err(forbidden(
                    attributes,
                    pod,
                    &format!("node \"{node}\" can not create pods that reference a service account"),
                ));
            }
            let refers = pod["spec"]["volumes"].as_array().into_iter().flatten().any(|v| {
                v.get("secret").is_some() || v.get("configMap").is_some() || v.get("persistentVolumeClaim").is_some()
            });
            if refers {
                return Err(forbidden(
                    attributes,
                    pod,
                    &format!(
                        "node \"{node}\" can not create pods that reference secrets, configmaps or persistentvolumeclaims"
                    ),
                ));
            }
            Ok(())
        }
        (Operation::Update, "status" | "") | (Operation::Delete, _) | (Operation::Create, "eviction")
            if bound != node =>
        {
            let cause = format!("node \"{node}\" can only update pod status for pods with spec.nodeName set to itself");
            Err(forbidden(attributes, pod, &cause))
        }
        (Operation::Update, "status")
            if attributes.old.is_some_and(|o| o.at(&["metadata", "labels"]) != pod.at(&["metadata", "labels"])) =>
        {
            Err(forbidden(attributes, pod, &format!("node \"{node}\" cannot update labels through pod status")))
        }
        _ => Ok(()),
    }
}

fn allowed_label(key: &str) -> bool {
    let (prefix, _) = key.split_once('/').unwrap_or(("", key));
    let ours = |domain: &str| prefix == domain || prefix.ends_with(&format!(".{domain}"));
    if ours("node-restriction.kubernetes.io") {
        return false;
    }
    if !ours("kubernetes.io") && !ours("k8s.io") {
        return true;
    }
    matches!(
        key,
        "kubernetes.io/hostname"
            | "topology.kubernetes.io/zone"
            | "topology.kubernetes.io/region"
            | "failure-domain.beta.kubernetes.io/zone"
            | "failure-domain.beta.kubernetes.io/region"
            | "beta.kubernetes.io/instance-type"
            | "node.kubernetes.io/instance-type"
            | "beta.kubernetes.io/os"
            | "beta.kubernetes.io/arch"
            | "kubernetes.io/os"
            | "kubernetes.io/arch"
    ) || ours("kubelet.kubernetes.io")
        || ours("node.kubernetes.io")
}

fn own_node(attributes: &Attributes<'_>, object: &Value, node: &str) -> Result<(), ApiError> {
    if object.name() != node {
        return Err(forbidden(
            attributes,
            object,
            &format!("node \"{node}\" is not allowed to modify node \"{}\"", object.name()),
        ));
    }
    if attributes.operation == Operation::Delete {
        return Err(forbidden(attributes, object, &format!("node \"{node}\" is not allowed to delete nodes")));
    }
    let old = attributes.old;
    let label = |o: Option<&Value>, key: &str| o.and_then(|o| o.label(key)).map(str::to_owned);
    let keys = |o: Option<&Value>| -> Vec<String> {
        o.and_then(|o| o.at(&["metadata", "labels"]))
            .and_then(Value::as_object)
            .map(|m| m.keys().cloned().collect())
            .unwrap_or_default()
    };
    let mut wrong: Vec<String> = keys(Some(object))
        .into_iter()
        .chain(keys(old))
        .filter(|k| label(Some(object), k) != label(old, k) && !allowed_label(k))
        .collect();
    wrong.sort();
    wrong.dedup();
    if !wrong.is_empty() {
        let verb = if old.is_some() { "modify" } else { "set" };
        return Err(forbidden(
            attributes,
            object,
            &format!("node \"{node}\" is not allowed to {verb} labels: {}", wrong.join(", ")),
        ));
    }
    if let Some(old) = old {
        if old.at(&["spec", "taints"]) != object.at(&["spec", "taints"]) && attributes.subresource.is_empty() {
            return Err(forbidden(attributes, object, &format!("node \"{node}\" is not allowed to modify taints")));
        }
        if old.at(&["metadata", "ownerReferences"]) != object.at(&["metadata", "ownerReferences"]) {
            return Err(forbidden(
                attributes,
                object,
                &format!("node \"{node}\" is not allowed to modify ownerReferences"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_a_kubelet_may_set() {
        for (key, good) in [
            ("kubernetes.io/hostname", true),
            ("node-role.kubernetes.io/control-plane", false),
            ("example.com/x", true),
            ("node-restriction.kubernetes.io/x", false),
            ("topology.kubernetes.io/zone", true),
            ("node.kubernetes.io/x", true),
        ] {
            assert_eq!(allowed_label(key), good, "{key}");
        }
    }
}
