//! What a kubelet may do to pods: to those that are bound to its node.

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::super::{Attributes, Operation};
use super::forbidden;
use crate::references::{self, MIRROR};
use crate::registry::cached;

pub(super) fn check(attributes: &Attributes<'_>, object: &Value, node: &str) -> Result<(), ApiError> {
    let cause = match (attributes.subresource, attributes.operation, attributes.old) {
        ("", Operation::Create, _) => return create(attributes, object, node),
        ("", Operation::Delete, _) if is_bound(object, node) => return Ok(()),
        ("", Operation::Delete, _) => {
            format!("node \"{node}\" can only delete pods with spec.nodeName set to itself")
        }
        ("", _, _) => format!("unexpected operation, node \"{node}\" can only create and delete mirror pods"),
        ("status", Operation::Update, Some(old)) => match status(object, old, node) {
            None => return Ok(()),
            Some(cause) => cause,
        },
        ("eviction", Operation::Create, _) => return evict(attributes, object, node),
        (other, _, _) => {
            format!("unexpected pod subresource \"{other}\", only 'status' and 'eviction' are allowed")
        }
    };
    Err(forbidden(attributes, object, &cause))
}

fn is_bound(pod: &Value, node: &str) -> bool {
    pod.str_at(&["spec", "nodeName"]) == node
}

/// A kubelet shows its static pods as mirrors, which give it nothing that it did not have.
fn create(attributes: &Attributes<'_>, pod: &Value, node: &str) -> Result<(), ApiError> {
    let server = &attributes.request.server;
    let refused = |cause: String| Err(forbidden(attributes, pod, &cause));
    if pod.annotation(MIRROR).is_none() {
        return refused(format!(
            "pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods"
        ));
    }
    if !is_bound(pod, node) {
        return refused(format!("node \"{node}\" can only create pods with spec.nodeName set to itself"));
    }
    let owner = match owner(pod, node) {
        Ok(owner) => owner,
        Err(cause) => return refused(cause),
    };
    let Some(known) = cached::one(server, "minions/", node)? else {
        return Err(ApiError::not_found("", "nodes", node));
    };
    let (known, given) = (known.value(), owner.str_at(&["uid"]));
    if known.uid() != given {
        return refused(format!("node {node} UID mismatch: expected {} got {given}", known.uid()));
    }
    match references::first_of(pod) {
        Some(resource) => refused(format!("node \"{node}\" can not create pods that reference {resource}")),
        None => Ok(()),
    }
}

/// The one owner of a mirror pod, which is its node; or what is wrong with it.
fn owner<'a>(pod: &'a Value, node: &str) -> Result<&'a Value, String> {
    let owners = pod.at(&["metadata", "ownerReferences"]).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let itself = format!("node \"{node}\" can only create pods with an owner reference set to itself");
    let owner = match owners {
        [] => return Err(itself),
        [one] => one,
        _ => return Err(format!("node \"{node}\" can only create pods with a single owner reference set to itself")),
    };
    let is = |key: &str, value: &str| owner.str_at(&[key]) == value;
    if !is("apiVersion", "v1") || !is("kind", "Node") || !is("name", node) {
        return Err(itself);
    }
    if owner.get("controller") != Some(&Value::Bool(true)) {
        return Err(format!("node \"{node}\" can only create pods with a controller owner reference set to itself"));
    }
    if owner.get("blockOwnerDeletion") == Some(&Value::Bool(true)) {
        return Err(format!("node \"{node}\" must not set blockOwnerDeletion on an owner reference"));
    }
    Ok(owner)
}

