//! `cargo xtask images`: the images the build makes, as archives that kinit imports on hosts.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::image::{Config, File, archive};

#[derive(clap::Args)]
pub struct Args {
    /// Take already built binaries from this directory instead of building them
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Where the archives go (default: images/ beside the build's target directory)
    #[arg(long)]
    out: Option<PathBuf>,
    /// Cargo profile to build with
    #[arg(long, default_value = "dev")]
    profile: String,
    /// Only these images
    #[arg(long, value_delimiter = ',', default_value = "pause,kube-dns")]
    only: Vec<String>,
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
const TARGET: &str = "x86_64-unknown-linux-gnu";

pub fn run(args: &Args) -> Result<()> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let out = args.out.clone().unwrap_or_else(|| target.join("images"));
    std::fs::create_dir_all(&out).with_context(|| format!("make {}", out.display()))?;
    for name in &args.only {
        ensure!(matches!(name.as_str(), "pause" | "kube-dns"), "there is no image named {name}");
        let binary = match &args.bin_dir {
            Some(dir) => dir.join(name),
            None => build(&target, name, &args.profile)?,
        };
        let file = out.join(format!("{name}.tar"));
        write(&file, &make(name, &binary)?)?;
        println!("{}", file.display());
    }
    Ok(())
}

fn build(target: &Path, name: &str, profile: &str) -> Result<PathBuf> {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", name, "--profile", profile])
        .status()
        .with_context(|| format!("start cargo to build {name}"))?;
    ensure!(status.success(), "cargo build --package {name} failed");
    let directory = if profile == "dev" { "debug" } else { profile };
    Ok(target.join(TARGET).join(directory).join(name))
}

/// The archive of `kinit.dev/NAME`, around one static binary.
pub fn make(name: &str, binary: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(binary).with_context(|| format!("read {}", binary.display()))?;
    let path = format!("/{name}");
    let reference = format!("kinit.dev/{name}:{VERSION}");
    // Upstream's pause and CoreDNS run as nobody; DNS binds port 53 with the capability its Deployment gives it.
    let user = if name == "pause" { "65535:65535" } else { "65532:65532" };
    let files = [File { path: &path, mode: 0o755, bytes: &bytes }];
    archive(&files, &Config { reference: &reference, entrypoint: &[&path], user, ..Config::default() })
}

/// Writes a file whole or not at all.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tar.tmp");
    std::fs::write(&temporary, bytes).with_context(|| format!("write {}", temporary.display()))?;
    std::fs::rename(&temporary, path).with_context(|| format!("rename to {}", path.display()))
}
