//! Requests that another server answers: kubelets (logs, exec, attach, port-forward, nodes/proxy), pods and services.

mod connect;
mod locate;
mod log;
mod proxy;
mod rewrite;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request as HttpRequest, StatusCode};
use hyper_util::rt::TokioIo;
use kinit_apimachinery::ApiError;
use kinit_component_base::Shutdown;
use kinit_component_base::tls::{ReloadingCert, read_roots};
use kinit_streaming::handshake;

pub(crate) use self::connect::OneCert;
use self::rewrite::{Links, Rewriter};
use crate::admission::webhook::connect;
use crate::audit::Tunnel;
use crate::authz::{self, Attributes};
use crate::http::respond::Body;
use crate::http::{ApiResponse, respond};
use crate::options::Options;
use crate::registry::Request;

/// How kubelets are reached: our client certificate, the CA of theirs.
pub struct Kubelets {
    identity: Option<Arc<ReloadingCert>>,
    authority: Option<PathBuf>,
    preferred: Vec<String>,
}

impl Kubelets {
    /// From the command line.
    pub fn new(options: &Options) -> Result<Self> {
        let identity = match (&options.kubelet_client_certificate, &options.kubelet_client_key) {
            (Some(cert), Some(key)) => {
                Some(ReloadingCert::load(cert, key).context("load the kubelet client certificate")?)
            }
            _ => None,
        };
        Ok(Self {
            identity,
            authority: options.kubelet_certificate_authority.clone(),
            preferred: options.kubelet_preferred_address_types.clone(),
        })
    }

    fn tls(&self) -> Result<rustls::ClientConfig, ApiError> {
        let (Some(identity), Some(authority)) = (&self.identity, &self.authority) else {
            return Err(ApiError::internal(
                "kubelets cannot be reached: --kubelet-client-certificate and --kubelet-certificate-authority are not set",
            ));
        };
        // Read per connection: both may be rotated while we run.
        let roots = read_roots(authority).map_err(|e| ApiError::internal(format!("{e:#}")))?;
        let current = identity.current();
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(connect::OneCert(current)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Where a request goes on.
#[derive(Debug)]
pub(crate) struct Target {
    pub host: String,
    pub port: u16,
    pub scheme: Scheme,
    pub path_and_query: String,
}

impl Target {
    /// `host:port` as in a URL.
    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// How a target is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Over TLS, both sides proven.
    Kubelet,
    /// In plain text.
    Http,
    /// Over TLS to a server whose certificate nobody can verify.
    Https,
}

/// Answers a request for logs, streams or proxies.
pub async fn handle(request: &Request, http: HttpRequest<Incoming>) -> Result<ApiResponse, ApiError> {
    // A GET that opens a stream into a container needs the right to create, as upstream asks since v1.35.
    if request.info.verb == "get" && matches!(request.info.subresource.as_str(), "exec" | "attach" | "portforward") {
        let mut attributes = Attributes::of(&request.info);
        attributes.verb = "create".into();
        let decision = authz::decide(&request.server, &request.user, &attributes).await;
        if !decision.allowed {
            return Err(authz::forbidden(&request.user, &attributes, &decision.reason));
        }
    }
    let mut query = http.uri().query().unwrap_or("").to_owned();
    if request.info.subresource == "proxy"
        && let Some(answer) = to_root(request, &http)
    {
        return Ok(answer);
    }
    if request.info.subresource != "log" {
        query = connect(request, &query).await?;
    }
    let target = locate::target(request, &query).await?;
    forward(request, http, target).await
}

/// A client that asks for the proxy itself is sent to its root, so that relative links work
/// (`proxyRedirectsforRootPath`).
fn to_root(request: &Request, http: &HttpRequest<Incoming>) -> Option<ApiResponse> {
    let reading = matches!(*http.method(), Method::GET | Method::HEAD);
    if !reading || http.headers().contains_key(UPGRADE) || !proxy::parts(request).1.is_empty() {
        return None;
    }
    let query = http.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut answer = ApiResponse::new(respond::full(""));
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    respond::set_header(&mut answer, "location", &format!("{}/{query}", http.uri().path()));
    Some(answer)
}

/// Headers of one connection, which are not passed on.
pub(crate) const HOP: [&str; 6] =
    ["keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding"];

/// The headers of a request that are passed on: no proof of who sent it, nothing of its own connection.
pub(crate) fn forwarded_headers(headers: &HeaderMap, upgrade: bool) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in headers {
        let text = name.as_str();
        let secret = *name == AUTHORIZATION || text.starts_with("impersonate-") || text.starts_with("x-remote-");
        let hop = HOP.contains(&text) || (!upgrade && (*name == CONNECTION || *name == UPGRADE));
        if secret || hop || *name == HOST {
            continue;
        }
        // A token offered as a WebSocket subprotocol is the client's secret, too.
        if text == "sec-websocket-protocol"
            && let Ok(list) = value.to_str()
        {
            let kept: Vec<&str> = list
                .split(',')
                .map(str::trim)
                .filter(|p| !p.starts_with("base64url.bearer.authorization.k8s.io."))
                .collect();
            if let Ok(value) = kept.join(", ").parse() {
                out.append(HeaderName::from_static("sec-websocket-protocol"), value);
            }
            continue;
        }
        out.append(name.clone(), value.clone());
    }
    out
}

async fn forward(request: &Request, mut http: HttpRequest<Incoming>, target: Target) -> Result<ApiResponse, ApiError> {
    let stream = connect::dial(&request.server.kubelets, &target).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| unreachable_target(&target, &e))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "proxied connection ended");
        }
    });
    let upgrade = http.headers().contains_key(UPGRADE);
    let mut headers = forwarded_headers(http.headers(), upgrade);
    let mut client = upgrade.then(|| hyper::upgrade::on(&mut http));
    let messages = request.info.subresource == "log" && handshake::is_asked_for(http.headers());
    let reader = match client.take_if(|_| messages) {
        Some(connection) => {
            log::without_handshake(&mut headers);
            Some(log::Client::new(http.headers(), connection)?)
        }
        None => None,
    };
    let method = http.method().clone();
    let host = target.authority();
    let links = (request.info.subresource == "proxy")
        .then(|| Links { prefix: proxy::parts(request).0.to_owned(), hosts: [host.clone(), called(&http)] });
    let mut builder = HttpRequest::builder().method(method).uri(&target.path_and_query).header(HOST, host);
    if let Some(map) = builder.headers_mut() {
        map.extend(headers);
    }
    let outgoing = builder.body(http.into_body()).map_err(ApiError::internal)?;
    let mut response = sender.send_request(outgoing).await.map_err(|e| unreachable_target(&target, &e))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = client
    {
        let server = hyper::upgrade::on(&mut response);
        let tunnel = join(client, server, request.server.shutdown.clone());
        let mut out = ApiResponse::new(respond::full(""));
        *out.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *out.headers_mut() = response.headers().clone();
        out.extensions_mut().insert(tunnel);
        return Ok(out);
    }
    if let Some(reader) = reader
        && response.status() == StatusCode::OK
    {
        return Ok(reader.answer(response));
    }
    let (mut parts, body) = response.into_parts();
    for name in HOP {
        parts.headers.remove(name);
    }
    parts.headers.remove(CONNECTION);
    let rewriter = links.and_then(|links| Some(Rewriter::new(&links, links.headers(&mut parts.headers)?)));
    Ok(ApiResponse::from_parts(parts, relayed(body, rewriter)))
}

