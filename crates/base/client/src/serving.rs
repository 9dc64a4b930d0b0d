//! A component's own secure port: `/healthz`, `/livez`, `/readyz` for everybody, `/metrics` and all else for whom the
//! API server allows it.
//!
//! ```text
//! client certificate ─▶ --client-ca-file (or kube-system/extension-apiserver-authentication) ─▶ CN, O
//! X-Remote-* headers ─▶ believed behind a certificate of --requestheader-client-ca-file
//! bearer token       ─▶ TokenReview                                         └▶ SubjectAccessReview ─▶ answer
//! ```
//!
//! The rules are upstream's delegated authentication and authorization (`k8s.io/apiserver/pkg/server/options`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use k8s_openapi::api::core::v1::ConfigMap;
use kinit_component_base::Shutdown;
use kinit_component_base::ciphers::TlsArgs;
use kinit_component_base::health::Checks;
use kinit_component_base::serve::{Connection, health_response, serve};
use kinit_component_base::tls::ReloadingCert;
use kube::Client;
use kube::api::Api;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::delegated::{Asked, Delegated, Trust};

/// Where and how to serve.
#[derive(Debug, Clone)]
pub struct SecurePort {
    /// Address and port to listen on.
    pub address: SocketAddr,
    /// Certificate and key; a self-signed pair is made in memory when absent.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Versions and suites of TLS.
    pub tls: TlsArgs,
    /// CA of client certificates; looked up in `kube-system/extension-apiserver-authentication` when absent.
    pub client_ca: Option<PathBuf>,
    /// CA of front proxies, whose `X-Remote-*` headers are believed.
    pub requestheader_ca: Option<PathBuf>,
}

/// Serves until `shutdown`. `authentication` asks TokenReviews, `authorization` SubjectAccessReviews.
pub async fn serve_secure(
    port: SecurePort,
    authentication: Client,
    authorization: Client,
    checks: Checks,
    shutdown: Shutdown,
) -> Result<()> {
    let pem = match &port.client_ca {
        Some(path) => Some(std::fs::read(path).with_context(|| format!("read {}", path.display()))?),
        None => published_client_ca(&authentication).await,
    };
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let proxies = port.requestheader_ca.as_ref().map(read).transpose()?;
    let trust = Trust::fixed(pem.as_deref(), proxies.as_deref())?;
    let certificate: Arc<dyn ResolvesServerCert> = match &port.certificate {
        Some((certificate, key)) => ReloadingCert::load(certificate, key)?,
        None => Arc::new(SelfSigned::new()?),
    };
    let mut tls = port.tls.server()?.with_client_cert_verifier(trust.clone()).with_cert_resolver(certificate);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let listener = tokio::net::TcpListener::bind(port.address)
        .await
        .with_context(|| format!("listen on {} (health and metrics)", port.address))?;
    let guard = Arc::new(Guard { delegated: Delegated::new(trust, authentication, authorization), checks });
    serve(listener, Some(Arc::new(tls)), shutdown, move |request| {
        let guard = guard.clone();
        async move { guard.answer(request).await }
    })
    .await;
    Ok(())
}

async fn published_client_ca(client: &Client) -> Option<Vec<u8>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    match api.get("extension-apiserver-authentication").await {
        Ok(map) => map.data.and_then(|mut data| data.remove("client-ca-file")).map(String::into_bytes),
        Err(error) => {
            tracing::warn!(%error, "no client certificates on the secure port: read kube-system/extension-apiserver-authentication");
            None
        }
    }
}

struct Guard {
    delegated: Delegated,
    checks: Checks,
}

impl Guard {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let open = ["/healthz", "/livez", "/readyz"]
            .iter()
            .any(|p| path.strip_prefix(p).is_some_and(|r| r.is_empty() || r.starts_with('/')));
        if !open {
            match self.allowed(&request).await {
                Ok(Ok(())) => {}
                Ok(Err(status)) => return refuse(status),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "authorize a request to the secure port");
                    return refuse(StatusCode::INTERNAL_SERVER_ERROR);
                }
            }
        }
        health_response(&self.checks, path, request.uri().query().unwrap_or(""))
    }

    async fn allowed(&self, request: &Request<Incoming>) -> Result<Result<(), StatusCode>> {
        let certificates = request.extensions().get::<Connection>().map(|c| c.certificates.clone());
        let who = self.delegated.who(request.headers(), certificates.as_deref().unwrap_or_default());
        let Some(user) = who.await? else { return Ok(Err(StatusCode::UNAUTHORIZED)) };
        let (verb, path) = (request.method().as_str().to_ascii_lowercase(), request.uri().path().to_owned());
        let allowed = self.delegated.may(&user, &Asked::Path { verb, path }).await?;
        Ok(if allowed { Ok(()) } else { Err(StatusCode::FORBIDDEN) })
    }
}

fn refuse(status: StatusCode) -> Response<Full<Bytes>> {
    let text = status.canonical_reason().unwrap_or("refused").to_owned();
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

/// A certificate for localhost that lives as long as the process.
#[derive(Debug)]
struct SelfSigned(Arc<CertifiedKey>);

impl SelfSigned {
    fn new() -> Result<Self> {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let pair = rcgen::generate_simple_self_signed(names).context("make a self-signed certificate")?;
        let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der())
            .map_err(|error| anyhow::anyhow!("use a new key: {error}"))?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(vec![pair.cert.der().clone()], key, &provider)
            .context("use a self-signed certificate")?;
        Ok(Self(Arc::new(certified)))
    }
}

impl ResolvesServerCert for SelfSigned {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
