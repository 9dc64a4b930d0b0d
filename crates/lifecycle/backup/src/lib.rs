//! Backups of a cluster: the file, and what is kept of many of them. No network; see docs/backup.md for the format.
//!
//! ```text
//! manifest.json, manifest.sig, pki/…, cluster.yaml, host/…, etcd/snapshot.db
//!   ─ tar ─ zstd ─ age ─►  CLUSTER-TIME.kinit-backup     and beside it its card, CLUSTER-TIME.kinit-backup.json
//! ```
//!
//! The manifest is the first entry and signed: a reader knows what it has before the data come, checks each file as it
//! streams by, and keeps nothing of it on a disk.

mod card;
mod error;
mod manifest;
mod read;
mod retention;
mod seal;
mod sealed_file;
mod sealed_values;
mod sign;
mod snapshot;
mod write;

pub use card::{CARD, Card, EXTENSION, file_name, is_backup_name, listing};
pub use error::Error;
pub use manifest::{
    ClusterId, EtcdState, FORMAT, FileEntry, Manifest, Proof, SNAPSHOT, SecretsTried, is_newer_minor, pki_path,
};
pub use read::{Keys, Visit, read, read_small};
pub use retention::{Retention, outdated};
pub use seal::{Identity, Protection, check_recipient, new_identity};
pub use sealed_file::{seal, unseal};
pub use sealed_values::StoredKeys;
pub use sign::{Anchor, Signer};
pub use snapshot::{check_snapshot, is_snapshot};
pub use write::{Member, Source, measure, write};

#[cfg(test)]
mod tests;
