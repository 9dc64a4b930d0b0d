//! Our own last writes, until the store shows them: a pass on an older version would only conflict with them.

use std::collections::HashMap;
use std::sync::Arc;

use kinit_client::informer::key_of;
use kube::Resource;
use parking_lot::Mutex;

/// By key, what the API server answered to the last write.
pub struct Written<K>(Mutex<HashMap<String, Arc<K>>>);

impl<K> Default for Written<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// Versions of one object are numbers that grow.
fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl<K: Resource> Written<K> {
    /// Remembers what was written.
    pub fn note(&self, object: K) {
        self.0.lock().insert(key_of(&object), Arc::new(object));
    }

    /// What the store shows, or what was written after that.
    pub fn or_newer(&self, key: &str, stored: Option<Arc<K>>) -> Option<Arc<K>> {
        let mut written = self.0.lock();
        let same = |a: &K, b: &K| a.meta().uid == b.meta().uid;
        match (written.get(key), stored) {
            (Some(ours), Some(stored)) if same(ours, &stored) && version(&**ours) > version(&*stored) => {
                Some(ours.clone())
            }
            (_, stored) => {
                written.remove(key);
                stored
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::Deployment;
    use serde_json::json;

    #[test]
    fn the_newer_one_counts() {
        let deployment = |version: &str, uid: &str| -> Deployment {
            let meta = json!({"name": "d", "namespace": "n", "uid": uid, "resourceVersion": version});
            serde_json::from_value(json!({"metadata": meta})).unwrap()
        };
        let written = Written::default();
        let shown = |stored: Option<Deployment>| {
            written.or_newer("n/d", stored.map(Arc::new)).and_then(|d| d.metadata.resource_version.clone())
        };
        written.note(deployment("10", "u"));
        assert_eq!(shown(Some(deployment("9", "u"))).as_deref(), Some("10"));
        assert_eq!(shown(Some(deployment("11", "u"))).as_deref(), Some("11"));
        assert_eq!(shown(Some(deployment("9", "u"))).as_deref(), Some("9"), "forgotten once it was shown");
        written.note(deployment("20", "u"));
        assert_eq!(shown(Some(deployment("12", "other"))).as_deref(), Some("12"), "another of that name");
        written.note(deployment("30", "u"));
        assert_eq!(shown(None), None);
        assert!(written.0.lock().is_empty());
    }
}
