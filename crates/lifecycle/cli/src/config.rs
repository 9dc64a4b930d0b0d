//! `kinit config`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use kinit_config::{Cluster, LoadError};

/// What can be done with a cluster file.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Print an example cluster file
    Init,
    /// Validate a cluster file and print every error in it
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
        Verb::Init => print(kinit_config::example())?,
        Verb::Validate { file } => {
            load(&file)?;
            say!("{} is valid", file.display());
        }
        Verb::Print { file } => print(&kinit_config::print(&load(&file)?)?)?,
    }
    Ok(())
}

/// Prints what was asked for; on a full disk that is no success. A reader that goes away had enough.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("write to standard output"),
        _ => Ok(()),
    }
}

/// Reads a cluster file.
pub fn load(file: &Path) -> Result<Cluster> {
    match kinit_config::read(file) {
        // That one names the file itself.
        Err(error @ LoadError::Read(..)) => Err(error.into()),
        other => other.with_context(|| format!("{}", file.display())),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_accepted_version_is_the_components_own() {
        let own = kinit_component_base::version::GIT_VERSION;
        assert_eq!(own.split('+').next(), Some(kinit_config::KUBERNETES_VERSION));
    }
}
