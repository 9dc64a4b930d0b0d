//! Taking over connections: WebSocket from clients, SPDY towards the runtime.

use base64::Engine;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kinit_streaming::channels;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::Body;

/// A client's connection after the upgrade.
pub type Client = TokioIo<Upgraded>;

fn has(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case(word))
}

/// Whether the client asks for a WebSocket.
pub fn is_websocket<B>(request: &Request<B>) -> bool {
    has(request.headers(), header::UPGRADE, "websocket")
}

/// Whether the client asks for SPDY.
pub fn is_spdy<B>(request: &Request<B>) -> bool {
    has(request.headers(), header::UPGRADE, "spdy/3.1")
}

/// The 101 answer to a WebSocket request, with the best sub-protocol of `known`; an error says why not.
pub fn accept<B>(request: &Request<B>, known: &[&'static str]) -> Result<(Response<Body>, &'static str), &'static str> {
    let headers = request.headers();
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or("Sec-WebSocket-Key is missing")?;
    let valid = base64::engine::general_purpose::STANDARD.decode(key.as_bytes()).is_ok_and(|k| k.len() == 16);
    if !valid || headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
        return Err("not a WebSocket handshake of version 13");
    }
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let offered: Vec<&str> = offered.into_iter().filter_map(|v| v.to_str().ok()).collect();
    let protocol =
        channels::choose(offered.iter().copied(), known).ok_or("none of the offered sub-protocols is served")?;
    let mut response = switching("websocket");
    let answer = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| "Sec-WebSocket-Key")?;
    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, answer);
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
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
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await
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
