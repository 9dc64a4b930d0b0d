//! Volumes of the provisioner `kinit.dev/local-path`: a folder on one node's disk. What controllers, API server and
//! kubelet agree upon:
//!
//! ```text
//! provisioner ─► PersistentVolume NAME     local.path ROOT/NAME, label NODE, finalizer FOLDER
//! kubelet     ─► makes ROOT/NAME when a pod mounts it first
//! anybody     ─► deletes the PersistentVolume
//! kubelet     ─► removes ROOT/NAME when the policy is Delete, then takes the finalizer away
//! provisioner ─► takes the finalizer away when the node does not exist any more
//! ```

use k8s_openapi::api::core::v1::PersistentVolume;

use super::{PROVISIONED_BY, annotation, reclaim_policy};

/// A volume of the provisioner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPath {
    /// The volume's name, which is its folder's too.
    pub name: String,
    /// The node whose disk it is on.
    pub node: String,
}

impl LocalPath {
    /// The provisioner's name.
    pub const PROVISIONER: &str = "kinit.dev/local-path";
    /// The folder on each node that has the volumes' folders in it.
    pub const ROOT: &str = "/var/lib/kinit/local-path";
    /// The label of a volume with the name of its node: by this a kubelet finds its own.
    pub const NODE: &str = "kinit.dev/local-path-node";
    /// The finalizer of a volume whose folder may be there still.
    pub const FINALIZER: &str = "kinit.dev/local-path-folder";

    /// What a volume is as one of the provisioner's; nothing for every other, and for one whose path is any other than
    /// that of its own name.
    pub fn of(volume: &PersistentVolume) -> Option<Self> {
        let name = volume.metadata.name.as_deref()?;
        let node = volume.metadata.labels.as_ref()?.get(Self::NODE)?;
        let path = &volume.spec.as_ref()?.local.as_ref()?.path;
        let ours = annotation(volume, PROVISIONED_BY) == Some(Self::PROVISIONER);
        let named = is_plain(name) && *path == Self::path(name);
        (ours && named).then(|| Self { name: name.to_owned(), node: node.clone() })
    }

    /// The folder of a volume of this name.
    pub fn path(name: &str) -> String {
        format!("{}/{name}", Self::ROOT)
    }

    /// Whether the volume has the finalizer.
    pub fn has_finalizer(volume: &PersistentVolume) -> bool {
        volume.metadata.finalizers.iter().flatten().any(|f| f == Self::FINALIZER)
    }

    /// Whether it is time for the finalizer to go: the volume is deleted and nothing else holds it (least of all the
    /// protection of volumes in use).
    pub fn is_due(volume: &PersistentVolume) -> bool {
        let finalizers = volume.metadata.finalizers.as_deref().unwrap_or_default();
        volume.metadata.deletion_timestamp.is_some() && finalizers == [Self::FINALIZER]
    }

    /// Whether the data go with the volume.
    pub fn deletes_data(volume: &PersistentVolume) -> bool {
        reclaim_policy(volume) == "Delete"
    }
}

/// One component of a path, and neither hidden nor a way up.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}
