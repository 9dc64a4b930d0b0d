//! Names that several components have to agree on (`k8s.io/api/core/v1/annotation_key_constants.go`).

/// Annotation of a mirror pod: what the kubelet that made it runs from a file.
pub const MIRROR_POD: &str = "kubernetes.io/config.mirror";
