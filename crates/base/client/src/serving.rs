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
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use kinit_component_base::Shutdown;
use kinit_component_base::ciphers::TlsArgs;
use kinit_component_base::health::Checks;
use kinit_component_base::serve::{Connection, health_response, serve};
use kinit_component_base::tls::ReloadingCert;
use kube::Client;
use kube::api::{Api, PostParams};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

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

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct User {
    name: String,
    groups: Vec<String>,
}

struct Guard {
    clients: Option<Arc<dyn ClientCertVerifier>>,
    proxies: Option<Arc<dyn ClientCertVerifier>>,
    authentication: Client,
    authorization: Client,
    checks: Checks,
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
    let clients = pem.as_deref().map(verifier).transpose().context("use the CA of client certificates")?;
    let proxies = match &port.requestheader_ca {
        Some(path) => {
            let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
            Some(verifier(&pem).with_context(|| format!("use {}", path.display()))?)
        }
        None => None,
    };
    let certificate: Arc<dyn ResolvesServerCert> = match &port.certificate {
        Some((certificate, key)) => ReloadingCert::load(certificate, key)?,
        None => Arc::new(SelfSigned::new()?),
    };
    let either = EitherCa([clients.clone(), proxies.clone()].into_iter().flatten().collect());
    let builder = port.tls.server()?;
    let mut tls = if either.0.is_empty() {
        builder.with_no_client_auth()
    } else {
        builder.with_client_cert_verifier(Arc::new(either))
    }
    .with_cert_resolver(certificate);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let listener = tokio::net::TcpListener::bind(port.address)
        .await
        .with_context(|| format!("listen on {} (health and metrics)", port.address))?;
    let guard = Arc::new(Guard { clients, proxies, authentication, authorization, checks });
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
        let Some(user) = self.who(request).await? else { return Ok(Err(StatusCode::UNAUTHORIZED)) };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name),
                groups: Some(user.groups),
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(request.uri().path().to_owned()),
                    verb: Some(request.method().as_str().to_ascii_lowercase()),
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.authorization.clone());
        let answer = api.create(&PostParams::default(), &review).await.context("ask a SubjectAccessReview")?;
        Ok(if answer.status.is_some_and(|s| s.allowed) { Ok(()) } else { Err(StatusCode::FORBIDDEN) })
    }

    async fn who(&self, request: &Request<Incoming>) -> Result<Option<User>> {
        let certificates = request.extensions().get::<Connection>().map(|c| c.certificates.clone());
        if let Some([leaf, rest @ ..]) = certificates.as_deref() {
            if verifies(self.proxies.as_ref(), leaf, rest) {
                let header = |name: &str| -> Vec<String> {
                    let values = request.headers().get_all(name).iter();
                    values.filter_map(|v| v.to_str().ok().map(str::to_owned)).collect()
                };
                if let Some(name) = header("x-remote-user").into_iter().next() {
                    let mut groups = header("x-remote-group");
                    groups.push("system:authenticated".to_owned());
                    return Ok(Some(User { name, groups }));
                }
            }
            if verifies(self.clients.as_ref(), leaf, rest) {
                return Ok(subject(leaf));
            }
        }
        let bearer = request.headers().get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let Some(token) = bearer.and_then(|v| v.strip_prefix("Bearer ")) else { return Ok(None) };
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), ..Default::default() },
            ..Default::default()
        };
        let api: Api<TokenReview> = Api::all(self.authentication.clone());
        let status = api.create(&PostParams::default(), &review).await.context("ask a TokenReview")?.status;
        let Some(status) = status.filter(|s| s.authenticated == Some(true)) else { return Ok(None) };
        let user = status.user.unwrap_or_default();
        Ok(Some(User { name: user.username.unwrap_or_default(), groups: user.groups.unwrap_or_default() }))
    }
}

fn refuse(status: StatusCode) -> Response<Full<Bytes>> {
    let text = status.canonical_reason().unwrap_or("refused").to_owned();
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

fn verifies(
    verifier: Option<&Arc<dyn ClientCertVerifier>>,
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
) -> bool {
    verifier.is_some_and(|v| v.verify_client_cert(leaf, rest, UnixTime::now()).is_ok())
}

fn subject(leaf: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    groups.push("system:authenticated".to_owned());
    Some(User { name, groups })
}

fn verifier(pem: &[u8]) -> Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.context("parse a CA certificate")?).context("use a certificate as CA")?;
    }
    Ok(WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build()?)
}

/// Accepts a client certificate that any of several CAs issued, and clients without one.
#[derive(Debug)]
struct EitherCa(Vec<Arc<dyn ClientCertVerifier>>);

impl ClientCertVerifier for EitherCa {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let mut last = rustls::Error::General("no CA of client certificates".to_owned());
        for verifier in &self.0 {
            match verifier.verify_client_cert(leaf, rest, now) {
                Ok(verified) => return Ok(verified),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
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
