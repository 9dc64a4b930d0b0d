//! What components have to read from API objects in one way (`k8s.io/component-helpers`). Pure, no IO, no clock.
//!
//! ```text
//! Pod ──┬─ pod            phase, conditions, readiness
//!       ├─ requests       what all its containers ask for together
//!       ├─ qos            its class of service
//!       ├─ quota          what a ResourceQuota counts of it (and of Services, claims)
//!       ├─ storage        its claims, and the volumes that fit them
//!       ├─ node_affinity  the nodes that it selects ◄── Node: name, labels
//!       └─ taints         whether it tolerates     ◄── Node: taints
//! ```

pub mod node_affinity;
pub mod pod;
pub mod qos;
pub mod quota;
pub mod requests;
pub mod storage;
pub mod taints;
