//! Nodes and their pods as they are or soon will be: a pod counts on its node from the moment it was decided.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kinit_client::informer::key_of;
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

/// The nodes of one moment, in the order of their names; those whose object was not seen are left out.
pub type Snapshot = Vec<Arc<NodeInfo>>;

#[derive(Default)]
struct State {
    nodes: BTreeMap<String, Arc<NodeInfo>>,
    /// Pod key to node name.
    places: HashMap<String, String>,
    assumed: HashMap<String, String>,
}

/// See the module.
#[derive(Default)]
pub struct Cache(Mutex<State>);

impl Cache {
    /// The nodes as they are now.
    pub fn snapshot(&self) -> Snapshot {
        self.0.lock().nodes.values().filter(|n| n.node.is_some()).cloned().collect()
    }

    /// A node was seen.
    pub fn set_node(&self, node: &Arc<Node>) {
        let mut state = self.0.lock();
        Arc::make_mut(state.nodes.entry(node.name_any()).or_default()).set_node(node.clone());
    }

    /// A node is gone; its pods stay counted until they are gone too.
    pub fn remove_node(&self, name: &str) {
        let mut state = self.0.lock();
        if let Some(info) = state.nodes.get_mut(name) {
            if info.pods.is_empty() {
                state.nodes.remove(name);
            } else {
                Arc::make_mut(info).node = None;
            }
        }
    }

    /// A pod with a node was seen; what was assumed about it is now known.
    pub fn set_pod(&self, pod: &Arc<Pod>, node: &str) {
        let mut state = self.0.lock();
        let key = key_of(&**pod);
        state.assumed.remove(&key);
        state.place(&key, PodInfo::new(pod.clone()), node);
    }

    /// A pod ended or is gone.
    pub fn remove_pod(&self, key: &str) {
        let mut state = self.0.lock();
        state.assumed.remove(key);
        state.take(key);
    }

    /// The pod will be on this node; the binding is on its way.
    pub fn assume(&self, pod: &Arc<PodInfo>, node: &str) {
        let mut state = self.0.lock();
        let key = key_of(&*pod.pod);
        state.assumed.insert(key.clone(), pod.pod.uid().unwrap_or_default());
        state.place(&key, pod.clone(), node);
    }

    /// The binding failed.
    pub fn forget(&self, key: &str) {
        let mut state = self.0.lock();
        if state.assumed.remove(key).is_some() {
            state.take(key);
        }
    }

    /// Whether the pod of this identity has been assumed.
    pub fn is_assumed(&self, key: &str, uid: &str) -> bool {
        self.0.lock().assumed.get(key).is_some_and(|u| u == uid)
    }
}

impl State {
    fn place(&mut self, key: &str, pod: Arc<PodInfo>, node: &str) {
        if self.places.get(key).is_some_and(|old| old != node) {
            self.take(key);
        }
        self.places.insert(key.to_owned(), node.to_owned());
        Arc::make_mut(self.nodes.entry(node.to_owned()).or_default()).add(key, pod);
    }

    fn take(&mut self, key: &str) {
        let Some(node) = self.places.remove(key) else { return };
        if let Some(info) = self.nodes.get_mut(&node) {
            Arc::make_mut(info).remove(key);
            if info.node.is_none() && info.pods.is_empty() {
                self.nodes.remove(&node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, cpu: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "n", "uid": name},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}
            }))
            .unwrap(),
        )
    }

    #[test]
    fn assumed_pods_count_until_forgotten() {
        let cache = Cache::default();
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        cache.set_node(&Arc::new(node));
        let cpu = || cache.snapshot()[0].requested.get("cpu");
        cache.assume(&PodInfo::new(pod("p", "1")), "a");
        cache.assume(&PodInfo::new(pod("q", "2")), "a");
        assert_eq!(cpu(), 3000);
        cache.forget("n/p");
        assert_eq!(cpu(), 2000);
        cache.set_pod(&pod("q", "2"), "a");
        cache.forget("n/q");
        assert_eq!(cpu(), 2000, "it is known now, no longer assumed");
        cache.remove_node("a");
        assert!(cache.snapshot().is_empty());
        cache.remove_pod("n/q");
        assert!(cache.0.lock().nodes.is_empty());
    }
}
