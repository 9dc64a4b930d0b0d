//! `kinit config`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use kinit_config::{Cluster, LoadError};

/// What can be done with a cluster file.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Print an example to start from
    Init,
    /// Check a cluster file; say everything that is wrong with it
    Validate {
        /// The cluster file
        #[arg(short = 'f', long = "file", value_name = "FILE")]
        file: PathBuf,
    },
    /// Print a cluster file with all defaults filled in
    Print {
        /// The cluster file
        #[arg(short = 'f', long = "file", value_name = "FILE")]
        file: PathBuf,
    },
}

/// Does it.
pub fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Init => show!(kinit_config::example()),
        Verb::Validate { file } => {
            load(&file)?;
            say!("{} is valid", file.display());
        }
        Verb::Print { file } => show!(kinit_config::print(&load(&file)?)?),
    }
    Ok(())
}

/// Reads a cluster file.
pub fn load(file: &Path) -> Result<Cluster> {
    match kinit_config::read(file) {
        // That one names the file itself.
        Err(error @ LoadError::Read(..)) => Err(error.into()),
        other => other.with_context(|| format!("{}", file.display())),
    }
}
