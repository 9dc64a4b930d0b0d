//! exec and attach: a WebSocket client on one side, a CRI runtime's SPDY streams on the other.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use futures::stream::SplitStream;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::channels::{self, Input, Protocol};
use crate::spdy::{Sender, Session, Stream};

/// Which streams the client asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; never with a terminal.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

/// Idle clients behind balancers are kept by pings, and clients that are gone without a word are found out by them.
const PING: Duration = Duration::from_secs(5);
/// After the command's status, output that is still on its way is waited for this long; input after the client's end as
/// well.
const LINGER: Duration = Duration::from_secs(5);
/// Input in bytes that a process may leave unread before its client is no longer listened to.
const AHEAD: usize = 1 << 20;

/// Carries bytes until the command has ended or the client has left.
pub async fn pump<S>(
    client: WebSocketStream<S>,
    protocol: Protocol,
    runtime: Session,
    streams: Streams,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sink, source) = client.split();
    let (output, mut to_client) = mpsc::channel::<Message>(32);
    let (stdin, resize) = open(&runtime, protocol, streams, output).await?;
    let lowest = match streams {
        Streams { stdout: true, .. } => channels::STDOUT,
        Streams { stderr: true, .. } => channels::STDERR,
        _ => channels::ERROR,
    };
    if let Some(greeting) = protocol.greeting(lowest) {
        sink.send(greeting).await.map_err(io::Error::other)?;
    }
    let senders = (stdin.as_ref().map(Stream::sender), resize.as_ref().map(Stream::sender));
    let mut input = tokio::spawn(listen(source, protocol, senders));
    let mut pings = tokio::time::interval(PING);
    let result = loop {
        let message = tokio::select! {
            message = to_client.recv() => match message {
                Some(message) => message,
                None => break Ok(()),
            },
            _ = pings.tick() => Message::Ping(bytes::Bytes::new()),
            // The client is gone: the runtime sees its connection end and does what it does then.
            _ = &mut input => break Ok(()),
        };
        if let Err(error) = sink.send(message).await {
            break Err(io::Error::other(error));
        }
    };
    input.abort();
    runtime.close();
    // Clients take an end without a code for a failure.
    let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
    let _ = tokio::time::timeout(LINGER, sink.send(Message::Close(Some(frame)))).await;
    let _ = tokio::time::timeout(LINGER, sink.close()).await;
    result
}

/// Opens the runtime's streams; what comes out of them goes to `output`. Returns stdin and the terminal's sizes.
async fn open(
    runtime: &Session,
    protocol: Protocol,
    streams: Streams,
    output: mpsc::Sender<Message>,
) -> io::Result<(Option<Stream>, Option<Stream>)> {
    let open = async |kind: &'static str, wanted: bool| match wanted {
        true => runtime.open(&[("streamtype", kind)]).await.map(Some),
        false => Ok(None),
    };
    // The order upstream's client uses: the error stream first.
    let mut error = runtime.open(&[("streamtype", "error")]).await?;
    let stdin = open("stdin", streams.stdin).await?;
    let stdout = open("stdout", streams.stdout).await?;
    let stderr = open("stderr", streams.stderr && !streams.tty).await?;
    let resize = open("resize", streams.tty).await?;
    let mut outputs = JoinSet::new();
    for (channel, stream) in [(channels::STDOUT, stdout), (channels::STDERR, stderr)] {
        let Some(mut stream) = stream else { continue };
        let output = output.clone();
        outputs.spawn(async move {
            while let Some(bytes) = stream.next().await {
                if output.send(protocol.write(channel, &bytes)).await.is_err() {
                    return;
                }
            }
        });
    }
    tokio::spawn(async move {
        let mut text = Vec::new();
        while let Some(bytes) = error.next().await {
            text.extend_from_slice(&bytes);
        }
        let all = async { while outputs.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LINGER, all).await;
        if let Some(end) = protocol.end(&text) {
            let _ = output.send(end).await;
        }
    });
    Ok((stdin, resize))
}

/// Hands on what the client says, until it leaves. A process that does not read keeps its input waiting, not the
/// client's end.
async fn listen<S>(
    mut source: SplitStream<WebSocketStream<S>>,
    protocol: Protocol,
    (stdin, resize): (Option<Sender>, Option<Sender>),
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut waiting, mut ahead) = (VecDeque::new(), 0);
    let deliver = async |item: Option<&Input>| match (item, &stdin) {
        (Some(Input::Data(_, data)), Some(stdin)) => {
            // A process that reads no more is no reason to stop listening for the client's end.
            stdin.send(data.clone()).await;
        }
        (Some(Input::End(_)), Some(stdin)) => stdin.finish().await,
        _ => {}
    };
    loop {
        tokio::select! {
            message = source.next(), if ahead < AHEAD => {
                let message = match message {
                    Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                    Some(Ok(message)) => message,
                };
                match protocol.read(&message) {
                    Some(input @ (Input::Data(channels::STDIN, _) | Input::End(channels::STDIN))) => {
                        ahead += input.len();
                        waiting.push_back(input);
                    }
                    Some(Input::Data(channels::RESIZE, size)) => if let Some(resize) = &resize {
                        let _ = tokio::time::timeout(LINGER, resize.send(size)).await;
                    },
                    _ => {}
                }
            }
            () = deliver(waiting.front()), if !waiting.is_empty() => {
                ahead -= waiting.pop_front().map_or(0, |item| item.len());
            }
        }
    }
    // What was said before the end is still the process's to read.
    let rest = async {
        for item in &waiting {
            deliver(Some(item)).await;
        }
    };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

#[cfg(test)]
mod tests;
