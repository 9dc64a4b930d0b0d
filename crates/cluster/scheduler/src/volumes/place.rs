//! Where a pod goes, and what that means for its claims.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use crate::cache::Snapshot;
use crate::plugins::volumes::{Choice, PodVolumes, choose};

/// A decision.
pub struct Place {
    /// The node's name.
    pub node: String,
    /// Its object.
    pub object: Option<Arc<Node>>,
    /// What becomes of the pod's claims.
    pub choice: Choice,
}

impl Place {
    /// What the decision for a node means.
    pub fn new(snapshot: &Snapshot, node: String, volumes: &PodVolumes) -> Self {
        let object = snapshot.iter().find(|n| n.name() == node).and_then(|n| n.node.clone());
        let choice = object.as_ref().and_then(|object| choose(volumes, object)).unwrap_or_default();
        Self { node, object, choice }
    }
}
