//! What desk and agent say to each other: frames of JSON, and frames of bytes for uploads.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use kinit_pki::{Authority, Pair, Subject};
use kinit_resource::{EtcdStatus, Evidence, Facts, InstalledPackage, LeafSpec, Observed, Resource, Shared};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::backup::BackupRequest;
use crate::certificates::HostCertificate;
use crate::etcd::EtcdRequest;
use crate::journal::History;
use crate::logs::LogRequest;
use crate::opening::Held;
use crate::packages::PackagePlan;
use crate::pod_dns::{PodDns, PodDnsRequest};
use crate::reach::Reached;
use crate::rotation::RotationRequest;
use crate::signed::SignedRequest;

/// A resource to bring about, with the text of its secret where it has one.
#[derive(Clone, Serialize, Deserialize)]
pub struct ApplyItem {
    /// The resource.
    pub resource: Resource,
    /// The text behind `Content::Secret`.
    pub secret: Option<String>,
}

/// One of a batch's items is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Progress {
    /// Its place in the batch.
    pub index: usize,
    /// Why it failed; the items after it are not tried.
    pub error: Option<String>,
    /// How long it took.
    pub milliseconds: u64,
}

/// What the desk asks for. Secrets travel in here; there is no `Debug`.
#[derive(Serialize, Deserialize)]
pub(crate) enum Request {
    /// Facts about the host.
    Facts {
        /// Where etcd's data would be.
        etcd_data: String,
    },
    /// The host's addresses.
    Addresses,
    /// The certificates in these files.
    Certificates(Vec<String>),
    /// What is there of these.
    Observe(Vec<Resource>),
    /// Bring these about, in order.
    Apply(Vec<ApplyItem>),
    /// Which of these blobs are not on the host.
    MissingBlobs(Vec<String>),
    /// A blob follows in byte frames (one zstd stream), ended by an empty one.
    Blob { sha256: String },
    /// What apt would take of a bundle's packages: those of these that are missing, or that are older.
    Packages { names: Vec<String>, index: String, upgrade: bool },
    /// Which of these packages are installed.
    InstalledPackages(Vec<String>),
    /// Ask the cluster's DNS for a name, from inside a pod of this host.
    PodDns(PodDnsRequest),
    /// Make a shared secret.
    Generate { shared: Shared, algorithm: kinit_pki::KeyAlgorithm, days: u32 },
    /// Read a shared secret, or its public half.
    Read { shared: Shared, public_only: bool },
    /// Write a shared secret, or its public half.
    Write { shared: Shared, pair: Pair, public_only: bool },
    /// Make a key for a leaf certificate and keep it in memory; answer with the request.
    MakeKey(Box<LeafSpec>),
    /// Sign a request with an authority of this host.
    Sign { authority: Authority, request: String, subject: Subject },
    /// Write the certificate for the key made before.
    Install { leaf: Box<LeafSpec>, certificate: String },
    /// Read a kubeconfig or another file of kinit's.
    ReadFile { path: String },
    /// How the renewal of this host's certificates stands.
    Renewal,
    /// What this host's etcd says.
    EtcdStatus,
    /// What members of etcd on other hosts say, asked with a credential of this authority.
    EtcdStatusAt { endpoints: Vec<String>, authority: Pair },
    /// Change etcd.
    Etcd(EtcdRequest),
    /// A snapshot of etcd, as byte frames before the reply.
    EtcdSnapshot,
    /// A unit's log, as byte frames before the reply.
    Logs(LogRequest),
    /// Backups, with byte frames before or after.
    Backup(BackupRequest),
    /// Whether the host gets through to these addresses.
    Reach(Vec<String>),
    /// Modes and owners of these files, and flags of these programs.
    Evidence { paths: Vec<String>, programs: Vec<String> },
    /// Remember what is at these paths, before another version takes their places.
    Keep { paths: Vec<String> },
    /// Put back what was remembered last, start these units again, and wait for these checks.
    PutBack { units: Vec<String>, healthy: Vec<Resource> },
    /// A certificate that is signed elsewhere.
    Signed(SignedRequest),
    /// A shared secret's successor.
    Rotation(RotationRequest),
    /// What reset would undo.
    ResetPlan,
    /// The steps that follow belong to the plan with this hash.
    Begin { plan: String },
    /// The run has ended, as a whole.
    End { error: Option<String> },
    /// What was done on this host.
    History,
    /// Undo everything in the ledger, if the host belongs to the cluster with this authority, or to none.
    Reset { authority: Option<String> },
}

