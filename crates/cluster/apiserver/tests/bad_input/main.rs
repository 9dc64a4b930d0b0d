//! What the server says to broken requests, on a real etcd, over HTTP/1.1 and HTTP/2: upstream's code, reason and
//! words.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bodies;
mod client;
mod mutants;
mod options;
mod patches;
mod paths;
mod writes;
