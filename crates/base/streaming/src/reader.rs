//! Streams to a WebSocket client, which says nothing: bytes as `binary.k8s.io` or `base64.binary.k8s.io`
//! (`k8s.io/apiserver/pkg/util/wsstream.Reader`), or messages as they are.

use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::handshake;

pub use tokio_tungstenite::tungstenite::Message;

/// The sub-protocols; clients that name none are sent binary messages.
pub const PROTOCOLS: [&str; 2] = ["binary.k8s.io", "base64.binary.k8s.io"];

/// A client that has gone without a word is found out by a ping.
const PING: Duration = Duration::from_secs(5);
/// A client that does not take the end is not waited for longer.
const LINGER: Duration = Duration::from_secs(5);

/// Sends all of `content` until it ends or the client leaves. `protocol` is what the handshake chose.
pub async fn serve<S>(io: S, protocol: Option<&str>, content: impl Stream<Item = Bytes>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let base64 = protocol == Some("base64.binary.k8s.io");
    let message = |bytes: Bytes| match base64 {
        true => Message::Text(base64::engine::general_purpose::STANDARD.encode(bytes).into()),
        false => Message::Binary(bytes),
    };
    // Upstream's sign that the connection is up.
    let greeting = futures::stream::iter([message(Bytes::new())]);
    relay(io, greeting.chain(content.map(message))).await;
}

/// Sends all messages until they end or the client leaves.
pub async fn relay<S>(io: S, messages: impl Stream<Item = Message>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut source) = handshake::server(io).await.split();
    let mut messages = std::pin::pin!(messages);
    let mut pings = tokio::time::interval(PING);
    let mut next = None;
    loop {
        if let Some(message) = next.take()
            && sink.send(message).await.is_err()
        {
            return;
        }
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => next = Some(message),
                None => break,
            },
            heard = source.next() => match heard {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
            _ = pings.tick() => next = Some(Message::Ping(Bytes::new())),
        }
    }
    let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
    let _ = tokio::time::timeout(LINGER, sink.send(Message::Close(Some(frame)))).await;
    let _ = tokio::time::timeout(LINGER, sink.close()).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    #[tokio::test]
    async fn a_log_in_both_forms() {
        for (protocol, expected) in [
            (None, vec![Message::Binary(Bytes::new()), Message::Binary("one".into())]),
            (Some("binary.k8s.io"), vec![Message::Binary(Bytes::new()), Message::Binary("one".into())]),
            (Some("base64.binary.k8s.io"), vec![Message::Text("".into()), Message::Text("b25l".into())]),
        ] {
            let (near, far) = tokio::io::duplex(4096);
            let log = futures::stream::iter([Bytes::from_static(b"one")]);
            let server = tokio::spawn(serve(near, protocol, log));
            let client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
            let heard: Vec<Message> = client.filter_map(async |m| m.ok()).collect().await;
            let data: Vec<Message> = heard.into_iter().filter(|m| m.is_binary() || m.is_text()).collect();
            assert_eq!(data, expected, "{protocol:?}");
            server.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_the_stream() {
        let (near, far) = tokio::io::duplex(4096);
        let server = tokio::spawn(serve(near, None, futures::stream::pending()));
        drop(far);
        tokio::time::timeout(Duration::from_secs(20), server).await.expect("the server goes on for ever").unwrap();
    }
}
