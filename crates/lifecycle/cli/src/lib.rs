//! The command line: a tree of verbs, their output, exit codes and hints.
//!
//! ```text
//! kinit init|reset -f cluster.yaml      a cluster's beginning and end
//! kinit plan|apply|join|remove          its changes
//! kinit upgrade, kinit bundle           other versions, and what they are installed from
//! kinit status|doctor|logs|history|etcd|support-bundle  looking at it and after it
//! kinit token, kinit kubeconfig         who gets in
//! kinit restore                         a cluster from its backup
//! kinit backup ...                      backups: made, listed, checked, looked into
//! kinit config init|validate|print      the cluster file
//! kinit playground ...                  hosts to try things on
//! kinit host-agent                      what kinit runs of itself on hosts
//! ```

#![deny(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod say;

mod backup;
mod bundle;
mod certs;
mod change;
mod cluster;
mod command;
mod config;
mod demo;
mod desk;
mod doctor;
mod duration;
mod errors;
mod etcd;
mod join;
mod keys;
mod kubeconfig;
mod login;
mod logs;
mod playground;
mod progress;
mod reference;
mod requests;
mod restore;
mod rotate;
mod status;
mod support;
mod terminal;
mod token;
mod upgrade;

pub use command::main;
