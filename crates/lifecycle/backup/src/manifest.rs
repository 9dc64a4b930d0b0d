//! What a backup says of itself.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::sign::Anchor;

/// The format that this kinit writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
/// Where the snapshot is.
pub const SNAPSHOT: &str = "etcd/snapshot.db";

/// The first entry of every backup, `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`FORMAT`] of the kinit that wrote it.
    pub format: u32,
    /// Whose it is.
    pub cluster: ClusterId,
    /// When it was begun, RFC 3339 in UTC.
    pub created: String,
    /// The host whose member of etcd gave the snapshot.
    pub host: String,
    /// Version of kinit.
    pub kinit: String,
    /// Version of the Kubernetes components, `v1.36.0`.
    pub kubernetes: String,
    /// What was in etcd.
    pub etcd: EtcdState,
    /// That and how it was restored before it counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// The public key of the signature, Ed25519, in hexadecimal.
    pub signer: String,
    /// What that key is derived from.
    pub signed_by: Anchor,
    /// All entries after manifest and signature, in their order.
    pub files: Vec<FileEntry>,
}

/// Which cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterId {
    /// Its name, which many clusters share.
    pub name: String,
    /// Hash of its authority's public key, which none shares: `sha256:HEX`, as kubeadm writes it.
    pub authority: String,
}

/// The key space at the time of the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdState {
    /// etcd's version.
    pub version: String,
    /// Its revision; 0 when the snapshot was not looked into.
    pub revision: i64,
    /// History before that revision is gone.
    pub compact_revision: i64,
    /// etcd's own hash of all keys up to the revision (`HashKV`).
    pub hash: u32,
    /// How many keys there are.
    pub keys: u64,
}

/// A restore that was tried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// What the scratch etcd had.
    pub etcd: EtcdState,
    /// Whether the running cluster's etcd gave the same hash for the same revision. `false` when it could not be
    /// compared, because history was compacted in between; a hash that differs is an error.
    pub compared_with_source: bool,
    /// Secrets whose decryption was tried with the backed-up keys.
    pub secrets: SecretsTried,
    /// How long it took.
    pub milliseconds: u64,
}

/// A sample of Secrets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretsTried {
    /// How many there are.
    pub all: u64,
    /// How many were looked at.
    pub tried: u64,
    /// How many of these were encrypted; all of them could be decrypted.
    pub encrypted: u64,
}

/// A file in the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    /// Relative, below one of the folders of the format.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// In hexadecimal.
    pub sha256: String,
}

/// More files than a backup can have.
const MOST_FILES: usize = 10_000;

impl Manifest {
    /// Reads it; another format is told before anything else of it is looked at.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let broken = |error: serde_json::Error| Error::NotABackup(format!("its manifest cannot be read: {error}"));
        let Format { format } = serde_json::from_slice(bytes).map_err(broken)?;
        if format > FORMAT {
            return Err(Error::NewerFormat { found: format });
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(broken)?;
        if manifest.files.len() > MOST_FILES {
            return Err(Error::NotABackup(format!("its manifest lists {} files", manifest.files.len())));
        }
        match manifest.files.iter().find(|file| !is_plain(&file.path)) {
            Some(file) => Err(Error::Tampered(format!("it has a file {:?}", file.path))),
            None => Ok(manifest),
        }
    }
}

/// A relative path that stays where it belongs.
pub(crate) fn is_plain(path: &str) -> bool {
    let part = |p: &str| !p.is_empty() && p != "." && p != "..";
    path.len() <= 200 && path.split('/').all(part) && !path.chars().any(char::is_control)
}

/// Where a file below `/etc/kubernetes/pki` is in a backup.
pub fn pki_path(file: &str) -> String {
    format!("pki/{file}")
}

/// Whether `version` is of a later minor than `own` (`v1.37.0` and `v1.36.4`). What cannot be read is later.
pub fn is_newer_minor(version: &str, own: &str) -> bool {
    let minor = |text: &str| -> Option<(u32, u32)> {
        let mut parts = text.strip_prefix('v')?.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    match (minor(version), minor(own)) {
        (Some(version), Some(own)) => version > own,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (version, newer) in
            [("v1.36.9", false), ("v1.9.0", false), ("v1.37.0", true), ("v2.0.0", true), ("1.36.0", true), ("", true)]
        {
            assert_eq!(is_newer_minor(version, "v1.36.0"), newer, "{version}");
        }
    }

    #[test]
    fn a_newer_format_is_told_whatever_else_it_has() {
        assert!(matches!(Manifest::parse(br#"{"format":2,"x":[]}"#), Err(Error::NewerFormat { found: 2 })));
        assert!(matches!(Manifest::parse(b"{}"), Err(Error::NotABackup(_))));
        for (path, plain) in [("pki/ca.crt", true), ("../x", false), ("/x", false), ("a//b", false), ("a/\n", false)] {
            assert_eq!(is_plain(path), plain, "{path}");
        }
    }
}
