//! The desk's end.

mod requests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use kinit_remote::{Process, Transport};
use kinit_resource::sha256;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;

use crate::lock;
use crate::opening::{Held, Opening};
use crate::wire::{
    ApplyItem, Frame, HEARTBEAT, Progress, Reply, Request, await_hello, receive, receive_message, send, send_bytes,
    send_heartbeat,
};
use crate::wire_use::{Counted, WireCounters, WireUse};

/// A conversation with one host's agent. Requests queue; the agent does one at a time.
pub struct Agent {
    host: String,
    process: Mutex<Process>,
    stdin: Stdin,
    note: OnNote,
    wire: Arc<WireCounters>,
    // Goes on as long as the conversation.
    _heartbeat: Heartbeat,
    // The connection lives as long as the conversation.
    _transport: Box<dyn Transport>,
}

/// Hears what long steps say: the host, and the words.
pub type OnNote = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// A file's bytes, in pieces.
pub type Pieces = tokio::sync::mpsc::Receiver<Vec<u8>>;

/// The way to the agent: requests and heartbeats take turns, a frame each.
type Stdin = Arc<Mutex<Box<dyn AsyncWrite + Send + Unpin>>>;

/// A program that said that it is an agent and has the host's lock.
struct Connected {
    process: Process,
    stdin: Stdin,
    heartbeat: Heartbeat,
    wire: Arc<WireCounters>,
}

/// Tells the agent that this desk is there, until it is dropped.
struct Heartbeat(tokio::task::JoinHandle<()>);

impl Heartbeat {
    fn start(stdin: Stdin) -> Self {
        Self(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(HEARTBEAT);
            loop {
                ticks.tick().await;
                // A channel that is closed is noticed by whoever waits for an answer.
                if send_heartbeat(&mut *stdin.lock().await).await.is_err() {
                    return;
                }
            }
        }))
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A file to put on hosts, compressed once for all of them.
#[derive(Clone)]
pub struct Upload {
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    compressed: Arc<Vec<u8>>,
}

impl Upload {
    /// Reads and compresses a file.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Self::from_bytes(&bytes)
    }

    /// Compresses bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let compressed = zstd::encode_all(bytes, 1).context("compress an upload")?;
        Ok(Self { sha256: sha256(bytes), compressed: Arc::new(compressed) })
    }
}

/// Another kinit works on the host.
#[derive(Debug, thiserror::Error)]
#[error("another kinit works on this host: {0}; it did not end within {patience} s. Run the command again when it has ended, or break its lock (--break-lock): it then stops before its next step", patience = lock::PATIENCE.as_secs())]
pub struct Busy(pub Held);

/// Hears that another kinit works on a host, and which one.
pub type OnWaiting = dyn Fn(&str, &Held) + Send + Sync;

/// Longer than the agent waits for its lock.
const START: Duration = Duration::from_secs(150);
/// The longest single step, installing packages over a slow line, is well below; a dead connection ends much earlier,
/// by keepalives.
const ANSWER: Duration = Duration::from_secs(1800);
const CHUNK: usize = 256 << 10;
/// Exit status of a shell that found no such program.
const NOT_FOUND: u32 = 127;
/// Exit status of a shell that may not run a program.
const NOT_EXECUTABLE: u32 = 126;

impl Agent {
    /// Starts the agent on a host; `program` (kinit itself) is copied there first when this very build is not there
    /// yet. `waiting` is called when another agent works there, whose end is waited for; should it not end, the error
    /// is [`Busy`].
    pub async fn start(
        host: &str,
        transport: Box<dyn Transport>,
        program: &[u8],
        opening: &Opening,
        waiting: &OnWaiting,
    ) -> Result<Self> {
        let waiting = |held: &Held| waiting(host, held);
        let path = format!("/run/kinit-agent-{}", sha256(program).get(..16).unwrap_or_default());
        let connected = match Self::exec(transport.as_ref(), &path, opening, &waiting).await {
            Ok(connected) => connected,
            Err(Refusal::NotThere) => {
                transport.put(&path, program, 0o700).await.context("copy kinit to the host")?;
                Self::exec(transport.as_ref(), &path, opening, &waiting).await.map_err(Refusal::into_error)?
            }
            Err(refusal) => return Err(refusal.into_error()),
        };
        let Connected { process, stdin, heartbeat, wire } = connected;
        let process = Mutex::new(process);
        let note: OnNote = Arc::new(|_, _| ());
        Ok(Self { host: host.to_owned(), process, stdin, note, wire, _heartbeat: heartbeat, _transport: transport })
    }

