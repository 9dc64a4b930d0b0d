//! What objects refer to: the one list from which the node authorizer, NodeRestriction and ServiceAccount admission
//! read.
//!
//! ```text
//! pod    -> secrets, configmaps, service account, claims ... (pkg/api/pod: VisitPodSecretNames, HasAPIObjectReference)
//! volume -> the claim it is bound to, the secrets a kubelet mounts it with         (pkg/api/v1/persistentvolume)
//! ```

mod pod;
mod volume;

pub use kinit_apimachinery::well_known::MIRROR_POD as MIRROR;
pub use pod::{first_of, of_pod};
pub use volume::{PersistentVolume, of_persistent_volume};

/// The kinds that pods refer to by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `secrets`.
    Secret,
    /// `configmaps`.
    ConfigMap,
    /// `serviceaccounts`.
    ServiceAccount,
    /// `persistentvolumeclaims`.
    Claim,
    /// `resourceclaims`.
    ResourceClaim,
}

/// A reference within the pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// To what.
    pub kind: Kind,
    /// By which name.
    pub name: String,
}
