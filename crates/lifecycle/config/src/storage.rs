//! What claims get volumes from.

use serde::{Deserialize, Serialize};

/// What claims get volumes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Storage {
    /// The StorageClass `local-path`: folders on the nodes' own disks.
    #[serde(default)]
    pub local_path: LocalPathClass,
}

/// What becomes of the StorageClass `local-path`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LocalPathClass {
    /// It is there, and claims that name no class get it.
    #[default]
    Default,
    /// It is there for claims that name it.
    Class,
    /// kinit does not make it, and leaves alone one that there is.
    None,
}

impl Storage {
    /// Whether nothing is asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
