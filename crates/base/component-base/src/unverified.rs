//! TLS to servers whose certificate nobody could verify, or not yet.

use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

/// The API defines three such connections: HTTPS probes (`HTTPGetAction.scheme`), `https:NAME:PORT` of the proxy
/// subresources of pods, services and nodes, and APIServices with `insecureSkipTLSVerify`. kubeadm's discovery is the
/// fourth: what it reads proves itself. None carries a secret of ours (an extension server is shown the front proxy's
/// certificate, of which it learns no key). Nothing else uses this.
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

/// A client that takes any certificate and shows none.
pub fn config() -> rustls::ClientConfig {
    rustls::ClientConfig::builder().dangerous().with_custom_certificate_verifier(verifier()).with_no_client_auth()
}

/// Takes any certificate.
pub fn verifier() -> std::sync::Arc<dyn ServerCertVerifier> {
    std::sync::Arc::new(Anyone)
}
