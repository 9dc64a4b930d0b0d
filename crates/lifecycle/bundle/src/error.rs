//! Why a bundle cannot be used.

use std::path::{Path, PathBuf};

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read or written.
    #[error("{what} {}", .path.display())]
    Io {
        /// `read`, `write`.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is none.
    #[error("there is no bundle in {}: it has no bundle.yaml (`cargo xtask bundle` makes a bundle, `kinit bundle create` describes the programs of a folder)", .0.display())]
    None(PathBuf),
    /// The manifest says what cannot be.
    #[error("{} is no bundle of this kinit: {why}", .path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Files are not what the manifest says.
    #[error("the bundle in {} is not as it was made:\n{}", .folder.display(), .why.join("\n"))]
    Damaged {
        /// The bundle's folder.
        folder: PathBuf,
        /// All that is wrong, a line each.
        why: Vec<String>,
    },
    /// The signature is missing, wrong or of somebody else.
    #[error("the bundle in {} is not to be trusted: {why}", .folder.display())]
    Untrusted {
        /// The bundle's folder.
        folder: PathBuf,
        /// Why.
        why: String,
    },
    /// A key that cannot be used.
    #[error("{0}")]
    Key(String),
    /// There is no such version on the desk.
    #[error("bundle {version} is not on this desk; there are: {known} (`kinit bundle import FILE` adds one)")]
    Unknown {
        /// What was asked for.
        version: String,
        /// What there is.
        known: String,
    },
}

impl Error {
    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { what: "read", path, source }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { what: "write", path, source }
    }
}
