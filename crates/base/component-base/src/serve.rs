//! One HTTP server for all: HTTP/1.1 and HTTP/2, with upgrades, over TLS or plain, and a graceful end.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::health::Checks;
use crate::metrics;
use crate::runtime::Shutdown;

/// A request's connection, found in its extensions.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The peer's address.
    pub remote: SocketAddr,
    /// The verified client certificate chain, leaf first; empty when none was presented.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

const HANDSHAKE: Duration = Duration::from_secs(10);
/// Go's `DefaultMaxHeaderBytes`: selectors in URLs get long.
const HEADERS: u32 = 1 << 20;
const DRAIN: Duration = Duration::from_secs(5);

/// Serves until `shutdown`, then lets running requests finish for 5 s.
///
/// `handler` is cloned per request. A dead peer is found by HTTP/2 pings (30 s, 15 s) and TCP keep-alive.
pub async fn serve<F, Fut, B>(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    shutdown: Shutdown,
    handler: F,
) where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let acceptor = tls.map(TlsAcceptor::from);
    let graceful = GracefulShutdown::new();
    loop {
        let (stream, remote) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: give connections a moment to end.
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        tune(&stream);
        let (acceptor, handler, watcher) = (acceptor.clone(), handler.clone(), graceful.watcher());
        tokio::spawn(async move {
            let Some(acceptor) = acceptor else {
                return converse(stream, Connection { remote, certificates: Arc::from([]) }, handler, watcher).await;
            };
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let certificates: Vec<_> = stream
                        .get_ref()
                        .1
                        .peer_certificates()
                        .unwrap_or_default()
                        .iter()
                        .map(|c| c.clone().into_owned())
                        .collect();
                    converse(stream, Connection { remote, certificates: certificates.into() }, handler, watcher).await;
                }
                // Port scanners and balancers' TCP checks end up here; not worth more.
                Ok(Err(error)) => tracing::debug!(%remote, %error, "TLS handshake"),
                Err(_) => tracing::debug!(%remote, "TLS handshake took too long"),
            }
        });
    }
    drop(listener);
    tokio::select! { () = graceful.shutdown() => {}, () = tokio::time::sleep(DRAIN) => {} }
}

async fn converse<S, F, Fut, B>(
    stream: S,
    connection: Connection,
    handler: F,
    watcher: hyper_util::server::graceful::Watcher,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let remote = connection.remote;
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(connection.clone());
        // A connection keeps room for its service's future as long as it lasts: that is a pointer, and not the state of
        // a whole request, which for a watch would stay when it has long been answered.
        let answer = Box::pin(handler(request));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1000)
        .max_header_list_size(HEADERS)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(15));
    let conversation = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(conversation).await {
        tracing::debug!(%remote, %error, "connection ended");
    }
}

fn tune(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set TCP_NODELAY");
    }
}

/// Serves `/healthz`, `/livez`, `/readyz` (with single checks below them) and `/metrics` in plain HTTP; for loopback
/// and node-health ports.
pub async fn serve_health(address: SocketAddr, checks: Checks, shutdown: Shutdown) -> anyhow::Result<()> {
    use anyhow::Context;
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("listen on {address} for health checks"))?;
    serve_health_on(listener, checks, shutdown).await;
    Ok(())
}

/// [`serve_health`] on a port that is open already.
pub async fn serve_health_on(listener: TcpListener, checks: Checks, shutdown: Shutdown) {
    serve(listener, None, shutdown, move |request| {
        let answer = health_response(&checks, request.uri().path(), request.uri().query().unwrap_or(""));
        async move { answer }
    })
    .await;
}

/// The answer to a health or metrics path; 404 for any other.
pub fn health_response(checks: &Checks, path: &str, query: &str) -> Response<Full<Bytes>> {
    if path == "/metrics" {
        return text(200, metrics::CONTENT_TYPE, metrics::global().render());
    }
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let answer = match (parts.next(), parts.next()) {
        (Some(name @ ("healthz" | "livez" | "readyz")), only) => checks.answer(name, query, only),
        _ => None,
    };
    match answer {
        Some(answer) => text(answer.status, "text/plain; charset=utf-8", answer.body),
        None => text(404, "text/plain; charset=utf-8", "404 page not found\n".to_owned()),
    }
}

fn text(status: u16, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}
