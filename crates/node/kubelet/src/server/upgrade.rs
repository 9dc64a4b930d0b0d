//! Taking over connections: WebSocket from clients, SPDY towards the runtime.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::header::{self, HeaderValue};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kinit_streaming::handshake;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;

use super::Body;

/// A client's connection after the upgrade.
pub type Client = TokioIo<Upgraded>;

/// Whether the client asks for a WebSocket.
pub fn is_websocket<B>(request: &Request<B>) -> bool {
    handshake::is_asked_for(request.headers())
}

/// Whether the client asks for SPDY.
pub fn is_spdy<B>(request: &Request<B>) -> bool {
    handshake::lists(request.headers(), header::UPGRADE, "spdy/3.1")
}

/// The 101 answer to a WebSocket request, with the best sub-protocol of `known`; an error says why not.
pub fn accept<B>(
    request: &Request<B>,
    known: &[&'static str],
) -> Result<(Response<Body>, Option<&'static str>), &'static str> {
    let (headers, protocol) = handshake::accept(request.headers(), known)?;
    let mut response = switching("websocket");
    response.headers_mut().extend(headers);
    Ok((response, protocol))
}

/// A 101 answer.
pub fn switching(to: &'static str) -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(to));
    response
}

/// The server's end of a WebSocket on an upgraded connection.
pub async fn websocket(upgraded: Upgraded) -> WebSocketStream<Client> {
    handshake::server(TokioIo::new(upgraded)).await
}

/// Connects to a runtime's streaming URL and switches to SPDY; also tells which protocol version the runtime chose.
pub async fn to_runtime(url: &str, versions: &[&str]) -> Result<(Upgraded, Option<HeaderValue>), String> {
    let uri: hyper::Uri = url.parse().map_err(|e| format!("the runtime's streaming URL: {e}"))?;
    let host = uri.host().ok_or("the runtime's streaming URL has no host")?.trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(80);
    if uri.scheme_str() != Some("http") {
        return Err("the runtime's streaming server must be plain HTTP on loopback".to_owned());
    }
    let failed = |e: &dyn std::fmt::Display| format!("connect to the runtime's streaming server: {e}");
    let stream = TcpStream::connect((host, port)).await.map_err(|e| failed(&e))?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::post(uri.path_and_query().map_or("/", |p| p.as_str()))
        .header(header::HOST, uri.authority().map_or("localhost", |a| a.as_str()))
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1")
        .header(header::CONTENT_LENGTH, "0");
    for version in versions {
        request = request.header("x-stream-protocol-version", *version);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| failed(&e))?;
    let answer = sender.send_request(request).await.map_err(|e| failed(&e))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("the runtime's streaming server answered {}", answer.status()));
    }
    let version = answer.headers().get("x-stream-protocol-version").cloned();
    let upgraded = hyper::upgrade::on(answer).await.map_err(|e| failed(&e))?;
    Ok((upgraded, version))
}
