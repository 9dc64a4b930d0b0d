//! What a kubelet may do to its Node.

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::super::{Attributes, Operation};
use super::forbidden;

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

/// A kubelet registers and changes its own Node, but neither its taints nor labels that others rely on.
pub(super) fn check(attributes: &Attributes<'_>, object: &Value, node: &str) -> Result<(), ApiError> {
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
    // Until v1.24 a Node could name a ConfigMap that its kubelet then could read.
    let source = |o: Option<&Value>| o.and_then(|o| o.at(&["spec", "configSource"])).filter(|s| !s.is_null()).cloned();
    if source(Some(object)).is_some() && source(Some(object)) != source(old) {
        return Err(forbidden(attributes, object, &format!("node \"{node}\" is not allowed to set configSource")));
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
