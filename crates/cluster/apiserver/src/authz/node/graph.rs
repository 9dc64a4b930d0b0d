//! Which node has to do with which object (`plugin/pkg/auth/authorizer/node.Graph`), as maps that answer at once.
//!
//! ```text
//! node <- pod <- secret, configmap, service account, resource claim, claim <- volume <- secret
//! node <- volume attachment, resource slice, volume that is a folder on its disk
//! ```
//!
//! Changes are taken from the caches' events; a question first takes those that are there. So the picture is as fresh
//! as the caches, and no task can be behind.

use std::collections::{BTreeSet, HashMap};

use kinit_apimachinery::meta::Meta;
use kinit_component_helpers::storage::LocalPath;
use serde_json::Value;

use crate::references::{self, Kind, MIRROR, PersistentVolume, Reference};

/// A namespace and a name.
type Place = (String, String);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pod {
    node: String,
    references: BTreeSet<Reference>,
}

/// Pods and what they, their volumes and their nodes refer to.
#[derive(Debug, Default)]
pub struct Graph {
    pods: HashMap<Place, Pod>,
    /// The nodes whose pods refer to an object, with the number of those pods.
    nodes: HashMap<(Kind, Place), HashMap<String, usize>>,
    volumes: HashMap<String, PersistentVolume>,
    /// The volumes that are mounted with a secret.
    mounted_with: HashMap<Place, BTreeSet<String>>,
    /// The volumes that are folders on a node's disk, with the node.
    folders: HashMap<String, String>,
    attachments: HashMap<String, String>,
    slices: HashMap<String, String>,
}

fn place(namespace: &str, name: &str) -> Place {
    (namespace.to_owned(), name.to_owned())
}

impl Graph {
    /// Whether a node runs a pod.
    pub fn runs(&self, node: &str, namespace: &str, name: &str) -> bool {
        self.pods.get(&place(namespace, name)).is_some_and(|p| p.node == node)
    }

    /// Whether a node's pods refer to an object, or for a secret their volumes do.
    pub fn needs(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let place = place(namespace, name);
        if kind == Kind::Secret
            && self.mounted_with.get(&place).is_some_and(|volumes| volumes.iter().any(|v| self.mounts(node, v)))
        {
            return true;
        }
        self.nodes.get(&(kind, place)).is_some_and(|nodes| nodes.contains_key(node))
    }

    /// Whether a node's pods have the claim that a volume is bound to.
    pub fn mounts(&self, node: &str, volume: &str) -> bool {
        let Some(volume) = self.volumes.get(volume) else { return false };
        self.nodes.get(&(Kind::Claim, volume.claim.clone())).is_some_and(|nodes| nodes.contains_key(node))
    }

    /// Whether a volume is a folder on a node's disk.
    pub fn holds(&self, node: &str, volume: &str) -> bool {
        self.folders.get(volume).is_some_and(|n| n == node)
    }

    /// Whether a VolumeAttachment is a node's.
    pub fn attaches(&self, node: &str, attachment: &str) -> bool {
        self.attachments.get(attachment).is_some_and(|n| n == node)
    }

    /// Whether a ResourceSlice is a node's.
    pub fn offers(&self, node: &str, slice: &str) -> bool {
        self.slices.get(slice).is_some_and(|n| n == node)
    }

    /// A pod is there, or changed. Only one that has a node counts, and of a mirror pod nothing but the node: what a
    /// kubelet makes itself must give it nothing (NodeRestriction refuses such pods; this is the second lock).
    pub fn put_pod(&mut self, namespace: &str, name: &str, pod: &Value) {
        self.delete_pod(namespace, name);
        let node = pod.str_at(&["spec", "nodeName"]);
        if node.is_empty() {
            return;
        }
        let mut references = BTreeSet::new();
        if pod.annotation(MIRROR).is_none() {
            references.extend(references::of_pod(pod));
        }
        for reference in &references {
            let key = (reference.kind, place(namespace, &reference.name));
            *self.nodes.entry(key).or_default().entry(node.to_owned()).or_default() += 1;
        }
        self.pods.insert(place(namespace, name), Pod { node: node.to_owned(), references });
    }

