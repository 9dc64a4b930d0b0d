//! Controllers that keep pods running: Deployments, ReplicaSets, and their kin.

pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod expectations;
pub mod job;
pub mod owned;
pub mod pods;
pub mod rank;
pub mod replicaset;
pub mod revisions;
pub mod statefulset;
pub mod written;
