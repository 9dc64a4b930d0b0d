//! An etcd for a moment, on a copy of the data, that nobody but this process can reach: it listens on the loopback
//! interface, with certificates of an authority that is made for it and thrown away.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kinit_etcd_connect::etcd_client::Client;
use kinit_etcd_connect::{Etcd, Options};
use kinit_pki::{KeyAlgorithm, Subject, Usage};
use time::OffsetDateTime;
use tokio::process::{Child, Command};

use crate::files;
use crate::ledger::{HOME, Ledger};

/// A restore of a gigabyte takes seconds; a disk that needs longer than this is none to rely on.
const RESTORE: Duration = Duration::from_secs(1800);
const START: Duration = Duration::from_secs(120);
/// What the only member says of itself; nobody asks it there.
const PEER: &str = "https://127.0.0.1:2380";
/// How often etcd is started when others take its ports.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);

/// A folder that only this user may look into, removed with this value.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// One below kinit's own on a host.
    pub(crate) fn on_host() -> Result<Self> {
        Ledger::note_path(HOME)?;
        let home = Path::new(HOME).join("scratch");
        std::fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
        clear_leftovers(&home);
        Self::below(&home)
    }

    /// One below that folder.
    pub(crate) fn below(folder: &Path) -> Result<Self> {
        let path =
            folder.join(format!("{}-{:x}", std::process::id(), OffsetDateTime::now_utc().unix_timestamp_nanos()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("{} is left: {error}", self.0.display());
        }
    }
}

/// Removes folders of processes that were killed.
fn clear_leftovers(home: &Path) {
    for entry in std::fs::read_dir(home).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.split('-').next()).unwrap_or_default();
        if !Path::new("/proc").join(process).exists() {
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
}

/// A running one; it ends with this value.
pub(crate) struct Scratch {
    process: Child,
    log: PathBuf,
    /// Talks to it.
    pub(crate) client: Client,
}

/// A program that yields to everything else on the host.
fn quietly(program: &str) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "19", program]);
    command
}

/// Makes a member's data from a snapshot, as etcd's own tool does it.
pub(crate) async fn etcdutl(snapshot: &Path, to: &Path, arguments: &[String]) -> Result<()> {
    let mut command = quietly("etcdutl");
    command.args(["snapshot", "restore"]).arg(snapshot).arg("--data-dir").arg(to).args(arguments);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(RESTORE, command.output()).await;
    let output = output.map_err(|_| anyhow::anyhow!("etcdutl did not end within {} s", RESTORE.as_secs()))?;
    let output = output.context("start etcdutl, which is in Debian's package etcd-server (3.5 or later)")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let hint =
        if output.status.code() == Some(127) { " (it is in Debian's package etcd-server, 3.5 or later)" } else { "" };
    bail!("etcdutl could not restore the snapshot: {last}{hint}")
}

impl Scratch {
    /// Restores a snapshot below that folder and starts an etcd on it. Revisions stay as they are.
    pub(crate) async fn start(snapshot: &Path, folder: &Path) -> Result<Self> {
        let initial = format!("scratch={PEER}");
        let arguments = ["--name=scratch", "--initial-cluster", &initial, "--initial-advertise-peer-urls", PEER];
        etcdutl(snapshot, &folder.join("data"), &arguments.map(str::to_owned)).await?;
        certificates(folder)?;
        let mut attempts = 1;
        loop {
            match Self::run(folder).await {
                // Somebody else got the port between the look for a free one and etcd's start.
                Err(error) if attempts < ATTEMPTS && format!("{error:#}").contains("address already in use") => {
                    attempts += 1;
                }
                other => return other,
            }
        }
    }

    /// Starts etcd on the data of that folder.
    async fn run(folder: &Path) -> Result<Self> {
        let data = folder.join("data");
        let initial = format!("scratch={PEER}");
        let peer = format!("https://127.0.0.1:{}", free_port()?);
        let endpoint = format!("https://127.0.0.1:{}", free_port()?);
        let log = folder.join("log");
        let file = std::fs::File::create(&log).context("make the scratch etcd's log")?;
        let pki = |name: &str| folder.join(name).display().to_string();
        let mut command = quietly("etcd");
        command.arg("--data-dir").arg(&data).args(["--name=scratch", "--log-level=warn", "--unsafe-no-fsync"]);
        command.args(["--initial-cluster", &initial, "--initial-advertise-peer-urls", PEER]);
        command.args(["--listen-peer-urls", &peer, "--listen-client-urls", &endpoint]);
        command.args(["--advertise-client-urls", &endpoint, "--quota-backend-bytes", "17179869184"]);
        for (prefix, name) in [("", "both"), ("peer-", "both")] {
            command.arg(format!("--{prefix}cert-file={}", pki(&format!("{name}.crt"))));
            command.arg(format!("--{prefix}key-file={}", pki(&format!("{name}.key"))));
            command.arg(format!("--{prefix}trusted-ca-file={}", pki("ca.crt")));
            command.arg(format!("--{prefix}client-cert-auth=true"));
        }
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
        let process = command.spawn().context("start etcd: is it installed?")?;
        let options = Options {
            endpoints: vec![endpoint],
            ca_file: Some(folder.join("ca.crt")),
            cert_file: Some(folder.join("both.crt")),
            key_file: Some(folder.join("both.key")),
            without_leader: false,
        };
        let client = Etcd::connect(options).await?.client().await?;
        let mut scratch = Self { process, log, client };
        scratch.wait().await?;
        Ok(scratch)
    }

    async fn wait(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            if let Ok(Ok(status)) = tokio::time::timeout(Duration::from_secs(2), self.client.status()).await
                && status.leader() != 0
            {
                return Ok(());
            }
            let ended = self.process.try_wait().context("look at the scratch etcd")?;
            if ended.is_some() || begun.elapsed() > START {
                let said = std::fs::read_to_string(&self.log).unwrap_or_default();
                let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
                ensure!(ended.is_none(), "an etcd does not start on the restored data: {last}");
                bail!("an etcd on the restored data is not ready within {} s: {last}", START.as_secs());
            }
            // It has no way to tell that it is ready that would not be asked for.
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ends it.
    pub(crate) async fn stop(mut self) {
        self.process.kill().await.ok();
    }
}

fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

/// An authority for an hour or so, and one certificate for both ends.
fn certificates(folder: &Path) -> Result<()> {
    let (kind, now) = (KeyAlgorithm::EcdsaP256, OffsetDateTime::now_utc());
    let authority = kinit_pki::new_authority("scratch", kind, 1, now).context("make the scratch etcd's authority")?;
    let subject = Subject {
        common_name: "scratch".to_owned(),
        organization: None,
        usages: vec![Usage::Server, Usage::Client],
        dns: vec!["localhost".to_owned()],
        ips: vec![std::net::Ipv4Addr::LOCALHOST.into()],
        days: 1,
    };
    let key = kinit_pki::new_key(kind).context("make the scratch etcd's key")?;
    let request = kinit_pki::request(&key, &subject).context("make the scratch etcd's certificate")?;
    let certificate =
        kinit_pki::issue(&authority, &request, &subject, now).context("make the scratch etcd's certificate")?;
    for (name, text) in [("ca.crt", &authority.cert), ("both.crt", &certificate), ("both.key", &key)] {
        let path = folder.join(name).display().to_string();
        files::write_own(&path, text.as_bytes())?;
    }
    Ok(())
}
