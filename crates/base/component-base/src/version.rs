//! What the programs say they are.

/// Kubernetes' API version these components speak, with kinit's own version as semver build metadata
/// (the form `kubectl version` prints; k3s and others mark themselves the same way).
pub const GIT_VERSION: &str = concat!("v1.36.0+kinit.", env!("CARGO_PKG_VERSION"));
/// The API's major version.
pub const MAJOR: &str = "1";
/// The API's minor version.
pub const MINOR: &str = "36";

/// `NAME/v1.36.0+kinit.0.1.0 (linux/amd64) kinit`, the shape of upstream's user agents
/// (`rest.DefaultKubernetesUserAgent`).
pub fn user_agent(component: &str) -> String {
    format!("{component}/{GIT_VERSION} (linux/amd64) kinit")
}
