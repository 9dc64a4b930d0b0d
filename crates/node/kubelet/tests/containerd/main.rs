//! The kubelet with a real containerd and runc, under a real API server.
//!
//! Each test has all of them to itself: a containerd with its own directories and socket, an etcd, an API server, the
//! kubelet in this process. Pods use the host's network, so that no CNI plugin touches the machine's; pod networks are
//! the end-to-end tests' affair.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod containerd;
mod endings;
mod harness;
mod image;
mod limits;
mod lives;
