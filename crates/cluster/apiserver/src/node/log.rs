//! Logs over a WebSocket. Kubelets send logs over plain HTTP alone: the stream is turned into messages here, as
//! upstream's server does (`responsewriters.StreamObject`).

use bytes::Bytes;
use futures::Stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use kinit_apimachinery::ApiError;
use kinit_streaming::{handshake, reader};

use crate::http::{ApiResponse, respond};

/// A client that wants its log as messages.
pub(super) struct Client {
    upgrade: OnUpgrade,
    answer: HeaderMap,
    protocol: Option<&'static str>,
}

impl Client {
    /// From the headers of a request that asks for a WebSocket, and its connection.
    pub(super) fn new(headers: &HeaderMap, upgrade: OnUpgrade) -> Result<Self, ApiError> {
        let (answer, protocol) = handshake::accept(headers, &reader::PROTOCOLS).map_err(ApiError::bad_request)?;
        Ok(Self { upgrade, answer, protocol })
    }

    /// Answers with the kubelet's log. What the kubelet refuses is an ordinary answer.
    pub(super) fn answer(self, log: Response<Incoming>) -> ApiResponse {
        let mut out = ApiResponse::new(respond::full(""));
        *out.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *out.headers_mut() = self.answer;
        let body = log.into_body();
        tokio::spawn(async move {
            match self.upgrade.await {
                Ok(client) => reader::serve(TokioIo::new(client), self.protocol, chunks(body)).await,
                Err(error) => tracing::debug!(%error, "take over a connection"),
            }
        });
        out
    }
}

/// The bytes of a body; one that breaks ends there.
fn chunks(body: Incoming) -> impl Stream<Item = Bytes> {
    futures::stream::unfold(body, |mut body| async move {
        loop {
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Some((data, body));
                    }
                }
                Some(Err(_)) | None => return None,
            }
        }
    })
}

/// Headers of a WebSocket handshake, which is not the kubelet's.
pub(super) fn without_handshake(headers: &mut HeaderMap) {
    headers.remove(UPGRADE);
    headers.remove(hyper::header::CONNECTION);
    for name in ["sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol", "sec-websocket-extensions"] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{Empty, Full};
    use hyper::Request;
    use hyper::service::service_fn;
    use std::convert::Infallible;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// A kubelet that has one log.
    async fn kubelet() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = service_fn(async |_request: Request<Incoming>| {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"one\n"))))
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
        address
    }

    async fn log_of(kubelet: SocketAddr) -> Response<Incoming> {
        let stream = TcpStream::connect(kubelet).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/").header("host", "k").body(Empty::<Bytes>::new()).unwrap();
        sender.send_request(request).await.unwrap()
    }

    /// What a client hears that asks with this sub-protocol.
    async fn heard(protocol: &str) -> Vec<u8> {
        let kubelet = kubelet().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(async |mut request: Request<Incoming>| {
                let connection = hyper::upgrade::on(&mut request);
                Ok::<_, Infallible>(match Client::new(request.headers(), connection) {
                    Ok(reader) => reader.answer(log_of(kubelet).await),
                    Err(error) => respond::error(&error),
                })
            });
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        });
        let request = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
        );
        client.write_all(request.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        // A server that is refused stays open: what is there after a while is all.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), client.read_to_end(&mut all)).await;
        all
    }

    #[tokio::test]
    async fn logs_come_as_messages() {
        for (protocol, greeting, log) in [
            ("binary.k8s.io", &[0x82, 0][..], &b"\x82\x04one\n"[..]),
            ("base64.binary.k8s.io", &[0x81, 0], b"\x81\x08b25lCg=="),
        ] {
            let all = heard(protocol).await;
            let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            let (head, frames) = (String::from_utf8_lossy(&all[..end]).to_lowercase(), &all[end..]);
            assert!(head.starts_with("http/1.1 101") && head.contains(&format!("protocol: {protocol}")), "{head}");
            assert!(frames.starts_with(greeting), "{frames:?}");
            assert!(frames.windows(log.len()).any(|w| w == log), "{protocol}: {frames:?}");
        }
        let refused = String::from_utf8_lossy(&heard("other").await).to_lowercase();
        assert!(refused.starts_with("http/1.1 400"), "{refused}");
    }
}
