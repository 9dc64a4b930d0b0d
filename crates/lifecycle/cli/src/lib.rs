//! The command line: a tree of verbs, their output, exit codes and hints.
//!
//! ```text
//! kinit init|reset -f cluster.yaml      a cluster's beginning and end
//! kinit plan|apply|join|remove          its changes
//! kinit status, kinit etcd ...          looking at it and after it
//! kinit config init|validate|print      the cluster file
//! kinit playground ...                  hosts to try things on
//! kinit host-agent                      what kinit runs of itself on hosts
//! ```

#![deny(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod say;
mod terminal;

mod change;
mod cluster;
mod command;
mod config;
mod demo;
mod desk;
mod errors;
mod etcd;
mod login;
mod playground;
mod progress;
mod reference;
mod status;

pub use command::main;