    async fn exec(
        transport: &dyn Transport,
        path: &str,
        opening: &Opening,
        waiting: &(dyn Fn(&Held) + Send + Sync),
    ) -> Result<Connected, Refusal> {
        let mut process =
            transport.exec(&format!("{path} host-agent {}", opening.to_argument())).await.map_err(Refusal::Other)?;
        let wire = Arc::new(WireCounters::default());
        let inner = std::mem::replace(&mut process.stdin, Box::new(tokio::io::sink()));
        let stdin: Stdin = Arc::new(Mutex::new(Box::new(Counted { inner, counters: wire.clone() })));
        let inner = std::mem::replace(&mut process.stdout, Box::new(tokio::io::empty()));
        process.stdout = Box::new(Counted { inner, counters: wire.clone() });
        let heartbeat = Heartbeat::start(stdin.clone());
        let hear = async {
            if !await_hello(&mut process.stdout).await? {
                return Ok(None);
            }
            match receive_message(&mut process.stdout).await? {
                Some(Reply::Waiting(held)) => {
                    waiting(&held);
                    receive_message(&mut process.stdout).await
                }
                other => Ok(other),
            }
        };
        let hello = tokio::time::timeout(START, hear).await;
        match hello.map_err(|_| Refusal::Other(anyhow!("the agent did not start within {} s", START.as_secs())))? {
            Ok(Some(Reply::Ready)) => Ok(Connected { process, stdin, heartbeat, wire }),
            Ok(Some(Reply::Busy(held))) => Err(Refusal::Other(Busy(held).into())),
            Ok(Some(Reply::Failed(why))) => Err(Refusal::Other(anyhow!("the agent did not start: {why}"))),
            other => {
                let ended =
                    tokio::time::timeout(Duration::from_secs(5), process.outcome.wait_for(Option::is_some)).await;
                let status = ended.ok().and_then(|r| r.ok().and_then(|o| o.clone())).and_then(|o| o.status);
                if status == Some(NOT_FOUND) {
                    return Err(Refusal::NotThere);
                }
                if status == Some(NOT_EXECUTABLE) {
                    return Err(Refusal::Other(anyhow!("{path} may not be run on the host; is /run mounted noexec?")));
                }
                let cause = other.err().map(|e| format!(" ({e:#})")).unwrap_or_default();
                let complaint = process.complaint();
                Err(Refusal::Other(anyhow!("the agent did not start, exit status {status:?}{cause}: {complaint}")))
            }
        }
    }

    /// Who hears what steps say while they work.
    #[must_use]
    pub fn telling(mut self, note: OnNote) -> Self {
        self.note = note;
        self
    }

    /// The host's name.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What the conversation has cost the line so far.
    pub fn wire_use(&self) -> WireUse {
        self.wire.read()
    }

    async fn ask(&self, request: &Request) -> Result<Reply> {
        let mut process = self.process.lock().await;
        self.wire.ask();
        send(&mut *self.stdin.lock().await, request).await.context("send to the agent")?;
        self.reply(&mut process).await
    }

    async fn reply(&self, process: &mut Process) -> Result<Reply> {
        let heard = tokio::time::timeout(ANSWER, receive_message(&mut process.stdout)).await;
        let silent = |_| anyhow!("the agent on {} did not answer for {} s", self.host, ANSWER.as_secs());
        match heard.map_err(silent)?.context("hear from the agent")? {
            Some(Reply::Failed(why)) => Err(anyhow!(why)),
            Some(reply) => Ok(reply),
            None => bail!("the connection to {} was lost: {}", self.host, process.complaint()),
        }
    }

    async fn done(&self, request: &Request) -> Result<()> {
        match self.ask(request).await? {
            Reply::Done => Ok(()),
            _ => bail!("the agent sent an unexpected reply"),
        }
    }

