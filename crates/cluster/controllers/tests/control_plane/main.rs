//! Controllers against a real API server and a real etcd.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod autoscale;
mod endings;
mod garbage;
mod harness;
mod job;
mod measured;
mod metrics;
mod sets;
mod storage;
