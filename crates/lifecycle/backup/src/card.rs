//! The card beside a backup: what it is, for lists, without opening it. It is not signed; whoever relies on a backup
//! reads the backup itself.

use serde::{Deserialize, Serialize};

use crate::manifest::Manifest;

/// Ending of a backup's name.
pub const EXTENSION: &str = ".kinit-backup";
/// Ending of its card's name.
pub const CARD: &str = ".kinit-backup.json";

/// What a list shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Card {
    /// The backup's file.
    pub file: String,
    /// Its length: one that is shorter is truncated.
    pub bytes: u64,
    /// Of the whole file, in hexadecimal: tells damage without any identity.
    pub sha256: String,
    /// Why it was made: `manual`, or the period of a schedule.
    pub reason: String,
    /// What is in it, without its list of files.
    pub manifest: Manifest,
}

impl Card {
    /// The card of a backup of that length and hash.
    pub fn new(file: &str, bytes: u64, sha256: String, reason: &str, manifest: &Manifest) -> Self {
        let manifest = Manifest { files: Vec::new(), ..manifest.clone() };
        Self { file: file.to_owned(), bytes, sha256, reason: reason.to_owned(), manifest }
    }

    /// Its own file's name.
    pub fn name(&self) -> String {
        format!("{}.json", self.file)
    }

    /// Its text.
    pub fn text(&self) -> String {
        // A struct of strings and numbers always has a JSON form.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Reads it; `None` where it is none.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let card: Self = serde_json::from_slice(text).ok()?;
        is_backup_name(&card.file).then_some(card)
    }
}

/// `CLUSTER-20261129T033500Z.kinit-backup`: sorts by time.
pub fn file_name(cluster: &str, created: jiff::Timestamp) -> String {
    format!("{cluster}-{}{EXTENSION}", created.strftime("%Y%m%dT%H%M%SZ"))
}

/// Whether that is a backup's name, and no path.
pub fn is_backup_name(name: &str) -> bool {
    name.ends_with(EXTENSION) && !name.starts_with('.') && !name.contains(['/', '\\']) && name.len() < 200
}

/// One line of a list.
pub fn listing(card: &Card) -> String {
    let proven = match &card.manifest.proof {
        Some(_) => "proven",
        None => "not proven",
    };
    let etcd = &card.manifest.etcd;
    format!(
        "{:<48} {:>10} {:<10} {:<11} {} at revision {}",
        card.file,
        format!("{:.1} MiB", card.bytes as f64 / f64::from(1 << 20)),
        card.reason,
        proven,
        card.manifest.cluster.name,
        etcd.revision
    )
}
