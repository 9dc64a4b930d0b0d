//! exec and attach: a WebSocket client on one side, a CRI runtime's SPDY streams on the other.

use std::io;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::channels::{self, Input};
use crate::spdy::Session;

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

/// Idle clients behind balancers are kept by pings.
const PING: Duration = Duration::from_secs(20);
/// After the command's status, output that is still on its way is waited for this long.
const LINGER: Duration = Duration::from_secs(5);

/// Carries bytes until the command has ended or the client has left.
pub async fn pump<S>(client: WebSocketStream<S>, runtime: Session, streams: Streams) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let open = |kind: &'static str| {
        let runtime = runtime.clone();
        async move { runtime.open(&[("streamtype", kind)]).await }
    };
    // The order upstream's client uses: the error stream first.
    let mut error = open("error").await?;
    let stdin = if streams.stdin { Some(open("stdin").await?) } else { None };
    let stdout = if streams.stdout { Some(open("stdout").await?) } else { None };
    let stderr = if streams.stderr && !streams.tty { Some(open("stderr").await?) } else { None };
    let resize = if streams.tty { Some(open("resize").await?) } else { None };
    let (output, mut to_client) = mpsc::channel::<bytes::Bytes>(32);
    let mut outputs = Vec::new();
    for (channel, stream) in [(channels::STDOUT, stdout), (channels::STDERR, stderr)] {
        let Some(mut stream) = stream else { continue };
        let output = output.clone();
        outputs.push(tokio::spawn(async move {
            while let Some(bytes) = stream.next().await {
                if output.send(channels::write(channel, &bytes)).await.is_err() {
                    return;
                }
            }
        }));
    }
    let status = output.clone();
    drop(output);
    let finish = tokio::spawn(async move {
        let mut text = Vec::new();
        while let Some(bytes) = error.next().await {
            text.extend_from_slice(&bytes);
        }
        for task in outputs {
            let _ = tokio::time::timeout(LINGER, task).await;
        }
        let _ = status.send(channels::write(channels::ERROR, &text)).await;
    });
    let (mut sink, mut source) = client.split();
    let input = tokio::spawn(async move {
        let (stdin, resize) = (stdin.as_ref().map(|s| s.sender()), resize.as_ref().map(|s| s.sender()));
        while let Some(Ok(message)) = source.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Close(_) => return,
                _ => continue,
            };
            match (channels::read(&bytes), &stdin, &resize) {
                (Some(Input::Data(channels::STDIN, data)), Some(stdin), _) => {
                    // A process that reads no more is no reason to stop listening for the client's end.
                    stdin.send(data).await;
                }
                (Some(Input::End(channels::STDIN)), Some(stdin), _) => stdin.finish().await,
                (Some(Input::Data(channels::RESIZE, data)), _, Some(resize)) => {
                    resize.send(data).await;
                }
                _ => {}
            }
        }
    });
    let mut pings = tokio::time::interval(PING);
    let mut input = input;
    loop {
        tokio::select! {
            message = to_client.recv() => match message {
                Some(bytes) => sink.send(Message::Binary(bytes)).await.map_err(io::Error::other)?,
                None => break,
            },
            _ = pings.tick() => sink.send(Message::Ping(bytes::Bytes::new())).await.map_err(io::Error::other)?,
            // The client is gone: the runtime sees its connection end and does what it does then.
            _ = &mut input => break,
        }
    }
    finish.abort();
    input.abort();
    runtime.close();
    // Clients take an end without a code for a failure.
    let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
    let _ = tokio::time::timeout(LINGER, sink.send(Message::Close(Some(frame)))).await;
    let _ = tokio::time::timeout(LINGER, sink.close()).await;
    Ok(())
}
