//! A single etcd.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::free_port;

/// A running etcd; it ends with this value.
#[derive(Debug)]
pub struct TestEtcd {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub endpoint: String,
    _dir: Option<tempfile::TempDir>,
}

/// Compacts etcd's history up to `revision`, as a server's own compaction would after minutes.
pub async fn compact(endpoint: &str, revision: u64) -> Result<()> {
    let (endpoint, body) = (endpoint.to_owned(), format!("{{\"revision\":\"{revision}\",\"physical\":true}}"));
    tokio::task::spawn_blocking(move || {
        let address = endpoint.trim_start_matches("http://");
        let mut stream = std::net::TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        write!(
            stream,
            "POST /v3/kv/compaction HTTP/1.1\r\nhost: etcd\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("read etcd's answer")?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "etcd did not compact: {answer}");
        Ok(())
    })
    .await?
}

impl TestEtcd {
    /// Starts one with its data in a temporary directory.
    pub fn start() -> Result<Self> {
        let dir = tempfile::tempdir().context("make a directory for etcd")?;
        let mut etcd = Self::start_in(dir.path(), free_port()?)?;
        etcd._dir = Some(dir);
        Ok(etcd)
    }

    /// Starts one with its data in `dir` and its client port at `port`.
    pub fn start_in(dir: &Path, port: u16) -> Result<Self> {
        let endpoint = format!("http://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{}", free_port()?);
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let log = std::fs::File::create(dir.join("etcd.log")).context("make etcd's log")?;
        let child = Command::new("etcd")
            .args(["--name=test", "--log-level=warn", "--unsafe-no-fsync", "--snapshot-count=10000"])
            .arg(format!("--data-dir={}", dir.join("data").display()))
            .arg(format!("--listen-client-urls={endpoint}"))
            .arg(format!("--advertise-client-urls={endpoint}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=test={peer}"))
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context(
                "start etcd: it must be in PATH; `cargo xtask test` brings one, Debian's package is etcd-server",
            )?;
        let mut etcd = Self { child, endpoint, _dir: None };
        etcd.wait(port, dir)?;
        Ok(etcd)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn wait(&mut self, port: u16, dir: &Path) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(15);
        while Instant::now() < deadline {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(dir.join("etcd.log")).unwrap_or_default();
                bail!("etcd ended at once with {status}: {log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("etcd does not listen after 15 s")
    }
}

impl Drop for TestEtcd {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
