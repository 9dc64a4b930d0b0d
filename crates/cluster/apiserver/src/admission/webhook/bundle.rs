//! Whom a `caBundle` makes us trust: what its certificates signed, and they themselves.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

#[derive(Debug)]
struct Bundle {
    roots: Vec<CertificateDer<'static>>,
    chains: Arc<WebPkiServerVerifier>,
}

/// A client's TLS with the certificates of a PEM text, and no others, as roots.
pub fn client_config(pem: &[u8]) -> Result<ClientConfig, String> {
    let verifier = verifier(pem)?;
    let mut config =
        ClientConfig::builder().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Believes what the certificates of a PEM text signed, and them.
pub fn verifier(pem: &[u8]) -> Result<Arc<dyn ServerCertVerifier>, String> {
    const NOTHING: &str = "unable to load root certificates: unable to parse bytes as PEM block";
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let roots = roots.map_err(|e| format!("{NOTHING}: {e}"))?;
    if roots.is_empty() {
        return Err(NOTHING.into());
    }
    let mut store = RootCertStore::empty();
    for root in &roots {
        store.add(root.clone()).map_err(|e| format!("unable to load root certificates: {e}"))?;
    }
    let chains = WebPkiServerVerifier::builder(Arc::new(store)).build().map_err(|e| e.to_string())?;
    Ok(Arc::new(Bundle { roots, chains }))
}

impl ServerCertVerifier for Bundle {
    /// A server may show one of the roots themselves, as Go's `crypto/x509` allows: `openssl req -x509` makes such
    /// certificates, which are their own CA. Name, time and purpose are looked at all the same.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.roots.iter().any(|root| root.as_ref() == end_entity.as_ref()) {
            return self.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        check_time_and_purpose(end_entity, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

fn check_time_and_purpose(cert: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let (_, parsed) = X509Certificate::from_der(cert).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < parsed.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > parsed.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    let usage = parsed.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
    match usage.is_none_or(|u| u.value.any || u.value.server_auth) {
        true => Ok(()),
        false => Err(CertificateError::InvalidPurpose.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};

    fn certificate(usage: Option<ExtendedKeyUsagePurpose>, last_year: i32) -> (String, CertificateDer<'static>) {
        let mut params = CertificateParams::new(vec!["hook.ns.svc".into()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.extended_key_usages = usage.into_iter().collect();
        params.not_after = rcgen::date_time_ymd(last_year, 1, 1);
        let cert = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        (cert.pem(), cert.der().clone())
    }

    #[test]
    fn a_root_may_serve() {
        kinit_component_base::runtime::install_tls_provider();
        let server = Some(ExtendedKeyUsagePurpose::ServerAuth);
        for (name, usage, last_year, good) in [
            ("hook.ns.svc", None, 2100, true),
            ("hook.ns.svc", server.clone(), 2100, true),
            ("other.ns.svc", None, 2100, false),
            ("hook.ns.svc", None, 2001, false),
            ("hook.ns.svc", Some(ExtendedKeyUsagePurpose::ClientAuth), 2100, false),
        ] {
            let (pem, der) = certificate(usage.clone(), last_year);
            let bundle = bundle_of(&pem);
            let reported = bundle.verify_server_cert(&der, &[], &name.try_into().unwrap(), &[], UnixTime::now());
            assert_eq!(reported.is_ok(), good, "{name} {usage:?} {last_year}: {reported:?}");
        }
        // Another certificate is not a root for having the same name.
        let (_, stranger) = certificate(None, 2100);
        let bundle = bundle_of(&certificate(None, 2100).0);
        let name = "hook.ns.svc".try_into().unwrap();
        assert!(bundle.verify_server_cert(&stranger, &[], &name, &[], UnixTime::now()).is_err());
        assert!(client_config(b"x").is_err());
    }

    fn bundle_of(pem: &str) -> Bundle {
        let root = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut store = RootCertStore::empty();
        store.add(root.clone()).unwrap();
        let chains = WebPkiServerVerifier::builder(Arc::new(store)).build().unwrap();
        Bundle { roots: vec![root], chains }
    }
}
