//! SSH by russh.

use std::borrow::Cow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use russh::client::{self, AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{ChannelMsg, Preferred};
use russh_sftp::client::SftpSession;
use russh_sftp::protocol::{FileAttributes, OpenFlags};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::Transport;
use crate::hostkey::{HostKeyPolicy, HostKeyProblem};
use crate::process::{Outcome, Process, Tail};

/// Where to connect, as whom.
#[derive(Clone)]
pub struct Target {
    /// Name or address.
    pub address: String,
    /// Port.
    pub port: u16,
    /// User.
    pub user: String,
    /// Private key; without one, and besides it, the SSH agent's keys are tried.
    pub identity: Option<PathBuf>,
    /// Whom to believe.
    pub host_key: HostKeyPolicy,
    /// How long connecting may take, handshake and login included.
    pub timeout: Duration,
}

const KEEPALIVE: Duration = Duration::from_secs(5);
/// How long a host may take over one thing that is quick on a host that is well: a channel, a file's rename, one chunk
/// of it.
const STALL: Duration = Duration::from_secs(60);
const CHUNK: usize = 128 << 10;

/// Gives up on a host that answers keepalives and nothing else.
async fn within<T, E>(what: &str, work: impl Future<Output = std::result::Result<T, E>>) -> Result<T>
where
    std::result::Result<T, E>: Context<T, E>,
{
    let ended = tokio::time::timeout(STALL, work).await;
    ended.map_err(|_| anyhow!("{what}: the host did not answer within {} s", STALL.as_secs()))?.context(what.to_owned())
}

/// Connects and logs in.
pub async fn connect(target: &Target) -> Result<Box<dyn Transport>> {
    let (address, port) = (&target.address, target.port);
    let connecting = async {
        let problem = Arc::new(Mutex::new(None));
        let check = Check { target: target.clone(), problem: problem.clone() };
        let connected = client::connect(Arc::new(config(target)?), (address.as_str(), port), check).await;
        let refused = problem.lock().ok().and_then(|mut p| p.take());
        if let Some(problem) = refused {
            return Err(anyhow::Error::new(problem).context(format!("connect to {address}:{port}")));
        }
        let mut handle = connected.with_context(|| format!("connect to {address}:{port}"))?;
        log_in(&mut handle, target).await?;
        Ok(Box::new(Ssh { handle }) as Box<dyn Transport>)
    };
    tokio::time::timeout(target.timeout, connecting)
        .await
        .map_err(|_| anyhow!("connect to {address}:{port}: no answer within {} s", target.timeout.as_secs()))?
}

fn config(target: &Target) -> Result<client::Config> {
    let mut preferred = Preferred::default();
    // Ask for a kind of key that is known first: a host with several must not look like a stranger.
    let mut first = target.host_key.read()?.algorithms(&target.address, target.port);
    first.extend(preferred.key.iter().cloned());
    preferred.key = Cow::Owned(first);
    Ok(client::Config {
        preferred,
        nodelay: true,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 3,
        window_size: 8 << 20,
        ..client::Config::default()
    })
}

struct Check {
    target: Target,
    problem: Arc<Mutex<Option<HostKeyProblem>>>,
}

impl client::Handler for Check {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else { return Ok(false) };
        // A question to the user may take minutes; in this task it would hold one of the runtime's threads, and with
        // several hosts all of them: heartbeats to the hosts that are connected already would stop.
        let (target, key) = (self.target.clone(), key.clone());
        let judging = tokio::task::spawn_blocking(move || target.host_key.judge(&target.address, target.port, &key));
        let Ok(judged) = judging.await else { return Ok(false) };
        let trusted = judged.is_ok();
        if let (Err(problem), Ok(mut slot)) = (judged, self.problem.lock()) {
            *slot = Some(problem);
        }
        Ok(trusted)
    }
}