/// What is wrong with a change of a pod's status: labels and claims decide what others, and the kubelet, may see.
fn status(pod: &Value, old: &Value, node: &str) -> Option<String> {
    if !is_bound(old, node) {
        return Some(format!("node \"{node}\" can only update pod status for pods with spec.nodeName set to itself"));
    }
    if old.at(&["metadata", "labels"]) != pod.at(&["metadata", "labels"]) {
        return Some(format!("node \"{node}\" cannot update labels through pod status"));
    }
    if claims(pod) != claims(old) {
        return Some(format!("node \"{node}\" cannot update resource claim statues"));
    }
    let extended = |p: &Value| p.at(&["status", "extendedResourceClaimStatus"]).filter(|s| !s.is_null()).cloned();
    if extended(pod) != extended(old) {
        return Some(format!("node \"{node}\" cannot update extended resource claim status"));
    }
    None
}

fn claims(pod: &Value) -> Vec<(&str, Option<&str>)> {
    let statuses = pod.at(&["status", "resourceClaimStatuses"]).and_then(Value::as_array);
    statuses
        .into_iter()
        .flatten()
        .map(|s| (s.str_at(&["name"]), s.get("resourceClaimName").and_then(Value::as_str)))
        .collect()
}

fn evict(attributes: &Attributes<'_>, eviction: &Value, node: &str) -> Result<(), ApiError> {
    let info = &attributes.request.info;
    let name = if info.name.is_empty() { eviction.name() } else { &info.name };
    let Some(pod) = cached::one(&attributes.request.server, "pods/", &format!("{}/{name}", info.namespace))? else {
        return Err(ApiError::not_found("", "pods", name));
    };
    if pod.field("spec.nodeName") == Some(node) {
        return Ok(());
    }
    let cause = format!("node {node} can only evict pods with spec.nodeName set to itself");
    Err(forbidden(attributes, eviction, &cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn mirrors_have_their_node_as_their_only_owner() {
        let good = json!({"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u", "controller": true});
        let with = |key: &str, value: Value| {
            let mut owner = good.clone();
            owner[key] = value;
            owner
        };
        for (owners, want) in [
            (json!([good]), None),
            (json!([with("blockOwnerDeletion", false.into())]), None),
            (json!([]), Some("an owner reference set to itself")),
            (json!([good, good]), Some("a single owner reference")),
            (json!([with("kind", "Pod".into())]), Some("an owner reference set to itself")),
            (json!([with("apiVersion", "v2".into())]), Some("an owner reference set to itself")),
            (json!([with("name", "m".into())]), Some("an owner reference set to itself")),
            (json!([with("controller", false.into())]), Some("a controller owner reference")),
            (json!([with("controller", Value::Null)]), Some("a controller owner reference")),
            (json!([with("blockOwnerDeletion", true.into())]), Some("must not set blockOwnerDeletion")),
        ] {
            let pod = json!({"metadata": {"name": "p", "ownerReferences": owners}});
            match (owner(&pod, "n"), want) {
                (Ok(_), None) => {}
                (Err(cause), Some(want)) => assert!(cause.contains(want), "{owners}: {cause}"),
                (got, want) => assert_eq!(got.err().as_deref(), want, "{owners}"),
            }
        }
    }

    #[test]
    fn a_status_may_not_open_doors() {
        let old = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"nodeName": "n"},
            "status": {"phase": "Pending", "resourceClaimStatuses": [{"name": "a", "resourceClaimName": "x"}]}});
        let mut running = old.clone();
        running["status"]["phase"] = "Running".into();
        assert_eq!(status(&running, &old, "n"), None);
        assert!(status(&running, &old, "m").unwrap().contains("set to itself"));
        let mut labelled = old.clone();
        labelled["metadata"]["labels"]["a"] = "c".into();
        assert!(status(&labelled, &old, "n").unwrap().contains("labels"));
        let mut claimed = old.clone();
        claimed["status"]["resourceClaimStatuses"][0]["resourceClaimName"] = "y".into();
        assert!(status(&claimed, &old, "n").unwrap().contains("resource claim"));
        let mut extended = old.clone();
        extended["status"]["extendedResourceClaimStatus"] = json!({"resourceClaimName": "y"});
        assert!(status(&extended, &old, "n").unwrap().contains("extended resource claim"));
    }
}
