//! The desk itself as a host: the same agent without SSH.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;

use anyhow::{Context, Result};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::watch;

use crate::Transport;
use crate::process::{Outcome, Process, Tail};

/// This machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Local;

#[async_trait::async_trait]
impl Transport for Local {
    async fn exec(&self, command: &str) -> Result<Process> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("exec {command}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {command}"))?;
        let (stdin, stdout) = (child.stdin.take().context("no stdin")?, child.stdout.take().context("no stdout")?);
        let mut errors = child.stderr.take().context("no stderr")?;
        let (sender, outcome) = watch::channel(None);
        let stderr = Tail::default();
        let tail = stderr.clone();
        tokio::spawn(async move {
            let mut buffer = [0u8; 1024];
            while let Ok(n @ 1..) = errors.read(&mut buffer).await {
                tail.push(buffer.get(..n).unwrap_or_default());
            }
            let status = child.wait().await.ok().and_then(|s| s.code()).and_then(|c| u32::try_from(c).ok());
            sender.send_replace(Some(Outcome { status }));
        });
        Ok(Process { stdin: Box::new(stdin), stdout: Box::new(stdout), outcome, stderr })
    }

    async fn put(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let temporary = format!("{path}.new");
        let write = || -> std::io::Result<()> {
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&temporary, path)
        };
        write().with_context(|| format!("write {path}"))
    }
}
