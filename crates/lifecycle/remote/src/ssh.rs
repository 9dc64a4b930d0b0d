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
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::desk::{Prompt, Questions};
use crate::hostkey::{HostKeyPolicy, HostKeyProblem};
use crate::process::{Outcome, Process, Tail};
use crate::sudo::{Sudo, SudoPassword};
use crate::{Transport, upload};

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
/// How long a host may take over one thing that is quick on a host that is well: a channel, one chunk of a file, sudo's
/// start.
pub(crate) const STALL: Duration = Duration::from_secs(60);

/// Gives up on a host that answers keepalives and nothing else.
async fn within<T, E>(what: &str, work: impl Future<Output = std::result::Result<T, E>>) -> Result<T>
where
    std::result::Result<T, E>: Context<T, E>,
{
    let ended = tokio::time::timeout(STALL, work).await;
    ended.map_err(|_| anyhow!("{what}: the host did not answer within {} s", STALL.as_secs()))?.context(what.to_owned())
}

/// The desk's end of all connections of a run: what it was told once is not asked for again.
#[derive(Clone)]
pub struct Desk {
    sudo_password: SudoPassword,
    questions: Questions,
}

impl Desk {
    /// `prompt` is asked for secrets when a host or a key wants one.
    pub fn new(prompt: Arc<dyn Prompt>) -> Self {
        let questions = Questions::default();
        Self { sudo_password: SudoPassword::new(prompt, questions.clone()), questions }
    }

    /// Connects and logs in. Programs are started by sudo unless the user is root.
    pub async fn connect(&self, target: &Target) -> Result<Box<dyn Transport>> {
        let (address, port) = (&target.address, target.port);
        let connecting = async {
            let problem = Arc::new(Mutex::new(None));
            let check = Check { target: target.clone(), problem: problem.clone(), questions: self.questions.clone() };
            let connected = client::connect(Arc::new(config(target)?), (address.as_str(), port), check).await;
            let refused = problem.lock().ok().and_then(|mut p| p.take());
            if let Some(problem) = refused {
                return Err(anyhow::Error::new(problem).context(format!("connect to {address}:{port}")));
            }
            let mut handle = connected.with_context(|| format!("connect to {address}:{port}"))?;
            log_in(&mut handle, target).await?;
            Ok(Ssh { handle })
        };
        let connected = self.questions.patient(target.timeout, connecting).await;
        let ssh: Box<dyn Transport> = Box::new(connected.ok_or_else(|| {
            anyhow!("connect to {address}:{port}: no answer within {} s", target.timeout.as_secs())
        })??);
        if target.user == "root" {
            return Ok(ssh);
        }
        let (password, questions) = (self.sudo_password.clone(), self.questions.clone());
        Ok(Box::new(Sudo { inner: ssh, user: target.user.clone(), password, questions }))
    }
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
    questions: Questions,
}

impl client::Handler for Check {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else { return Ok(false) };
        let (target, key) = (self.target.clone(), key.clone());
        let judging = self.questions.ask(move || target.host_key.judge(&target.address, target.port, &key));
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
        upload::put(self, path, bytes, mode, STALL).await
    }
}
