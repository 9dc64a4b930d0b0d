//! Connections to kubelets (TLS, both sides proven), and to pods and other ports of nodes (plain, or TLS without
//! proof).

use std::sync::Arc;
use std::time::Duration;

use kinit_apimachinery::ApiError;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Kubelets, Scheme, Target, unreachable_target};

const PATIENCE: Duration = Duration::from_secs(10);

/// Any stream of bytes.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// One certificate for every server that asks.
#[derive(Debug)]
pub struct OneCert(pub Arc<CertifiedKey>);

impl ResolvesClientCert for OneCert {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

/// Connects.
pub async fn dial(kubelets: &Kubelets, target: &Target) -> Result<Box<dyn Stream>, ApiError> {
    let connect = TcpStream::connect((target.host.as_str(), target.port));
    let stream = match tokio::time::timeout(PATIENCE, connect).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(unreachable_target(target, &error)),
        Err(_) => return Err(unreachable_target(target, &"i/o timeout")),
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set TCP_NODELAY");
    }
    let config = match target.scheme {
        Scheme::Http => return Ok(Box::new(stream)),
        Scheme::Https => kinit_component_base::unverified::config(),
        Scheme::Kubelet => kubelets.tls()?,
    };
    let name = ServerName::try_from(target.host.clone())
        .map_err(|_| ApiError::internal("the target's address is no TLS name"))?;
    let connector = TlsConnector::from(Arc::new(config));
    match tokio::time::timeout(PATIENCE, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(unreachable_target(target, &format!("tls: {error}"))),
        Err(_) => Err(unreachable_target(target, &"TLS handshake timeout")),
    }
}
