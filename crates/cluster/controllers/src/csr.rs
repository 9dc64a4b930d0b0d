//! Certificate signing requests: approved when a kubelet asks for itself, signed by the cluster's CA, swept up after a
//! while.
//!
//! Upstream: `k8s.io/kubernetes/pkg/controller/certificates`. Beyond it, `kubelet-serving` requests are approved when
//! every name and address in them is one that the Node object declares.

pub mod approve;
pub mod clean;
pub mod request;
pub mod sign;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};

/// Client certificates of kubelets.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Serving certificates of kubelets.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Client certificates of anybody.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Whatever the cluster's CA is willing to sign.
pub const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

/// Service account of these controllers.
pub const ACCOUNT: &str = "certificate-controller";

/// Whether a condition of this type is set to True.
pub fn has(csr: &CertificateSigningRequest, type_: &str) -> bool {
    conditions(csr).any(|c| c.type_ == type_ && c.status != "False")
}

/// All conditions.
pub fn conditions(csr: &CertificateSigningRequest) -> impl Iterator<Item = &CertificateSigningRequestCondition> {
    csr.status.iter().flat_map(|s| s.conditions.iter().flatten())
}

/// Whether a certificate was issued.
pub fn is_issued(csr: &CertificateSigningRequest) -> bool {
    csr.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty())
}
