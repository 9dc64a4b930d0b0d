//! `cargo xtask docs`: what is written by programs in docs/.

use anyhow::{Context, Result, ensure};

use crate::run::{cargo, root};

/// Writes docs/cli.md; a test of `kinit-cli` says when it is stale.
pub fn run() -> Result<()> {
    let made = cargo()
        .args(["run", "--quiet", "--package", "kinit", "--", "reference"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("run kinit reference")?;
    ensure!(made.status.success(), "kinit reference failed");
    let file = root().join("docs/cli.md");
    std::fs::write(&file, made.stdout).with_context(|| format!("write {}", file.display()))
}
