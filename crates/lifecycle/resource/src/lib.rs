//! What a host can have: pure types, what was observed of them, and the difference.
//!
//! ```text
//! planner ── Resource ──► agent observes ── Observed ──► compare ── Option<Change> ──► plan ──► agent applies
//! ```
//!
//! A resource never holds a secret: secrets are named ([`Shared`], [`Content::Secret`]) and travel beside the plan.

mod compare;
mod debian;
mod etcd;
mod evidence;
mod facts;
mod rotation;
mod types;

pub use compare::{Change, compare, what};
pub use debian::{IndexedPackage, compare_versions, indexed_packages, upstream_minor, version_in};
pub use etcd::{EtcdMember, EtcdStatus};
pub use evidence::{Evidence, FileEvidence};
pub use facts::{Facts, Firewall, Installed, InstalledPackage};
pub use rotation::{PodCredentials, RotationRecord, RotationSeen, RotationStage, SealedValues};
pub use types::{Content, FileSpec, LeafForm, LeafName, LeafSpec, Observed, Place, Resource, Shared, UnitState};

use sha2::{Digest, Sha256};

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
