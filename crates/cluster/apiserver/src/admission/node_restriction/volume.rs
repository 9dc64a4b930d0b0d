//! What a kubelet may do to a PersistentVolume: of one that is a folder on its disk, and is deleted, it says that the
//! folder is gone. That is the finalizer of the provisioner `kinit.dev/local-path`; upstream's kubelets change no
//! volumes.

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use kinit_component_helpers::storage::LocalPath;
use serde_json::Value;

use super::super::{Attributes, Operation};
use super::forbidden;

pub(super) fn check(attributes: &Attributes<'_>, volume: &Value, node: &str) -> Result<(), ApiError> {
    let (Operation::Update, "", Some(old)) = (attributes.operation, attributes.subresource, attributes.old) else {
        return Err(forbidden(attributes, volume, "may only update finalizers of persistentvolumes"));
    };
    if lets_go(old, volume, node) {
        return Ok(());
    }
    let cause = format!(
        "node \"{node}\" is only allowed to remove the finalizer {} of deleted persistentvolumes on its disk",
        LocalPath::FINALIZER
    );
    Err(forbidden(attributes, volume, &cause))
}

/// Whether the change is no other than the finalizer's end.
fn lets_go(old: &Value, new: &Value, node: &str) -> bool {
    let mut left = old.finalizers();
    left.retain(|f| f != LocalPath::FINALIZER);
    old.label(LocalPath::NODE) == Some(node)
        && old.at(&["metadata", "deletionTimestamp"]).is_some()
        && left.len() < old.finalizers().len()
        && new.finalizers() == left
        && rest(new) == rest(old)
}

/// A volume without what changes with its finalizers.
fn rest(volume: &Value) -> Value {
    let mut rest = volume.clone();
    if let Some(meta) = rest.object_at(&["metadata"]) {
        for field in ["resourceVersion", "managedFields", "finalizers"] {
            meta.shift_remove(field);
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_end_of_the_finalizer() {
        let volume = |node: &str, deleted: bool, finalizers: Value, path: &str| {
            let mut volume = json!({"metadata": {"name": "v", "labels": {LocalPath::NODE: node}, "finalizers": finalizers},
                "spec": {"local": {"path": path}}});
            if deleted {
                volume["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            volume
        };
        let (own, other) = (LocalPath::FINALIZER, "example.com/x");
        let old = volume("n1", true, json!([own]), "/a");
        let none = volume("n1", true, json!([]), "/a");
        let mut bare = none.clone();
        bare["metadata"].as_object_mut().unwrap().shift_remove("finalizers");
        assert!(lets_go(&old, &none, "n1") && lets_go(&old, &bare, "n1"));
        assert!(!lets_go(&old, &none, "n2"), "of another node");
        assert!(!lets_go(&old, &old, "n1"), "no change");
        assert!(!lets_go(&old, &volume("n1", true, json!([]), "/b"), "n1"), "the path");
        assert!(!lets_go(&old, &volume("n2", true, json!([]), "/a"), "n1"), "the label");
        assert!(!lets_go(&old, &volume("n1", true, json!([other]), "/a"), "n1"), "another finalizer");
        let held = volume("n1", true, json!([other, own]), "/a");
        assert!(!lets_go(&held, &none, "n1") && lets_go(&held, &volume("n1", true, json!([other]), "/a"), "n1"));
        let alive = volume("n1", false, json!([own]), "/a");
        assert!(!lets_go(&alive, &volume("n1", false, json!([]), "/a"), "n1"), "it is not deleted");
    }
}
