//! The agent's loop.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use kinit_resource::Resource;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::ledger::Ledger;
use crate::lock::{self, Lock};
use crate::notes::noting;
use crate::wire::{ApplyItem, Frame, Progress, Reply, Request, SILENCE, receive_from_desk, send, send_hello};
use crate::{apply, blobs, facts, observe, reset, secrets};

/// What the agent keeps between requests.
#[derive(Default)]
pub(crate) struct State {
    /// Keys that wait for their certificates, by the file they are for.
    pub(crate) pending_keys: HashMap<String, String>,
}

/// How long an agent waits, and for what.
pub(crate) struct Manners {
    /// The host's lock.
    pub(crate) lock: PathBuf,
    /// How long another agent may keep the lock.
    pub(crate) patience: Duration,
    /// How long the desk may be silent.
    pub(crate) silence: Duration,
}

/// Serves one desk on these streams until they close, or until the desk is silent for too long.
pub async fn serve(from: impl AsyncRead + Unpin + Send + 'static, to: impl AsyncWrite + Unpin) -> Result<()> {
    serve_as(Manners { lock: lock::PATH.into(), patience: lock::PATIENCE, silence: SILENCE }, from, to).await
}

pub(crate) async fn serve_as(
    manners: Manners,
    mut from: impl AsyncRead + Unpin + Send + 'static,
    to: impl AsyncWrite + Unpin,
) -> Result<()> {
    // Reading goes on while the lock is waited for and a request is worked on, so that the desk's end is noticed: at
    // once when the channel is closed, after a silence when its connection is dead.
    let (sender, frames) = mpsc::channel(4);
    let gone = CancellationToken::new();
    let mut desk = Desk { to, gone: gone.clone() };
    let silence = manners.silence;
    let reader = tokio::spawn(async move {
        let ended = loop {
            match receive_from_desk(&mut from, silence).await {
                Ok(Some(frame)) => {
                    if sender.send(frame).await.is_err() {
                        break Ok(());
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        gone.cancel();
        ended
    });
    let served = converse(&manners, frames, &mut desk).await;
    // Why the desk is gone says more than that it is.
    if desk.gone.is_cancelled() {
        return reader.await.context("read from the desk")?.and(served);
    }
    reader.abort();
    served
}

/// The way back to the desk.
struct Desk<W> {
    to: W,
    /// Cancelled when the desk is not there any more.
    gone: CancellationToken,
}

impl<W: AsyncWrite + Unpin> Desk<W> {
    /// Sends a reply. Into a dead connection a write could wait for ever, with the host's lock held.
    async fn tell(&mut self, reply: &Reply) -> Result<()> {
        tokio::select! {
            sent = send(&mut self.to, reply) => sent,
            () = self.gone.cancelled() => bail!("the desk went away"),
        }
    }
}

async fn converse<W: AsyncWrite + Unpin>(
    manners: &Manners,
    mut frames: mpsc::Receiver<Frame>,
    desk: &mut Desk<W>,
) -> Result<()> {
    send_hello(&mut desk.to).await?;
    // Held to the end of the conversation.
    let _lock = match locked(manners, desk).await {
        Ok(Some(lock)) => lock,
        Ok(None) => return desk.tell(&Reply::Busy).await,
        Err(error) => return desk.tell(&Reply::Failed(format!("{error:#}"))).await,
    };
    desk.tell(&Reply::Ready).await?;
    let mut state = State::default();
    while let Some(frame) = frames.recv().await {
        // What nobody waits for is not begun.
        if desk.gone.is_cancelled() {
            bail!("the desk went away");
        }
        let Frame::Json(json) = frame else { bail!("bytes arrived where a request was expected") };
        let request: Request = serde_json::from_slice(&json).context("decode a request")?;
        let reply = match request {
            Request::Apply(items) => apply_all(items, desk).await,
            Request::Blob { sha256 } => blobs::receive(&sha256, &mut frames).await.map(|()| Reply::Done),
            other => answer(other, &mut state).await,
        };
        desk.tell(&reply.unwrap_or_else(|error| Reply::Failed(format!("{error:#}")))).await?;
    }
    Ok(())
}

/// Takes the host's lock; tells the desk when that means waiting. `None` when its holder keeps it.
async fn locked<W: AsyncWrite + Unpin>(manners: &Manners, desk: &mut Desk<W>) -> Result<Option<Lock>> {
    let lock = Lock::open(&manners.lock)?;
    if lock.try_take()? {
        return Ok(Some(lock));
    }
    desk.tell(&Reply::Waiting).await?;
    tokio::select! {
        taken = lock.wait(manners.patience) => taken,
        () = desk.gone.cancelled() => bail!("the desk went away"),
    }
}

async fn answer(request: Request, state: &mut State) -> Result<Reply> {
    Ok(match request {
        Request::Facts { etcd_data } => Reply::Facts(Box::new(facts::gather(&etcd_data).await?)),
        Request::Observe(resources) => Reply::Observed(observe_all(&resources).await),
        Request::MissingBlobs(names) => Reply::Names(names.into_iter().filter(|name| !blobs::has(name)).collect()),
        Request::Generate { shared, algorithm, days } => {
            secrets::generate(shared, algorithm, days)?;
            Reply::Done
        }
        Request::Read { shared } => Reply::Pair(secrets::read(shared)?),
        Request::Write { shared, pair, public_only } => {
            secrets::write(shared, &pair, public_only)?;
            Reply::Done
        }
        Request::MakeKey(leaf) => Reply::Text(secrets::request(&leaf, state)?),
        Request::Sign { authority, request, subject } => Reply::Text(secrets::sign(authority, &request, &subject)?),
        Request::Install { leaf, certificate } => {
            secrets::install(&leaf, &certificate, state)?;
            Reply::Done
        }
        Request::ReadFile { path } => {
            if !path.starts_with("/etc/kubernetes/") || path.contains("..") {
                return Err(anyhow!("{path} is not a file of kinit's"));
            }
            Reply::Text(std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?)
        }
        Request::ResetPlan => Reply::Names(Ledger::load()?.describe()),
        Request::Reset { authority } => Reply::Names(reset::run(authority.as_deref()).await?),
        Request::Apply(_) | Request::Blob { .. } => bail!("handled elsewhere"),
    })
}

async fn observe_all(resources: &[Resource]) -> Vec<kinit_resource::Observed> {
    let mut observed = Vec::with_capacity(resources.len());
    for resource in resources {
        observed.push(observe::observe(resource).await);
    }
    observed
}

async fn apply_all<W: AsyncWrite + Unpin>(items: Vec<ApplyItem>, desk: &mut Desk<W>) -> Result<Reply> {
    for (index, item) in items.into_iter().enumerate() {
        if desk.gone.is_cancelled() {
            bail!("the desk went away");
        }
        let started = Instant::now();
        let (work, mut notes) = noting(apply::apply(&item.resource, item.secret.as_deref()));
        tokio::pin!(work);
        let result = loop {
            tokio::select! {
                biased;
                // A desk that is gone is noticed above; the step goes on to its end.
                Some(text) = notes.recv() => desk.tell(&Reply::Note(text)).await.unwrap_or_default(),
                result = &mut work => break result,
            }
        };
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let failed = result.is_err();
        let error = result.err().map(|e| format!("{e:#}"));
        desk.tell(&Reply::Progress(Progress { index, error, milliseconds })).await?;
        if failed {
            return Ok(Reply::Done);
        }
    }
    Ok(Reply::Done)
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