/// What the agent answers.
#[derive(Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Sent once at the start: the agent runs and holds the lock.
    Ready,
    /// Sent before [`Reply::Ready`] when another agent holds the lock and this one waits for it.
    Waiting(Held),
    /// Sent instead of [`Reply::Ready`]: the other agent did not end.
    Busy(Held),
    /// Done.
    Done,
    /// It could not be done.
    Failed(String),
    Facts(Box<Facts>),
    EtcdStatus(Box<EtcdStatus>),
    Observed(Vec<Observed>),
    Progress(Progress),
    /// What a step of a batch says while it works.
    Note(String),
    Names(Vec<String>),
    Reached(Vec<Reached>),
    Evidence(Box<Evidence>),
    Certificates(Vec<HostCertificate>),
    Pair(Pair),
    Text(String),
    Packages(PackagePlan),
    InstalledPackages(BTreeMap<String, InstalledPackage>),
    PodDns(PodDns),
    History(History),
}

/// How often a desk is heard of, whatever else it says.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);
/// A desk that is not heard of for so long is gone: its connection may be dead without anybody being told. Shorter than
/// the 30 s within which a host is free again.
pub(crate) const SILENCE: Duration = Duration::from_secs(25);

/// A frame: JSON, or bytes.
pub(crate) enum Frame {
    Json(Vec<u8>),
    Bytes(Vec<u8>),
}

const MAX: usize = 64 << 20;

/// What the agent says first. Before it on the same channel come the words of a shell whose start-up files print some.
const HELLO: &[u8] = b"\0kinit agent\0";
/// As many of those words are read.
const CHATTER: usize = 64 << 10;

/// Says that the agent's messages begin.
pub(crate) async fn send_hello<W: AsyncWrite + Unpin>(to: &mut W) -> Result<()> {
    Ok(to.write_all(HELLO).await?)
}

/// Skips what a shell printed until the agent's messages begin; `false` when the channel ended before.
pub(crate) async fn await_hello<R: AsyncRead + Unpin>(from: &mut R) -> Result<bool> {
    let mut matched = 0;
    for _ in 0..CHATTER {
        let byte = match from.read_u8().await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            other => other?,
        };
        // Its first byte is in it only once more, at the end: a mismatch can only be a new beginning.
        matched = match HELLO.get(matched) {
            Some(expected) if *expected == byte => matched + 1,
            _ => usize::from(HELLO.first() == Some(&byte)),
        };
        if matched == HELLO.len() {
            return Ok(true);
        }
    }
    bail!("the host's shell prints more than {CHATTER} bytes before it starts a program")
}

/// Writes a message as `J`, its length (32 bits, big endian) and its JSON.
pub(crate) async fn send<W: AsyncWrite + Unpin>(to: &mut W, message: &impl Serialize) -> Result<()> {
    let json = serde_json::to_vec(message).context("encode a message")?;
    send_frame(to, b'J', &json).await
}

/// Writes bytes as `B`, their length and themselves.
pub(crate) async fn send_bytes<W: AsyncWrite + Unpin>(to: &mut W, bytes: &[u8]) -> Result<()> {
    send_frame(to, b'B', bytes).await
}

/// Writes that the desk is there: `H` and a length of zero.
pub(crate) async fn send_heartbeat<W: AsyncWrite + Unpin>(to: &mut W) -> Result<()> {
    send_frame(to, b'H', &[]).await
}

async fn send_frame<W: AsyncWrite + Unpin>(to: &mut W, kind: u8, body: &[u8]) -> Result<()> {
    ensure!(body.len() <= MAX, "a message of {} bytes is too long", body.len());
    let length = u32::try_from(body.len()).context("message length")?.to_be_bytes();
    let mut head = [kind, 0, 0, 0, 0];
    head[1..].copy_from_slice(&length);
    to.write_all(&head).await?;
    to.write_all(body).await?;
    to.flush().await?;
    Ok(())
}

/// Reads a frame that is no heartbeat; `None` when the desk closed the channel between two frames, an error when not a
/// byte came for `silence`. A large frame over a slow line may take longer: what counts is that bytes arrive.
pub(crate) async fn receive_from_desk<R: AsyncRead + Unpin>(from: &mut R, silence: Duration) -> Result<Option<Frame>> {
    loop {
        match receive_any(from, Some(silence)).await? {
            Some(Heard::Heartbeat) => {}
            Some(Heard::Frame(frame)) => return Ok(Some(frame)),
            None => return Ok(None),
        }
    }
}

/// Reads a frame from the agent, which sends no heartbeats; `None` when it closed the channel between two frames.
pub(crate) async fn receive<R: AsyncRead + Unpin>(from: &mut R) -> Result<Option<Frame>> {
    match receive_any(from, None).await? {
        Some(Heard::Frame(frame)) => Ok(Some(frame)),
        Some(Heard::Heartbeat) => bail!("a heartbeat arrived where a message was expected"),
        None => Ok(None),
    }
}

enum Heard {
    Frame(Frame),
    Heartbeat,
}

