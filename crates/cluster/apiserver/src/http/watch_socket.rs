//! Watches over a WebSocket: a message for each event (`handlers.WatchServer.HandleWS`).

use bytes::Bytes;
use futures::Stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use kinit_apimachinery::ApiError;
use kinit_streaming::handshake;
use kinit_streaming::reader::{self, Message};

use super::respond::{self, Body};

use super::{ApiResponse, Encoding, RequestInfo};
use crate::audit::Tunnel;

/// The length before each frame of a stream of protobuf; messages have one of their own.
const PREFIX: usize = 4;

/// A client that wants its events as messages.
pub struct Client {
    upgrade: OnUpgrade,
    answer: HeaderMap,
}

impl Client {
    /// `None` where the request is no watch, or does not ask for a WebSocket.
    pub fn of(info: &RequestInfo, request: &mut Request<Incoming>) -> Result<Option<Self>, ApiError> {
        if info.verb != "watch" || !handshake::is_asked_for(request.headers()) {
            return Ok(None);
        }
        // No sub-protocol is spoken; those that a client offers are not looked at.
        let mut headers = request.headers().clone();
        headers.remove(hyper::header::SEC_WEBSOCKET_PROTOCOL);
        let (answer, _) = handshake::accept(&headers, &[]).map_err(ApiError::bad_request)?;
        Ok(Some(Self { upgrade: hyper::upgrade::on(request), answer }))
    }

    /// Answers with the events of a watch; an error is an ordinary answer.
    pub fn answer(self, watch: ApiResponse, encoding: Encoding) -> ApiResponse {
        if watch.status() != StatusCode::OK {
            return watch;
        }
        let (mut parts, events) = watch.into_parts();
        parts.status = StatusCode::SWITCHING_PROTOCOLS;
        parts.headers.remove(hyper::header::CONTENT_TYPE);
        parts.headers.extend(self.answer);
        let (tunnel, open) = Tunnel::open();
        parts.extensions.insert(tunnel);
        tokio::spawn(async move {
            let _open = open;
            match self.upgrade.await {
                Ok(client) => reader::relay(TokioIo::new(client), messages(events, encoding)).await,
                Err(error) => tracing::debug!(%error, "take over a connection"),
            }
        });
        ApiResponse::from_parts(parts, respond::full(Bytes::new()))
    }
}

/// Every frame of a watch is one event.
fn messages(events: Body, encoding: Encoding) -> impl Stream<Item = Message> {
    futures::stream::unfold(events, move |mut events| async move {
        let frame = events.frame().await?;
        let data = match frame.map(|frame| frame.into_data()) {
            Ok(Ok(data)) => data,
            Ok(Err(_trailers)) => return None,
            Err(never) => match never {},
        };
        let message = match encoding {
            Encoding::Protobuf => Message::Binary(data.slice(PREFIX.min(data.len())..)),
            // Events are JSON, which is text.
            Encoding::Json | Encoding::Yaml => Message::Text(String::from_utf8_lossy(&data).into_owned().into()),
        };
        Some((message, events))
    })
}
