//! Connections to an extension API server: TLS to the Service's name, our client certificate, HTTP/1.1 and HTTP/2, a
//! pool.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kinit_component_base::tls::ReloadingCert;
use kinit_component_base::unverified;
use kinit_storage::Store;
use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::resolve;
use super::service::Target;
use crate::authn::User;
use crate::node::OneCert;

/// How long a connection may take, and again its TLS handshake.
const PATIENCE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(90);

/// A body on its way to an extension server.
pub type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Dials.
#[derive(Clone)]
struct Dialer {
    target: Arc<Target>,
    store: Store,
    by_endpoints: bool,
    verifier: Result<Arc<dyn ServerCertVerifier>, String>,
    identity: Option<Arc<ReloadingCert>>,
}

/// One extension API server.
pub struct Backend {
    dialer: Dialer,
    client: legacy::Client<Dialer, Body>,
}

/// An answer that was read as a whole.
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub tag: String,
    pub body: Bytes,
}

/// A question of this server itself.
pub struct OwnRequest<'a> {
    pub path: &'a str,
    pub accept: &'a str,
    /// The tag of what is known already.
    pub tag: &'a str,
    /// Bytes an answer may have.
    pub limit: usize,
    pub patience: Duration,
}

impl Backend {
    /// Nothing is connected yet.
    pub fn new(target: Target, store: Store, identity: Option<Arc<ReloadingCert>>, by_endpoints: bool) -> Self {
        let verifier = verifier(&target);
        let dialer = Dialer { target: Arc::new(target), store, by_endpoints, verifier, identity };
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(dialer.clone());
        Self { dialer, client }
    }

    /// The `host:port` of URLs: the name that the certificate is for.
    pub fn authority(&self) -> String {
        format!("{}:{}", server_name(&self.dialer.target), self.dialer.target.port)
    }

    /// Where it is called now.
    pub fn address(&self) -> Result<resolve::Address, String> {
        resolve::address(&self.dialer.store, &self.dialer.target, self.dialer.by_endpoints)
    }

    /// Sends a request whose URI names [`Self::authority`]; the error says what failed on the way.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, String> {
        self.client.request(request).await.map_err(|e| causes(&e))
    }

    /// A connection of its own, for a request that is upgraded.
    pub async fn dial(&self) -> Result<TokioIo<TlsStream<TcpStream>>, String> {
        Ok(self.dialer.connect(&[b"http/1.1"]).await?.0)
    }

    /// Asks as one of the server's own identities.
    pub async fn get(&self, own: &OwnRequest<'_>, user: &User) -> Result<Answer, String> {
        let uri = format!("https://{}{}", self.authority(), own.path);
        let mut request = Request::get(uri).header(ACCEPT, own.accept);
        if !own.tag.is_empty() {
            request = request.header(IF_NONE_MATCH, own.tag);
        }
        if let Some(headers) = request.headers_mut() {
            super::proxy::identify(headers, user);
        }
        let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
        let request = request.body(body).map_err(|e| e.to_string())?;
        match tokio::time::timeout(own.patience, self.read(request, own.limit)).await {
            Ok(answer) => answer,
            Err(_) => Err("context deadline exceeded".into()),
        }
    }

    async fn read(&self, request: Request<Body>, limit: usize) -> Result<Answer, String> {
        let (parts, mut body) = self.send(request).await?.into_parts();
        let text = |name| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let mut all = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| causes(&e))?;
            let Some(data) = frame.data_ref() else { continue };
            if all.len() + data.len() > limit {
                return Err(format!("the answer is larger than {limit} bytes"));
            }
            all.extend_from_slice(data);
        }
        let (content_type, tag) = (text(CONTENT_TYPE), text(ETAG));
        Ok(Answer { status: parts.status.as_u16(), content_type, tag, body: all.freeze() })
    }
}

fn server_name(target: &Target) -> String {
    format!("{}.{}.svc", target.name, target.namespace)
}

/// Whom to believe: the caBundle, without one the authorities of this host; with `insecureSkipTLSVerify` anyone.
fn verifier(target: &Target) -> Result<Arc<dyn ServerCertVerifier>, String> {
    if target.unverified {
        return Ok(unverified::verifier());
    }
    if target.authority.is_empty() {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let host = rustls_platform_verifier::Verifier::new(provider).map_err(|e| e.to_string())?;
        return Ok(Arc::new(host));
    }
    let pem = base64::engine::general_purpose::STANDARD.decode(&target.authority).map_err(|e| e.to_string())?;
    crate::admission::webhook::bundle::verifier(&pem)
}

impl Dialer {
    /// The stream, and whether HTTP/2 is spoken on it.
    async fn connect(&self, protocols: &[&[u8]]) -> Result<(TokioIo<TlsStream<TcpStream>>, bool), String> {
        let address = resolve::address(&self.store, &self.target, self.by_endpoints)?;
        let verifier = self.verifier.clone()?;
        let dial = TcpStream::connect((address.host.as_str(), address.port));
        let stream = match tokio::time::timeout(PATIENCE, dial).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(format!("dial tcp {address}: {error}")),
            Err(_) => return Err(format!("dial tcp {address}: i/o timeout")),
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "set TCP_NODELAY");
        }
        let config = ClientConfig::builder().dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match &self.identity {
            Some(identity) => config.with_client_cert_resolver(Arc::new(OneCert(identity.current()))),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        let name = server_name(&self.target);
        let name = ServerName::try_from(name.clone()).map_err(|_| format!("{name} is no name of a server"))?;
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let stream = match tokio::time::timeout(PATIENCE, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(format!("tls: {error}")),
            Err(_) => return Err("TLS handshake timeout".into()),
        };
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((TokioIo::new(stream), h2))
    }
}

/// The causes of a failed call; what the client library says of itself is left out.
fn causes(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

impl tower::Service<Uri> for Dialer {
    type Response = Link;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Link>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move {
            let connected = dialer.connect(&[b"h2", b"http/1.1"]).await;
            let (stream, h2) = connected.map_err(std::io::Error::other)?;
            Ok(Link { stream, h2 })
        })
    }
}

/// A connection of the pool.
struct Link {
    stream: TokioIo<TlsStream<TcpStream>>,
    h2: bool,
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        if self.h2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl Read for Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl Write for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
