//! The command line: a tree of verbs, their output, exit codes and hints.

mod command;
mod playground;

pub use command::main;
