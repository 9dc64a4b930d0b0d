//! The container runtime, as the kubelet sees it: CRI v1 over a unix socket.
//!
//! ```text
//! proto/api.proto ── build.rs ──> v1 (messages, raw clients)
//!                                  └─ Runtime: one method a call, each with its own deadline, errors name the call
//! ```
//!
//! The interface definition is upstream's (`k8s.io/cri-api`), kept with its licence header.

mod client;

pub use client::{CriError, Observer, Runtime};
pub use tonic::Code;

/// Messages and raw clients generated from the interface definition.
#[allow(clippy::all, missing_docs)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

impl std::fmt::Debug for v1::AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}
