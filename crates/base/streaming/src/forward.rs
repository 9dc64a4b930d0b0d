//! port-forward: pairs of streams, one for bytes and one for an error, each pair a connection to a port
//! (`k8s.io/kubelet/pkg/cri/streaming/portforward`).

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::spdy::{Incoming, Session, Stream};

/// Serves a client until it leaves; `dial` connects to a port of the pod.
pub async fn serve<D, F, S>(session: Session, mut streams: mpsc::Receiver<Incoming>, dial: D)
where
    D: Fn(u16) -> F + Send + Sync + 'static,
    F: Future<Output = std::io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let dial = Arc::new(dial);
    let mut waiting: HashMap<String, Incoming> = HashMap::new();
    while let Some(incoming) = streams.recv().await {
        // Older clients send no request id: then the port tells which streams belong together.
        let id = incoming.header("requestid").or_else(|| incoming.header("port")).unwrap_or("").to_owned();
        let Some(other) = waiting.remove(&id) else {
            waiting.insert(id, incoming);
            continue;
        };
        let (error, data) =
            if other.header("streamtype") == Some("error") { (other, incoming) } else { (incoming, other) };
        let dial = dial.clone();
        tokio::spawn(async move {
            let port = data.header("port").and_then(|p| p.parse::<u16>().ok()).filter(|p| *p > 0);
            let Some(port) = port else {
                return fail(&error.stream, &data.stream, "the port header is not a port").await;
            };
            match dial(port).await {
                Ok(connection) => copy(connection, data.stream, &error.stream).await,
                Err(problem) => {
                    let text = format!("error forwarding port {port} to pod: {problem}");
                    fail(&error.stream, &data.stream, &text).await;
                }
            }
        });
    }
    session.close();
}

async fn fail(error: &Stream, data: &Stream, text: &str) {
    let sender = error.sender();
    sender.send(Bytes::copy_from_slice(text.as_bytes())).await;
    sender.finish().await;
    data.sender().finish().await;
}

async fn copy(connection: impl AsyncRead + AsyncWrite + Send + 'static, mut data: Stream, error: &Stream) {
    let (mut read, mut write) = tokio::io::split(connection);
    let sender = data.sender();
    let back = async move {
        let mut buffer = vec![0; 32 << 10];
        loop {
            match read.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(n) => {
                    if !sender.send(Bytes::copy_from_slice(&buffer[..n])).await {
                        break;
                    }
                }
            }
        }
        sender.finish().await;
    };
    let forth = async move {
        while let Some(bytes) = data.next().await {
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    };
    let mut back = std::pin::pin!(back);
    let mut forth = std::pin::pin!(forth);
    // The pod's end decides: once it has said all, nothing the client may still send is of use.
    tokio::select! {
        () = &mut back => {}
        () = &mut forth => back.await,
    }
    error.sender().finish().await;
}
