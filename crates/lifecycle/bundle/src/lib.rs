//! Bundles: what kinit installs on hosts, as a folder or one file. See docs/bundles.md.
//!
//! ```text
//! DIR/bundle.yaml       what is in it: version, components, images, every file with its SHA-256
//! DIR/bundle.yaml.sig   who vouches for it (Ed25519), where it is signed
//! DIR/hyperkube, DIR/kinit, DIR/images/*.tar, DIR/packages/RELEASE/*.deb
//!   ─ tar ─ zstd ─►  kinit-bundle-VERSION.tar.zst
//! store                 $XDG_DATA_HOME/kinit/bundles/VERSION: several side by side on the desk
//! ```

mod archive;
mod error;
mod folder;
mod manifest;
mod packages;
mod sign;
mod store;

pub use archive::{EXTENSION, pack, unpack};
pub use error::Error;
pub use folder::{difference, digest, read_manifest, verify, write_manifest};
pub use manifest::{COMPONENTS, Component, FileEntry, Image, MANIFEST, Manifest, OPTIONAL};
pub use packages::{
    INDEX, PACKAGES, Package, PackageSet, describe as describe_package, file_name as package_file_name,
};
pub use sign::{Trust, TrustedKey, new_key, sign};
pub use store::Store;
