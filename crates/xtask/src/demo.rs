//! `cargo xtask demo`: the README's first command.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::run::run as start;
use crate::{bundle, setup};

/// From nothing to pods that talk to each other.
pub fn run() -> Result<()> {
    setup::run()?;
    eprintln!("building kinit and its components; the first time this takes some minutes");
    let bundle = bundle::for_tests()?;
    let kinit = |arguments: &[&str]| start(Command::new(bundle.join("kinit")).args(arguments));
    kinit(&["playground", "up"])?;
    let file = Path::new("/var/lib/kinit/playgrounds/default/cluster.yaml");
    kinit(&["init", "-f", &file.display().to_string()])?;
    kinit(&["playground", "demo"])
}
