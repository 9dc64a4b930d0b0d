//! SSH by russh: one connection.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use russh::client::{self, DisconnectReason, Handle};
use russh::keys::PublicKeyOrCertificate;
use russh::{ChannelMsg, Preferred};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use crate::connect::Link;
use crate::desk::Questions;
use crate::hostkey::HostKeyProblem;
use crate::keyring::Keyring;
use crate::login::{Farewell, log_in};
use crate::process::{Outcome, Process, Tail};
use crate::route::Hop;
use crate::{Transport, upload};

const KEEPALIVE: Duration = Duration::from_secs(5);
/// How long a host may take over one thing that is quick on a host that is well: a channel, one chunk of a file, sudo's
/// start.
pub(crate) const STALL: Duration = Duration::from_secs(60);

/// Gives up on a host that answers keepalives and nothing else.
pub(crate) async fn within<T, E>(what: &str, work: impl Future<Output = std::result::Result<T, E>>) -> Result<T>
where
    std::result::Result<T, E>: Context<T, E>,
{
    let ended = tokio::time::timeout(STALL, work).await;
    ended.map_err(|_| anyhow!("{what}: the host did not answer within {} s", STALL.as_secs()))?.context(what.to_owned())
}

/// Connects over a stream, a TCP connection when there is none, and logs in.
pub(crate) async fn open(hop: &Hop, over: Option<Box<dyn Stream>>, desk: &Access) -> Result<Handle<Check>> {
    let check = Check {
        hop: hop.clone(),
        problem: Arc::default(),
        farewell: Farewell::default(),
        questions: desk.questions.clone(),
    };
    let (problem, farewell) = (check.problem.clone(), check.farewell.clone());
    let config = Arc::new(config(hop)?);
    let connected = match over {
        Some(stream) => client::connect_stream(config, stream, check).await,
        None => client::connect(config, (hop.address.as_str(), hop.port), check).await,
    };
    let refused = problem.lock().ok().and_then(|mut p| p.take());
    if let Some(problem) = refused {
        return Err(problem.into());
    }
    let mut handle = connected?;
    log_in(&mut handle, hop, &desk.keyring, &farewell).await?;
    Ok(handle)
}

/// What logging in needs of the desk.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) questions: Questions,
}

/// A connection to run SSH over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

fn config(hop: &Hop) -> Result<client::Config> {
    let mut preferred = Preferred::default();
    let mut first = hop.host_key.algorithms(&hop.address, hop.port)?;
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

/// Watches over a connection: the host's key at its beginning, the host's words at its end.
pub(crate) struct Check {
    hop: Hop,
    problem: Arc<Mutex<Option<HostKeyProblem>>>,
    farewell: Farewell,
    questions: Questions,
}

impl client::Handler for Check {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else { return Ok(false) };
        let (hop, key) = (self.hop.clone(), key.clone());
        let judging = self.questions.ask(move || hop.host_key.judge(&hop.address, hop.port, &key));
        let Ok(judged) = judging.await else { return Ok(false) };
        let trusted = judged.is_ok();
        if let (Err(problem), Ok(mut slot)) = (judged, self.problem.lock()) {
            *slot = Some(problem);
        }
        Ok(trusted)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        let (said, result) = match reason {
            DisconnectReason::ReceivedDisconnect(said) => (said.message, Ok(())),
            DisconnectReason::Error(error) => (error.to_string(), Err(error)),
        };
        if let Ok(mut farewell) = self.farewell.lock() {
            *farewell = said;
        }
        result
    }
}

/// A connection. russh's task for it ends, and closes it, when this handle and the writers of all its channels are
/// dropped.
pub(crate) struct Ssh {
    pub(crate) handle: Handle<Check>,
    /// What it runs through, kept as long as this.
    pub(crate) _through: Option<Arc<Link>>,
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