    /// A pod is gone.
    pub fn delete_pod(&mut self, namespace: &str, name: &str) {
        let Some(pod) = self.pods.remove(&place(namespace, name)) else { return };
        for reference in pod.references {
            let key = (reference.kind, place(namespace, &reference.name));
            let Some(nodes) = self.nodes.get_mut(&key) else { continue };
            if let Some(count) = nodes.get_mut(&pod.node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&pod.node);
                }
            }
            if nodes.is_empty() {
                self.nodes.remove(&key);
            }
        }
    }

    /// A PersistentVolume is there, or changed.
    pub fn put_volume(&mut self, name: &str, volume: &Value) {
        self.delete_volume(name);
        set(&mut self.folders, name, volume.label(LocalPath::NODE).unwrap_or(""));
        let Some(volume) = references::of_persistent_volume(volume) else { return };
        for secret in &volume.secrets {
            self.mounted_with.entry(secret.clone()).or_default().insert(name.to_owned());
        }
        self.volumes.insert(name.to_owned(), volume);
    }

    /// A PersistentVolume is gone.
    pub fn delete_volume(&mut self, name: &str) {
        self.folders.remove(name);
        let Some(volume) = self.volumes.remove(name) else { return };
        for secret in volume.secrets {
            if let Some(volumes) = self.mounted_with.get_mut(&secret) {
                volumes.remove(name);
                if volumes.is_empty() {
                    self.mounted_with.remove(&secret);
                }
            }
        }
    }

    /// A VolumeAttachment is there, changed or (without a node) gone.
    pub fn set_attachment(&mut self, name: &str, node: &str) {
        set(&mut self.attachments, name, node);
    }

    /// A ResourceSlice is there, changed or (without a node) gone.
    pub fn set_slice(&mut self, name: &str, node: &str) {
        set(&mut self.slices, name, node);
    }
}

fn set(map: &mut HashMap<String, String>, name: &str, node: &str) {
    if node.is_empty() {
        map.remove(name);
    } else {
        map.insert(name.to_owned(), node.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(node: &str, spec: &Value) -> Value {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec});
        pod["spec"]["nodeName"] = node.into();
        pod
    }

    fn with_secret(name: &str) -> Value {
        json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": name}}]}]})
    }

    #[test]
    fn pods_give_and_take() {
        let mut graph = Graph::default();
        let secret = |g: &Graph, node: &str, name: &str| g.needs(node, Kind::Secret, "n", name);
        graph.put_pod("n", "p", &pod("", &with_secret("s")));
        assert!(!secret(&graph, "", "s") && !graph.runs("", "n", "p"), "a pod without a node gives nothing to anybody");
        graph.put_pod("n", "p", &pod("n1", &with_secret("s")));
        graph.put_pod("n", "q", &pod("n1", &with_secret("s")));
        graph.put_pod("n", "r", &pod("n2", &with_secret("t")));
        assert!(secret(&graph, "n1", "s") && !secret(&graph, "n2", "s") && secret(&graph, "n2", "t"));
        assert!(!graph.needs("n1", Kind::Secret, "m", "s"), "another namespace");
        assert!(!graph.needs("n1", Kind::ConfigMap, "n", "s"), "another kind");
        assert!(graph.runs("n1", "n", "p") && !graph.runs("n2", "n", "p"));
        graph.delete_pod("n", "p");
        assert!(secret(&graph, "n1", "s"), "the other pod still needs it");
        graph.put_pod("n", "q", &pod("n1", &with_secret("u")));
        assert!(!secret(&graph, "n1", "s") && secret(&graph, "n1", "u"));
        graph.delete_pod("n", "q");
        graph.delete_pod("n", "r");
        assert!(graph.nodes.is_empty() && graph.pods.is_empty(), "nothing is left over: {graph:?}");
    }

    #[test]
    fn mirror_pods_give_nothing() {
        let mut graph = Graph::default();
        let mut mirror = pod("n1", &with_secret("s"));
        mirror["metadata"]["annotations"] = json!({MIRROR: "x"});
        graph.put_pod("n", "p", &mirror);
        assert!(graph.runs("n1", "n", "p") && !graph.needs("n1", Kind::Secret, "n", "s"));
    }

    #[test]
    fn volumes_lead_to_secrets_through_their_claim() {
        let mut graph = Graph::default();
        let volume = json!({"spec": {"claimRef": {"namespace": "n", "name": "c"},
            "csi": {"nodeStageSecretRef": {"namespace": "other", "name": "s"}}}});
        graph.put_volume("v", &volume);
        assert!(!graph.mounts("n1", "v") && !graph.needs("n1", Kind::Secret, "other", "s"));
        let claim = json!({"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]});
        graph.put_pod("n", "p", &pod("n1", &claim));
        assert!(graph.mounts("n1", "v") && graph.needs("n1", Kind::Secret, "other", "s"));
        assert!(graph.needs("n1", Kind::Claim, "n", "c") && !graph.mounts("n2", "v"));
        graph.put_volume("v", &json!({"spec": {}}));
        assert!(!graph.mounts("n1", "v") && !graph.needs("n1", Kind::Secret, "other", "s"));
        assert!(graph.mounted_with.is_empty());
    }

    #[test]
    fn attachments_and_slices_are_of_one_node() {
        let mut graph = Graph::default();
        graph.set_attachment("a", "n1");
        graph.set_slice("s", "n1");
        assert!(graph.attaches("n1", "a") && !graph.attaches("n2", "a") && graph.offers("n1", "s"));
        graph.set_attachment("a", "n2");
        graph.set_slice("s", "");
        assert!(!graph.attaches("n1", "a") && graph.attaches("n2", "a") && !graph.offers("n1", "s"));
    }
}
