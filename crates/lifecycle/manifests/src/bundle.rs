//! What kinit brings along: one multi-call binary and a few images.

/// The pods' parent container; containerd's `sandbox_image` must match it to the letter.
pub const PAUSE_IMAGE: &str = "kinit.dev/pause:0.1.0";
/// The cluster's DNS.
pub const DNS_IMAGE: &str = "kinit.dev/kube-dns:0.1.0";

/// An image archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageArchive {
    /// `kinit.dev/pause:0.1.0`.
    pub name: String,
    /// SHA-256 of the archive, in hexadecimal.
    pub sha256: String,
}

/// What there is to install, known by its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// SHA-256 of the multi-call binary, in hexadecimal.
    pub hyperkube: String,
    /// Images for every node.
    pub images: Vec<ImageArchive>,
}

impl Bundle {
    /// Where the multi-call binary is placed; a new build is a new path.
    pub fn hyperkube_path(&self) -> String {
        format!("/usr/local/lib/kinit/hyperkube-{}", self.hyperkube.get(..12).unwrap_or(&self.hyperkube))
    }
}
