//! The agent's loop.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use kinit_resource::Resource;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::ledger::Ledger;
use crate::lock::Lock;
use crate::wire::{ApplyItem, Frame, Progress, Reply, Request, SILENCE, receive_from_desk, send, send_hello};
use crate::{apply, blobs, facts, observe, reset, secrets};

/// What the agent keeps between requests.
#[derive(Default)]
pub(crate) struct State {
    /// Keys that wait for their certificates, by the file they are for.
    pub(crate) pending_keys: HashMap<String, String>,
}

/// Serves one desk on these streams until they close.
pub async fn serve(mut from: impl AsyncRead + Unpin + Send + 'static, mut to: impl AsyncWrite + Unpin) -> Result<()> {
    send_hello(&mut to).await?;
    // Reading goes on while the lock is waited for and a request is worked on, so that the desk's end is noticed: at
    // once when the channel is closed, after a silence when its connection is dead.
    let (sender, mut frames) = mpsc::channel(4);
    let gone = CancellationToken::new();
    let ended = gone.clone().drop_guard();
    tokio::spawn(async move {
        let _ended = ended;
        while let Ok(Some(frame)) = receive_from_desk(&mut from, SILENCE).await {
            if sender.send(frame).await.is_err() {
                break;
            }
        }
    });
    // Held to the end of the conversation.
    let locked = tokio::select! {
        locked = locked(&mut to) => locked,
        () = gone.cancelled() => bail!("the desk went away"),
    };
    let _lock = match locked {
        Ok(Some(lock)) => lock,
        Ok(None) => return send(&mut to, &Reply::Busy).await,
        Err(error) => return send(&mut to, &Reply::Failed(format!("{error:#}"))).await,
    };
    send(&mut to, &Reply::Ready).await?;
    let mut state = State::default();
    while let Some(frame) = frames.recv().await {
        let Frame::Json(json) = frame else { bail!("bytes arrived where a request was expected") };
        let request: Request = serde_json::from_slice(&json).context("decode a request")?;
        let reply = match request {
            Request::Apply(items) => apply_all(items, &frames, &mut to).await,
            Request::Blob { sha256 } => blobs::receive(&sha256, &mut frames).await.map(|()| Reply::Done),
            other => answer(other, &mut state).await,
        };
        send(&mut to, &reply.unwrap_or_else(|error| Reply::Failed(format!("{error:#}")))).await?;
    }
    Ok(())
}

/// Takes the host's lock; tells the desk when that means waiting. None: whoever has it keeps it.
async fn locked(to: &mut (impl AsyncWrite + Unpin)) -> Result<Option<Lock>> {
    let lock = Lock::open()?;
    if lock.try_take()? {
        return Ok(Some(lock));
    }
    send(to, &Reply::Waiting).await?;
    lock.wait().await.context("wait for the host's lock")
}

async fn answer(request: Request, state: &mut State) -> Result<Reply> {
    Ok(match request {
        Request::Facts { etcd_data } => Reply::Facts(Box::new(facts::gather(&etcd_data)?)),
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

async fn apply_all<W: AsyncWrite + Unpin>(
    items: Vec<ApplyItem>,
    frames: &mpsc::Receiver<Frame>,
    to: &mut W,
) -> Result<Reply> {
    for (index, item) in items.into_iter().enumerate() {
        if frames.is_closed() {
            bail!("the desk went away");
        }
        let started = Instant::now();
        let result = apply::apply(&item.resource, item.secret.as_deref()).await;
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let failed = result.is_err();
        let error = result.err().map(|e| format!("{e:#}"));
        send(to, &Reply::Progress(Progress { index, error, milliseconds })).await?;
        if failed {
            return Ok(Reply::Done);
        }
    }
    Ok(Reply::Done)
}
