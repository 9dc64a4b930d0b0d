//! The server's side of a WebSocket handshake (RFC 6455, 4.2).

use base64::Engine;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::channels;

/// Whether a header lists a word.
pub fn lists(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case(word))
}

/// Whether a request asks for a WebSocket.
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    lists(headers, header::UPGRADE, "websocket")
}

/// Headers of the 101 answer, and the best sub-protocol of `known`; `None` for a client that offers none. An error says
/// why not.
pub fn accept(headers: &HeaderMap, known: &[&'static str]) -> Result<(HeaderMap, Option<&'static str>), &'static str> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or("Sec-WebSocket-Key is missing")?;
    let valid = base64::engine::general_purpose::STANDARD.decode(key.as_bytes()).is_ok_and(|k| k.len() == 16);
    if !valid || headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
        return Err("not a WebSocket handshake of version 13");
    }
    let offered: Vec<&str> =
        headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|v| v.to_str().ok()).collect();
    let some = offered.iter().any(|list| !list.trim().is_empty());
    let protocol = channels::choose(offered.iter().copied(), known);
    if some && protocol.is_none() {
        return Err("none of the offered sub-protocols is served");
    }
    let answer = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| "Sec-WebSocket-Key")?;
    let mut out = HeaderMap::new();
    out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    out.insert(header::SEC_WEBSOCKET_ACCEPT, answer);
    out.extend(protocol.map(|p| (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(p))));
    Ok((out, protocol))
}

/// The server's end of a WebSocket on an upgraded connection.
pub async fn server<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> WebSocketStream<S> {
    WebSocketStream::from_raw_socket(io, Role::Server, None).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes() {
        let ask = |protocols: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::UPGRADE, HeaderValue::from_static("WebSocket"));
            headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            headers.extend(protocols.map(|p| (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(p))));
            headers
        };
        assert!(is_asked_for(&ask(None)));
        for (offered, chosen) in [
            (None, Ok(None)),
            (Some("channel.k8s.io"), Ok(Some("channel.k8s.io"))),
            (Some("x, base64.channel.k8s.io"), Ok(Some("base64.channel.k8s.io"))),
            (Some("x"), Err("none of the offered sub-protocols is served")),
        ] {
            assert_eq!(accept(&ask(offered), &channels::PROTOCOLS).map(|(_, p)| p), chosen, "{offered:?}");
        }
        let (answer, _) = accept(&ask(None), &[]).unwrap();
        assert_eq!(answer[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(accept(&HeaderMap::new(), &[]).is_err());
    }
}
