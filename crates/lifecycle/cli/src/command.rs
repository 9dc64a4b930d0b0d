//! The tree of commands.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::playground;

/// Turns Linux machines with SSH and root into a highly available Kubernetes cluster, and looks after it.
#[derive(Parser, Debug)]
#[command(name = "kinit", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Hosts on this machine to try things on: boot, unplug, partition, throw away
    #[command(subcommand)]
    Playground(playground::Verb),
}

/// Reads the command line, does what it says, and tells how it went: 0 done, 1 failed, 2 wrong usage.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.verb {
        Verb::Playground(verb) => playground::run(verb),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