    /// Brings resources about, in order, until one fails; `progress` hears of each.
    pub async fn apply(&self, items: Vec<ApplyItem>, progress: impl Fn(Progress) + Send) -> Result<()> {
        let mut process = self.process.lock().await;
        self.wire.ask();
        send(&mut *self.stdin.lock().await, &Request::Apply(items)).await.context("send to the agent")?;
        let mut failed = None;
        loop {
            match self.reply(&mut process).await? {
                Reply::Progress(one) => {
                    failed = failed.or_else(|| one.error.clone());
                    progress(one);
                }
                Reply::Note(text) => (self.note)(&self.host, &text),
                // The batch has its end in any case: what is asked next must not find it.
                Reply::Done => return failed.map_or(Ok(()), |why: String| Err(anyhow!(why))),
                _ => bail!("the agent sent an unexpected reply"),
            }
        }
    }

    /// Sends those uploads that the host does not have; returns how many bytes went over the wire.
    pub async fn upload(&self, uploads: &[Upload]) -> Result<usize> {
        let names = uploads.iter().map(|u| u.sha256.clone()).collect();
        let Reply::Names(missing) = self.ask(&Request::MissingBlobs(names)).await? else {
            bail!("the agent sent an unexpected reply")
        };
        let mut sent = 0;
        for upload in uploads.iter().filter(|u| missing.contains(&u.sha256)) {
            let mut process = self.process.lock().await;
            self.wire.ask();
            send(&mut *self.stdin.lock().await, &Request::Blob { sha256: upload.sha256.clone() })
                .await
                .context("send to the agent")?;
            // One frame at a time, so that heartbeats find their way between.
            for chunk in upload.compressed.chunks(CHUNK) {
                send_bytes(&mut *self.stdin.lock().await, chunk).await.context("upload")?;
            }
            send_bytes(&mut *self.stdin.lock().await, &[]).await.context("upload")?;
            self.reply(&mut process).await.context("upload")?;
            sent += upload.compressed.len();
        }
        Ok(sent)
    }

    /// Asks for something that comes in byte frames before its reply.
    async fn stream(
        &self,
        request: &Request,
        patience: Option<Duration>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(u64, Reply)> {
        let mut process = self.process.lock().await;
        self.wire.ask();
        send(&mut *self.stdin.lock().await, request).await.context("send to the agent")?;
        let mut length = 0;
        loop {
            let frame = receive(&mut process.stdout);
            let heard = match patience {
                Some(patience) => tokio::time::timeout(patience, frame).await.context("wait for the agent")?,
                None => frame.await,
            };
            match heard.context("hear from the agent")? {
                Some(Frame::Bytes(piece)) => {
                    to.write_all(&piece).await.context("write what the agent sends")?;
                    to.flush().await.context("write what the agent sends")?;
                    length += piece.len() as u64;
                }
                Some(Frame::Json(json)) => match serde_json::from_slice(&json).context("decode a message")? {
                    Reply::Failed(why) => bail!(why),
                    reply => return Ok((length, reply)),
                },
                None => bail!("the connection to {} was lost: {}", self.host, process.complaint()),
            }
        }
    }

    /// Sends a request, the pieces that belong to it, and their end; returns the reply.
    async fn pour(&self, request: &Request, pieces: &mut Pieces) -> Result<Reply> {
        let mut process = self.process.lock().await;
        self.wire.ask();
        send(&mut *self.stdin.lock().await, request).await.context("send to the agent")?;
        let sending = async {
            while let Some(piece) = pieces.recv().await {
                for chunk in piece.chunks(CHUNK) {
                    send_bytes(&mut *self.stdin.lock().await, chunk).await?;
                }
            }
            send_bytes(&mut *self.stdin.lock().await, &[]).await
        };
        let sent = sending.await.context("send to the agent");
        // What the agent says is the cause of what the sender met.
        let reply = self.reply(&mut process).await?;
        sent.map(|()| reply)
    }

    async fn text(&self, request: &Request) -> Result<String> {
        match self.ask(request).await? {
            Reply::Text(text) => Ok(text),
            _ => bail!("the agent sent an unexpected reply"),
        }
    }
}

enum Refusal {
    NotThere,
    Other(anyhow::Error),
}

impl Refusal {
    fn into_error(self) -> anyhow::Error {
        match self {
            Self::NotThere => anyhow!("the agent was copied to the host but is not there; is /run mounted noexec?"),
            Self::Other(error) => error,
        }
    }
}
