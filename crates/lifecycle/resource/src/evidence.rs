//! What a benchmark of a host's security looks at.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A host's files, command lines and kubelet configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Files and folders that exist of those that were asked for, and what is in the folders.
    pub files: Vec<FileEvidence>,
    /// Arguments of running programs, by the program's name.
    pub commands: BTreeMap<String, Vec<String>>,
    /// The kubelet's configuration; null where there is none.
    pub kubelet: serde_json::Value,
}

/// A file or a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEvidence {
    /// Its path.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// `user:group`.
    pub owner: String,
    /// Whether it is a folder.
    pub folder: bool,
}
