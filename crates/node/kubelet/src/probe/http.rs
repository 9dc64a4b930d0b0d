//! HTTP requests to containers, for probes and lifecycle handlers (`pkg/probe/http`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kinit_component_base::version;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Where to send a request and what to say.
#[derive(Debug, Clone)]
pub struct Target {
    /// Host to connect to.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path with query.
    pub path: String,
    /// TLS.
    pub tls: bool,
    /// Headers beyond the usual.
    pub headers: Vec<(String, String)>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
}

impl Answer {
    /// 2xx and 3xx are success.
    pub fn into_result(self) -> Result<(), String> {
        if (200..400).contains(&self.status) {
            Ok(())
        } else {
            Err(format!("HTTP probe failed with statuscode: {}", self.status))
        }
    }
}

/// A port by number or by its name in the container.
pub fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => match name.parse() {
            Ok(number) => Some(number),
            Err(_) => {
                container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port)
            }
        },
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("container {} has no port {port:?}", container.name))
}

/// Resolves an httpGet action.
pub fn target(get: &HTTPGetAction, container: &Container, pod_ip: Option<&str>) -> Result<Target, String> {
    let host = get.host.clone().filter(|h| !h.is_empty()).or_else(|| pod_ip.map(str::to_owned));
    let path = get.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".to_owned());
    Ok(Target {
        host: host.ok_or("the pod has no address yet")?,
        port: port(&get.port, container)?,
        path: if path.starts_with('/') { path } else { format!("/{path}") },
        tls: get.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
        headers: get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
    })
}

/// Sends a GET; redirects are not followed (their status is success).
pub async fn get(target: &Target, timeout: Duration) -> Result<Answer, String> {
    tokio::time::timeout(timeout, exchange(target))
        .await
        .map_err(|_| format!("Get {}: context deadline exceeded", target.url()))?
}

impl Target {
    fn url(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("\"{}://{host}:{}{}\"", if self.tls { "https" } else { "http" }, self.port, self.path)
    }
}

async fn exchange(target: &Target) -> Result<Answer, String> {
    let failed = |e: &dyn std::fmt::Display| format!("Get {}: {e}", target.url());
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(|e| failed(&e))?;
    if !target.tls {
        return converse(target, stream).await.map_err(|e| failed(&e));
    }
    let name = rustls_pki_types::ServerName::try_from(target.host.clone()).map_err(|e| failed(&e))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(unverified::config()));
    let stream = connector.connect(name, stream).await.map_err(|e| failed(&e))?;
    converse(target, stream).await.map_err(|e| failed(&e))
}

async fn converse(
    target: &Target,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Answer, String> {
    let text = |e: hyper::Error| e.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let connection = tokio::spawn(connection);
    let host = if target.host.contains(':') { format!("[{}]", target.host) } else { target.host.clone() };
    let mut request = hyper::Request::get(&target.path);
    let given = |name: &str| target.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if !given("host") {
        request = request.header("host", format!("{host}:{}", target.port));
    }
    if !given("user-agent") {
        request = request.header("user-agent", format!("kube-probe/{}.{}", version::MAJOR, version::MINOR));
    }
    if !given("accept") {
        request = request.header("accept", "*/*");
    }
    request = request.header("connection", "close");
    for (name, value) in &target.headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await.map_err(text)?;
    let status = answer.status().as_u16();
    // Read, so that the server is not cut off in the middle of its answer.
    let _ = Limited::new(answer.into_body(), 10 << 10).collect().await;
    connection.abort();
    Ok(Answer { status })
}

/// TLS to a container that is only asked whether it is well.
mod unverified {
    use rustls::DigitallySignedStruct;
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

    /// The API says of HTTPS probes that the kubelet does not verify certificates: a container has no identity to verify
    /// against, the request carries no credentials, and only the status is read. Nothing else uses this.
    #[derive(Debug)]
    struct Anyone;

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }

    pub fn config() -> rustls::ClientConfig {
        rustls::ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(std::sync::Arc::new(Anyone))
            .with_no_client_auth()
    }
}
