//! A client and a runtime that are both the test's.

use super::*;
use crate::spdy::Incoming;
use bytes::Bytes;
use tokio::io::DuplexStream;
use tokio_tungstenite::tungstenite::protocol::Role;

struct Scene {
    client: WebSocketStream<DuplexStream>,
    /// The runtime's ends of the streams, in the order of their opening.
    streams: mpsc::Receiver<Incoming>,
    runtime: Session,
    pump: tokio::task::JoinHandle<io::Result<()>>,
}

async fn scene(protocol: &str, streams: Streams) -> Scene {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (towards, runtime) = tokio::io::duplex(1 << 12);
    let (session, _incoming) = Session::start(towards, true);
    let (runtime, opened) = Session::start(runtime, false);
    let server = crate::handshake::server(near).await;
    let protocol = Protocol::named(protocol).unwrap();
    let pump = tokio::spawn(pump(server, protocol, session, streams));
    let client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    Scene { client, streams: opened, runtime, pump }
}

async fn take(streams: &mut mpsc::Receiver<Incoming>, kind: &str) -> Stream {
    let incoming = streams.recv().await.unwrap();
    assert_eq!(incoming.header("streamtype"), Some(kind));
    incoming.stream
}

async fn heard(client: &mut WebSocketStream<DuplexStream>) -> Vec<Message> {
    let mut all = Vec::new();
    while let Some(Ok(message)) = client.next().await {
        if message.is_binary() || message.is_text() {
            all.push(message);
        }
    }
    all
}

#[tokio::test]
async fn a_command_in_every_protocol() {
    let status = br#"{"status":"Failure","message":"exit 3"}"#;
    let binary = |channel: u8, data: &[u8]| {
        let mut bytes = vec![channel];
        bytes.extend_from_slice(data);
        Message::Binary(bytes.into())
    };
    for (protocol, input, expected) in [
        ("v5.channel.k8s.io", binary(0, b"in"), vec![binary(1, b"out"), binary(3, status)]),
        ("v4.channel.k8s.io", binary(0, b"in"), vec![binary(1, b""), binary(1, b"out"), binary(3, status)]),
        ("channel.k8s.io", binary(0, b"in"), vec![binary(1, b""), binary(1, b"out"), binary(3, b"exit 3")]),
        (
            "base64.channel.k8s.io",
            Message::Text("0aW4=".into()),
            vec![Message::Text("1".into()), Message::Text("1b3V0".into()), Message::Text("3ZXhpdCAz".into())],
        ),
    ] {
        let wanted = Streams { stdin: true, stdout: true, ..Streams::default() };
        let Scene { mut client, mut streams, runtime, pump } = scene(protocol, wanted).await;
        let error = take(&mut streams, "error").await;
        let mut stdin = take(&mut streams, "stdin").await;
        let stdout = take(&mut streams, "stdout").await;
        client.send(input).await.unwrap();
        assert_eq!(stdin.next().await, Some(Bytes::from_static(b"in")), "{protocol}");
        stdout.sender().send(Bytes::from_static(b"out")).await;
        stdout.sender().finish().await;
        error.sender().send(Bytes::from_static(status)).await;
        error.sender().finish().await;
        assert_eq!(heard(&mut client).await, expected, "{protocol}");
        pump.await.unwrap().unwrap();
        runtime.close();
    }
}

/// The process does not read, the client has sent more than fits anywhere, and goes.
#[tokio::test]
async fn a_client_that_leaves_during_a_long_stdin_is_noticed() {
    for politely in [true, false] {
        let wanted = Streams { stdin: true, stdout: true, ..Streams::default() };
        let Scene { mut client, mut streams, runtime, pump } = scene("v5.channel.k8s.io", wanted).await;
        let (_error, mut stdin) = (take(&mut streams, "error").await, take(&mut streams, "stdin").await);
        let _stdout = take(&mut streams, "stdout").await;
        for _ in 0..200 {
            client.send(Message::Binary(vec![0; 4096].into())).await.unwrap();
        }
        if politely {
            client.close(None).await.unwrap();
        }
        drop(client);
        let ended = tokio::time::timeout(Duration::from_secs(30), pump).await;
        assert!(ended.is_ok(), "the pump goes on for ever (politely: {politely})");
        // What is on its way comes, and then the end.
        let rest = async {
            while stdin.next().await.is_some() {}
            runtime.closed().await;
        };
        tokio::time::timeout(Duration::from_secs(30), rest).await.expect("the process's stdin goes on for ever");
    }
}

#[tokio::test]
async fn half_a_close_ends_stdin_alone() {
    let wanted = Streams { stdin: true, stdout: true, ..Streams::default() };
    let Scene { mut client, mut streams, runtime, pump } = scene("v5.channel.k8s.io", wanted).await;
    let error = take(&mut streams, "error").await;
    let mut stdin = take(&mut streams, "stdin").await;
    let stdout = take(&mut streams, "stdout").await;
    client.send(Message::Binary(vec![0, b'x'].into())).await.unwrap();
    client.send(Message::Binary(vec![255, 0].into())).await.unwrap();
    assert_eq!(stdin.next().await, Some(Bytes::from_static(b"x")));
    assert_eq!(stdin.next().await, None);
    stdout.sender().send(Bytes::from_static(b"late")).await;
    stdout.sender().finish().await;
    error.sender().finish().await;
    let said = heard(&mut client).await;
    assert_eq!(said.first(), Some(&Message::Binary(b"\x01late".to_vec().into())));
    pump.await.unwrap().unwrap();
    runtime.close();
}