async fn receive_any<R: AsyncRead + Unpin>(from: &mut R, silence: Option<Duration>) -> Result<Option<Heard>> {
    let mut head = [0u8; 5];
    match fill(from, &mut head, silence).await? {
        0 => return Ok(None),
        5 => {}
        _ => bail!("the channel was closed within a message"),
    }
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    ensure!(length <= MAX, "the other side announces a message of {length} bytes");
    let mut body = vec![0; length];
    ensure!(fill(from, &mut body, silence).await? == length, "the channel was closed within a message");
    match head[0] {
        b'J' => Ok(Some(Heard::Frame(Frame::Json(body)))),
        b'B' => Ok(Some(Heard::Frame(Frame::Bytes(body)))),
        b'H' => Ok(Some(Heard::Heartbeat)),
        other => bail!("the other side speaks another protocol (a frame of kind {other:#x})"),
    }
}

/// Fills the buffer, or as much of it as comes before the channel is closed; returns how much that is.
async fn fill<R: AsyncRead + Unpin>(from: &mut R, buffer: &mut [u8], silence: Option<Duration>) -> Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let read = from.read(rest);
        let count = match silence {
            Some(silence) => tokio::time::timeout(silence, read)
                .await
                .map_err(|_| anyhow!("the desk was not heard of for {} s", silence.as_secs_f32()))??,
            None => read.await?,
        };
        if count == 0 {
            break;
        }
        filled += count;
    }
    Ok(filled)
}

/// Reads a JSON message.
pub(crate) async fn receive_message<R: AsyncRead + Unpin, T: for<'a> Deserialize<'a>>(
    from: &mut R,
) -> Result<Option<T>> {
    match receive(from).await? {
        None => Ok(None),
        Some(Frame::Json(json)) => Ok(Some(serde_json::from_slice(&json).context("decode a message")?)),
        Some(Frame::Bytes(_)) => bail!("bytes arrived where a message was expected"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_talkative_shell_is_skipped() {
        for chatter in [&b""[..], b"Welcome!\r\n", b"\0kinit \0\0kin\0"] {
            let mut wire = chatter.to_vec();
            send_hello(&mut wire).await.unwrap();
            send(&mut wire, &Reply::Ready).await.unwrap();
            let mut from = wire.as_slice();
            assert!(await_hello(&mut from).await.unwrap());
            assert!(matches!(receive_message(&mut from).await.unwrap(), Some(Reply::Ready)));
        }
        assert!(!await_hello(&mut &b"command not found"[..]).await.unwrap());
        assert!(await_hello(&mut vec![b'x'; CHATTER + 1].as_slice()).await.is_err());
    }

    #[tokio::test]
    async fn frames_survive_the_wire_and_rubbish_does_not_kill() {
        let mut wire = Vec::new();
        send(&mut wire, &Reply::Text("x".into())).await.unwrap();
        send_bytes(&mut wire, b"abc").await.unwrap();
        let mut from = wire.as_slice();
        assert!(matches!(receive_message(&mut from).await.unwrap(), Some(Reply::Text(t)) if t == "x"));
        assert!(matches!(receive(&mut from).await.unwrap(), Some(Frame::Bytes(b)) if b == b"abc"));
        assert!(receive(&mut from).await.unwrap().is_none());
        for rubbish in [&b"Last login: today"[..], b"J\xff\xff\xff\xff", b"J\0\0\0\x09{}"] {
            assert!(receive(&mut &rubbish[..]).await.is_err());
        }
    }

    #[tokio::test]
    async fn a_silent_desk_is_gone_and_a_slow_one_is_not() {
        let silence = Duration::from_millis(500);
        let (mut desk, mut agent) = tokio::io::duplex(1024);
        let heard = tokio::spawn(async move { receive_from_desk(&mut agent, silence).await });
        let mut beats = tokio::time::interval(Duration::from_millis(50));
        for _ in 0..20 {
            beats.tick().await;
            send_heartbeat(&mut desk).await.unwrap();
        }
        send(&mut desk, &Reply::Done).await.unwrap();
        assert!(matches!(heard.await.unwrap().unwrap(), Some(Frame::Json(_))));
        // A long frame over a slow line: no heartbeat fits in, but bytes arrive.
        let (mut desk, mut agent) = tokio::io::duplex(1024);
        let heard = tokio::spawn(async move { receive_from_desk(&mut agent, silence).await });
        let mut frame = Vec::new();
        send_bytes(&mut frame, &[7; 20]).await.unwrap();
        for byte in frame {
            beats.tick().await;
            desk.write_all(&[byte]).await.unwrap();
        }
        assert!(matches!(heard.await.unwrap().unwrap(), Some(Frame::Bytes(bytes)) if bytes == [7; 20]));
        // The connection is open, and nobody is at its other end: between two frames, or within one.
        for begun in [&b""[..], b"J\0"] {
            let (mut desk, mut agent) = tokio::io::duplex(1024);
            desk.write_all(begun).await.unwrap();
            assert!(receive_from_desk(&mut agent, silence).await.is_err());
        }
    }
}
