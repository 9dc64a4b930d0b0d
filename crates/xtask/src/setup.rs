//! What a fresh Debian machine lacks.

use std::process::Command;

use anyhow::{Context, Result};

/// For building: a C compiler and protobuf's; for the playground: everything else.
const PACKAGES: &[&str] = &[
    "gcc",
    "libc6-dev",
    "protobuf-compiler",
    "libprotobuf-dev",
    "mmdebstrap",
    "debian-archive-keyring",
    "nftables",
    "iproute2",
    "openssh-client",
    "busybox-static",
];

/// Packages that are not installed.
fn missing() -> Result<Vec<&'static str>> {
    let status =
        std::fs::read_to_string("/var/lib/dpkg/status").context("read dpkg's database; this needs Debian or Ubuntu")?;
    let installed = |name: &str| {
        status
            .split("\n\n")
            .any(|p| p.lines().any(|l| l == format!("Package: {name}")) && p.contains("\nStatus: install ok installed"))
    };
    Ok(PACKAGES.iter().copied().filter(|p| !installed(p)).collect())
}

/// Installs what is missing; does nothing, and needs no network, when all is there.
pub fn run() -> Result<()> {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing {}", missing.join(" "));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq").args(arguments);
        crate::run::run(&mut command)
    };
    apt(&["update"]).context("fetch the package index")?;
    apt(&[&["install", "-y", "--no-install-recommends"], missing.as_slice()].concat())
        .context("install packages (as root)")?;
    Ok(())
}