/// The host that the client called.
fn called(http: &HttpRequest<Incoming>) -> String {
    let header = http.headers().get(HOST).and_then(|host| host.to_str().ok());
    http.uri().authority().map(|authority| authority.as_str()).or(header).unwrap_or("").to_owned()
}

/// A body as it comes, through a rewriter if there is one. A broken body ends the answer; what came before it was sent
/// already.
fn relayed(body: Incoming, rewriter: Option<Rewriter>) -> Body {
    let state = (Some(body), rewriter);
    let frames = futures::stream::unfold(state, |(body, mut rewriter)| async move {
        let mut body = body?;
        let (frame, body) = match (body.frame().await, &mut rewriter) {
            (Some(Ok(frame)), None) => (frame, Some(body)),
            (Some(Ok(frame)), Some(rewriter)) => match frame.into_data() {
                Ok(data) => (Frame::data(rewriter.piece(&data).ok()?), Some(body)),
                Err(trailers) => (trailers, Some(body)),
            },
            (None, Some(rewriter)) => (Frame::data(rewriter.end().ok()?), None),
            (None, None) | (Some(Err(_)), _) => return None,
        };
        Some((Ok(frame), (body, rewriter)))
    });
    http_body_util::StreamBody::new(frames).boxed_unsync()
}

/// Carries bytes between two upgraded connections until either ends.
pub(crate) fn join(client: OnUpgrade, server: OnUpgrade, shutdown: Shutdown) -> Tunnel {
    let (tunnel, open) = Tunnel::open();
    tokio::spawn(async move {
        let _open = open;
        let (Ok(client), Ok(server)) = (client.await, server.await) else { return };
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        tokio::select! {
            // Either end closing is the end of the stream, not a failure of ours.
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
            () = shutdown.cancelled() => {}
        }
    });
    tunnel
}

fn unreachable_target(target: &Target, error: &dyn std::fmt::Display) -> ApiError {
    ApiError::unavailable(format!("error trying to reach {}: {error}", target.authority()))
}