async fn log_in(handle: &mut Handle<Check>, target: &Target) -> Result<()> {
    let mut tried = Vec::new();
    if let Some(path) = &target.identity {
        refuse_open_key(path)?;
        let key = russh::keys::load_secret_key(path, None).with_context(|| {
            format!("read the SSH key {} (a key with a passphrase must be in the SSH agent)", path.display())
        })?;
        let hash = handle.best_supported_rsa_hash().await.ok().flatten().flatten();
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
        if accepted(&handle.authenticate_publickey(&target.user, key).await.context("log in")?) {
            return Ok(());
        }
        tried.push(path.display().to_string());
    }
    if let Ok(mut agent) = AgentClient::connect_env().await {
        for identity in agent.request_identities().await.context("ask the SSH agent for its keys")? {
            let AgentIdentity::PublicKey { key, comment } = identity else { continue };
            let hash = handle.best_supported_rsa_hash().await.ok().flatten().flatten();
            if let Ok(answer) = handle.authenticate_publickey_with(&target.user, key, hash, &mut agent).await
                && accepted(&answer)
            {
                return Ok(());
            }
            tried.push(format!("{comment} (agent)"));
        }
    }
    if tried.is_empty() {
        bail!("log in as {}: no key to try; set ssh.identityFile, or start an SSH agent", target.user);
    }
    bail!("log in as {}: the host accepts none of these keys: {}", target.user, tried.join(", "))
}

/// A private key that others can read is none any more: refused, as ssh(1) does.
fn refuse_open_key(path: &Path) -> Result<()> {
    let metadata = std::fs::metadata(path).with_context(|| format!("read the SSH key {}", path.display()))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.display();
        bail!("the SSH key {path} is open to others (mode {mode:04o}); `chmod 600 {path}`");
    }
    Ok(())
}

fn accepted(answer: &AuthResult) -> bool {
    matches!(answer, AuthResult::Success)
}

/// A connection. russh's task for it ends, and closes it, when this handle and the writers of all its channels are
/// dropped.
struct Ssh {
    handle: Handle<Check>,
}

#[async_trait::async_trait]
impl Transport for Ssh {
    async fn exec(&self, command: &str) -> Result<Process> {
        let channel = within("open an SSH channel", self.handle.channel_open_session()).await?;
        within(&format!("start {command}"), channel.exec(true, command)).await?;
        let (mut read, write) = channel.split();
        let (stdout, mut feed) = tokio::io::duplex(1 << 20);
        let (sender, outcome) = watch::channel(None);
        let stderr = Tail::default();
        let tail = stderr.clone();
        tokio::spawn(async move {
            let mut status = None;
            while let Some(message) = read.wait().await {
                match message {
                    ChannelMsg::Data { data } => {
                        let delivered = feed.write_all(&data).await;
                        if delivered.is_err() {
                            break;
                        }
                    }
                    ChannelMsg::ExtendedData { data, .. } => tail.push(&data),
                    ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
                    _ => {}
                }
            }
            sender.send_replace(Some(Outcome { status }));
        });
        Ok(Process { stdin: Box::new(write.make_writer()), stdout: Box::new(stdout), outcome, stderr })
    }

    async fn put(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let channel = within("open an SSH channel", self.handle.channel_open_session()).await?;
        within("start SFTP on the host", channel.request_subsystem(true, "sftp")).await?;
        let sftp = within(
            "start SFTP on the host (does its shell print something, or has sshd no sftp subsystem?)",
            SftpSession::new(channel.into_stream()),
        )
        .await?;
        let temporary = format!("{path}.new");
        let attributes = FileAttributes { permissions: Some(mode), ..FileAttributes::empty() };
        let flags = OpenFlags::CREATE | OpenFlags::TRUNCATE | OpenFlags::WRITE;
        let opened = sftp.open_with_flags_and_attributes(temporary.as_str(), flags, attributes);
        let mut file = within(&format!("create {temporary}"), opened).await?;
        let writing = format!("write {temporary} (is its file system full?)");
        let written = async {
            for chunk in bytes.chunks(CHUNK) {
                within(&writing, file.write_all(chunk)).await?;
            }
            within(&writing, file.shutdown()).await
        };
        if let Err(error) = written.await {
            // Half a program would keep a full file system full.
            tokio::time::timeout(STALL, sftp.remove_file(temporary.as_str())).await.ok();
            return Err(error);
        }
        // SFTP's rename does not replace.
        tokio::time::timeout(STALL, sftp.remove_file(path)).await.ok();
        within(&format!("rename {temporary} to {path}"), sftp.rename(temporary.as_str(), path)).await
    }
}
