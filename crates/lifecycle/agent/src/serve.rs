//! The agent's loop.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::answer::answer;
use crate::journal::Journal;
use crate::lock::{self, Lock};
use crate::opening::{Caller, LockMode, Opening};
use crate::put_back::Kept;
use crate::wire::{Frame, Reply, Request, SILENCE, receive_from_desk, send, send_bytes, send_hello};

/// What the agent keeps between requests.
pub(crate) struct State {
    /// Keys that wait for their certificates, by the file they are for.
    pub(crate) pending_keys: HashMap<String, String>,
    /// What links and files were before another version took their places.
    pub(crate) kept: Kept,
    /// What is done, for those who ask later.
    pub(crate) journal: Journal,
}

/// How long an agent waits, and for what.
pub(crate) struct Manners {
    /// Whom it serves, and with which claim to the lock.
    pub(crate) opening: Opening,
    /// The host's lock.
    pub(crate) lock: PathBuf,
    /// How long another agent may keep the lock.
    pub(crate) patience: Duration,
    /// How long the desk may be silent.
    pub(crate) silence: Duration,
}

/// Serves one desk on these streams until they close, or until the desk is silent for too long.
pub async fn serve(
    opening: Opening,
    from: impl AsyncRead + Unpin + Send + 'static,
    to: impl AsyncWrite + Unpin,
) -> Result<()> {
    let journal = Journal::host(opening.caller.clone());
    let manners = Manners { opening, lock: lock::PATH.into(), patience: lock::PATIENCE, silence: SILENCE };
    serve_as(manners, journal, from, to).await
}

pub(crate) async fn serve_as(
    manners: Manners,
    journal: Journal,
    mut from: impl AsyncRead + Unpin + Send + 'static,
    to: impl AsyncWrite + Unpin,
) -> Result<()> {
    // Reading goes on while the lock is waited for and a request is worked on, so that the desk's end is noticed: at
    // once when the channel is closed, after a silence when its connection is dead.
    let (sender, frames) = mpsc::channel(4);
    let gone = CancellationToken::new();
    let mut desk = Desk { to, gone: gone.clone(), lock: None };
    let mut state = State { pending_keys: HashMap::new(), kept: Kept::default(), journal };
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
    let served = converse(&manners, frames, &mut state, &mut desk).await;
    let unfinished = served.as_ref().err().map_or_else(|| "the desk went away".to_owned(), |e| format!("{e:#}"));
    state.journal.end(Some(&unfinished));
    // Why the desk is gone says more than that it is.
    if desk.gone.is_cancelled() {
        return reader.await.context("read from the desk")?.and(served);
    }
    reader.abort();
    served
}

/// The way back to the desk.
pub(crate) struct Desk<W> {
    to: W,
    /// Cancelled when the desk is not there any more.
    gone: CancellationToken,
    /// The host's lock; none for a desk that only looks.
    pub(crate) lock: Option<Lock>,
}

/// The lock was broken: who did it.
#[derive(Debug, thiserror::Error)]
#[error("the lock of this host was broken by {0}: nothing more is done here")]
struct Broken(Caller);

impl<W: AsyncWrite + Unpin> Desk<W> {
    /// Sends a reply. Into a dead connection a write could wait for ever, with the host's lock held.
    pub(crate) async fn tell(&mut self, reply: &Reply) -> Result<()> {
        tokio::select! {
            sent = send(&mut self.to, reply) => sent,
            () = self.gone.cancelled() => bail!("the desk went away"),
        }
    }

    /// Sends bytes, a frame.
    pub(crate) async fn hand(&mut self, bytes: &[u8]) -> Result<()> {
        tokio::select! {
            sent = send_bytes(&mut self.to, bytes) => sent,
            () = self.gone.cancelled() => bail!("the desk went away"),
        }
    }

    /// Ends when the desk is not there any more.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Whether the next step may be begun. What nobody waits for is not, nor what another one waits to do.
    pub(crate) fn may_go_on(&self) -> Result<()> {
        if self.gone.is_cancelled() {
            bail!("the desk went away");
        }
        match self.lock.as_ref().and_then(Lock::demanded) {
            Some(caller) => Err(Broken(caller).into()),
            None => Ok(()),
        }
    }

    /// The desk's next message; an error when the lock is broken before.
    async fn next(&self, frames: &mut mpsc::Receiver<Frame>) -> Result<Option<Frame>> {
        let Some(lock) = &self.lock else { return Ok(frames.recv().await) };
        tokio::select! {
            frame = frames.recv() => Ok(frame),
            caller = lock.until_demanded() => Err(Broken(caller).into()),
        }
    }
}

async fn converse<W: AsyncWrite + Unpin>(
    manners: &Manners,
    mut frames: mpsc::Receiver<Frame>,
    state: &mut State,
    desk: &mut Desk<W>,
) -> Result<()> {
    send_hello(&mut desk.to).await?;
    if manners.opening.lock != LockMode::Look {
        // Held to the end of the conversation.
        desk.lock = match locked(manners, desk).await {
            Ok(Some(lock)) => Some(lock),
            Ok(None) => return desk.tell(&Reply::Busy(lock::held(&manners.lock))).await,
            Err(error) => return desk.tell(&Reply::Failed(format!("{error:#}"))).await,
        };
    }
    desk.tell(&Reply::Ready).await?;
    loop {
        let result = match desk.next(&mut frames).await {
            Ok(Some(frame)) => request(frame, &mut frames, state, desk).await,
            Ok(None) => return Ok(()),
            Err(error) => Err(error),
        };
        match result {
            Ok(reply) => desk.tell(&reply).await?,
            // It is the answer to whatever the desk asks next.
            Err(error) if error.is::<Broken>() => {
                desk.tell(&Reply::Failed(error.to_string())).await?;
                return Err(error);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Answers one request; errors are those that end the conversation.
async fn request<W: AsyncWrite + Unpin>(
    frame: Frame,
    frames: &mut mpsc::Receiver<Frame>,
    state: &mut State,
    desk: &mut Desk<W>,
) -> Result<Reply> {
    desk.may_go_on()?;
    let Frame::Json(json) = frame else { bail!("bytes arrived where a request was expected") };
    let request: Request = serde_json::from_slice(&json).context("decode a request")?;
    match answer(request, frames, state, desk).await {
        Ok(reply) => Ok(reply),
        Err(error) if error.is::<Broken>() => Err(error),
        Err(error) => Ok(Reply::Failed(format!("{error:#}"))),
    }
}

/// Takes the host's lock; tells the desk when that means waiting. `None` when its holder keeps it.
async fn locked<W: AsyncWrite + Unpin>(manners: &Manners, desk: &mut Desk<W>) -> Result<Option<Lock>> {
    let caller = &manners.opening.caller;
    let mut lock = Lock::open(&manners.lock)?;
    if lock.try_take()? {
        lock.sign(caller)?;
        return Ok(Some(lock));
    }
    desk.tell(&Reply::Waiting(lock::held(&manners.lock))).await?;
    let demand = async {
        match manners.opening.lock {
            LockMode::Break => lock::demand(&manners.lock, caller).await,
            LockMode::Take | LockMode::Look => std::future::pending().await,
        }
    };
    let taken = tokio::select! {
        taken = lock.wait(manners.patience) => taken?,
        failed = demand => return failed.map(|()| None),
        () = desk.gone.cancelled() => bail!("the desk went away"),
    };
    let Some(mut lock) = taken else { return Ok(None) };
    lock.sign(caller)?;
    Ok(Some(lock))
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
