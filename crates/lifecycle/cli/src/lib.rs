//! The command line: a tree of verbs, their output, exit codes and hints.
//!
//! ```text
//! kinit init|reset -f cluster.yaml      clusters
//! kinit config init|validate|print      the cluster file
//! kinit playground ...                  hosts to try things on
//! kinit host-agent                      what kinit runs of itself on hosts
//! ```

#![deny(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod say;
mod terminal;

mod cluster;
mod command;
mod config;
mod demo;
mod desk;
mod errors;
mod login;
mod playground;
mod progress;
mod reference;

pub use command::main;
