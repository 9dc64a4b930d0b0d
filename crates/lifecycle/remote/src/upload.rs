//! A file onto a host over the standard input of a program there.
//!
//! SFTP would need sshd's subsystem, and a login shell that prints nothing; this needs neither, and goes through sudo
//! as anything else does.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use aws_lc_rs::digest;
use tokio::io::AsyncWriteExt;

use crate::{Process, Transport};

/// What runs on the host: arguments are the path, the length, the SHA-256 and the mode. The temporary file is new and
/// its writer's alone, whatever the umask; the hash is of what arrived, by the user who will run it. Only `"` inside:
/// the script stands between `'`, which every login shell takes as they are.
const SCRIPT: &str = concat!(
    "umask 077; t=$1.$$; trap \"rm -f $t\" EXIT; rm -f \"$t\"; set -C; trap \"exit 1\" HUP INT TERM PIPE; ",
    "head -c \"$2\" > \"$t\" || exit 1; ",
    "echo \"$3  $t\" | sha256sum -c --status || { echo \"the copy has another SHA-256\" >&2; exit 1; }; ",
    "chmod \"$4\" \"$t\" && sync \"$t\" && mv -f \"$t\" \"$1\""
);

const CHUNK: usize = 128 << 10;

/// Writes a file as the trait's `put` says; `path` is made of letters, digits and `/-_.` alone.
pub(crate) async fn put(host: &dyn Transport, path: &str, bytes: &[u8], mode: u32, stall: Duration) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.".contains(c);
    if !path.starts_with('/') || !path.chars().all(plain) {
        bail!("{path:?} is not a plain absolute path");
    }
    let hash: String = digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let command = format!("/bin/sh -c '{SCRIPT}' kinit {path} {} {hash} {mode:o}", bytes.len());
    let mut process = host.exec(&command).await?;
    let written = write(&mut process, path, bytes, stall).await;
    // A program that ended early is the cause of a write that failed, and says why.
    let ended = tokio::time::timeout(stall, process.ended()).await;
    let complaint = process.complaint();
    match (ended.map(|outcome| outcome.status), written) {
        (Ok(Some(0)), Ok(())) => Ok(()),
        (Ok(Some(status)), _) if status != 0 => {
            bail!("write {path}: exit status {status}: {complaint}")
        }
        (_, Err(error)) => Err(error.context(complaint)),
        (ended, Ok(())) => bail!("write {path}: the host did not say that it is there ({ended:?}) {complaint}"),
    }
}

async fn write(process: &mut Process, path: &str, bytes: &[u8], stall: Duration) -> Result<()> {
    let slow = |_| anyhow!("write {path}: the host did not take a byte within {} s", stall.as_secs());
    for chunk in bytes.chunks(CHUNK) {
        let sent = tokio::time::timeout(stall, process.stdin.write_all(chunk)).await;
        sent.map_err(slow)?.with_context(|| format!("write {path}"))?;
    }
    let closed = tokio::time::timeout(stall, process.stdin.shutdown()).await;
    closed.map_err(slow)?.with_context(|| format!("write {path}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::Local;

    #[tokio::test]
    async fn a_file_arrives_whole_with_its_mode_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent-1").display().to_string();
        let stall = Duration::from_secs(20);
        let bytes: Vec<u8> = (0..1_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
        for _ in 0..2 {
            put(&Local, &path, &bytes, 0o700, stall).await.unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
        }
        // No room: what began is removed, what was there stays, the host's own words are told.
        let full = dir.path().join("full");
        std::fs::create_dir(&full).unwrap();
        let mounted =
            nix::mount::mount(Some("none"), &full, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=64k"));
        if mounted.is_ok() {
            let error = put(&Local, &format!("{}/x", full.display()), &bytes, 0o700, stall).await.unwrap_err();
            let left = std::fs::read_dir(&full).unwrap().count();
            nix::mount::umount(&full).unwrap();
            assert!(format!("{error:#}").contains("No space left on device"), "{error:#}");
            assert_eq!(left, 0);
        }
        let error = put(&Local, "/nowhere/x", b"", 0o700, stall).await.unwrap_err();
        assert!(error.to_string().contains("/nowhere/x"), "{error:#}");
        for wrong in ["x", "/a b", "/$(reboot)", "/a'b"] {
            assert!(put(&Local, wrong, b"", 0o700, stall).await.is_err());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
