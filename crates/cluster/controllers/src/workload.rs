//! Controllers that keep pods running: Deployments, ReplicaSets, and their kin.

pub mod deployment;
pub mod expectations;
pub mod pods;
pub mod rank;
pub mod replicaset;
