//! Nodes: their pod CIDRs, their health, and what becomes of pods on lost ones.
//!
//! Upstream: `k8s.io/kubernetes/pkg/controller/nodeipam`, `nodelifecycle`, `tainteviction`.

pub mod cidrs;
pub mod eviction;
pub mod health;
pub mod ipam;
pub mod lifecycle;
pub mod observer;
pub mod pace;
pub mod taints;

/// Service account of these controllers.
pub const ACCOUNT: &str = "node-controller";
