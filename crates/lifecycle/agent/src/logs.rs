//! The log of a unit, from the host's journal.

use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::process::{Child, Command};

use crate::serve::Desk;
use crate::wire::Reply;

/// Which part of a log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogRequest {
    /// `kubelet.service`.
    pub unit: String,
    /// As many of the last lines; all when absent.
    pub tail: Option<u32>,
    /// Lines that are no older than so many seconds.
    pub since: Option<u64>,
    /// Go on with what is logged from now on.
    pub follow: bool,
    /// Lines of earlier boots of the host too.
    pub all_boots: bool,
}

/// Sends the lines as byte frames. With `follow` it ends when the desk goes.
pub(crate) async fn send<W: AsyncWrite + Unpin>(request: &LogRequest, desk: &mut Desk<W>) -> Result<Reply> {
    let mut child = journalctl(request)?;
    let mut lines = child.stdout.take().context("journalctl has no output")?;
    let mut buffer = vec![0u8; 32 << 10];
    loop {
        let read = tokio::select! {
            read = lines.read(&mut buffer) => read.context("read from journalctl")?,
            // The process ends with its handle.
            () = desk.gone() => bail!("the desk went away"),
        };
        if read == 0 {
            break;
        }
        desk.hand(buffer.get(..read).unwrap_or_default()).await?;
    }
    let status = child.wait().await.context("wait for journalctl")?;
    let mut complaint = String::new();
    if let Some(errors) = child.stderr.take() {
        errors.take(1 << 10).read_to_string(&mut complaint).await.context("read journalctl's errors")?;
    }
    ensure!(status.success(), "journalctl: {status}: {}", complaint.trim());
    Ok(Reply::Done)
}

/// systemd has no other reader of its journal than this program and a C library.
fn journalctl(request: &LogRequest) -> Result<Child> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-@.".contains(c);
    ensure!(request.unit.ends_with(".service") && request.unit.chars().all(plain), "{:?} is no unit", request.unit);
    let mut command = Command::new("journalctl");
    command.args(["--no-pager", "--quiet", "--output=short-iso", "--unit", &request.unit]);
    match request.tail {
        Some(tail) => command.arg(format!("--lines={tail}")),
        None => command.arg("--lines=all"),
    };
    if let Some(seconds) = request.since {
        command.arg(format!("--since=-{seconds}s"));
    }
    if !request.all_boots {
        command.arg("--boot");
    }
    if request.follow {
        command.arg("--follow");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().context("start journalctl")
}
