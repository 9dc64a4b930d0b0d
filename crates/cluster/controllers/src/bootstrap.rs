//! Bootstrap tokens: the signature of `kube-public/cluster-info`, and the end of tokens' lives.
//!
//! Upstream: `k8s.io/kubernetes/pkg/controller/bootstrap`, `k8s.io/cluster-bootstrap`.

pub mod cleaner;
pub mod jws;
pub mod signer;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

/// Where the secrets of bootstrap tokens live.
pub const NAMESPACE: &str = "kube-system";
/// Type of such secrets.
pub const TYPE: &str = "bootstrap.kubernetes.io/token";

/// A field of a token's secret, as text.
pub fn field<'a>(secret: &'a Secret, name: &str) -> Option<&'a str> {
    std::str::from_utf8(&secret.data.as_ref()?.get(name)?.0).ok()
}

/// Whether this secret is a bootstrap token.
pub fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TYPE) && secret.metadata.namespace.as_deref() == Some(NAMESPACE)
}

/// When the token ends. `Err` when what it says is no time: such a token counts as expired.
pub fn expiration(secret: &Secret) -> Result<Option<Timestamp>, ()> {
    match field(secret, "expiration") {
        None | Some("") => Ok(None),
        Some(text) => text.trim().parse().map(Some).map_err(|_| ()),
    }
}

/// Whether the token is over.
pub fn is_expired(secret: &Secret, now: Timestamp) -> bool {
    match expiration(secret) {
        Ok(None) => false,
        Ok(Some(at)) => at <= now,
        Err(()) => true,
    }
}
