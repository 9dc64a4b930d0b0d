//! TLS for servers, with certificates that are read again when their files change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use crate::ciphers::TlsArgs;

/// A certificate and key on disk, reloaded when either file's modification time changes.
///
/// The files are looked at in handshakes, at most once a second: rotation needs no signal and no restart, and costs one
/// `stat` a second at most.
#[derive(Debug)]
pub struct ReloadingCert {
    cert: PathBuf,
    key: PathBuf,
    current: ArcSwap<CertifiedKey>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Seen {
    looked: std::time::Instant,
    times: (Option<SystemTime>, Option<SystemTime>),
}

impl ReloadingCert {
    /// Reads the pair; both files are PEM (the key PKCS#1, SEC1 or PKCS#8).
    pub fn load(cert: &Path, key: &Path) -> Result<Arc<Self>> {
        let times = (modified(cert), modified(key));
        let current = ArcSwap::from_pointee(read_pair(cert, key)?);
        let seen = Mutex::new(Seen { looked: std::time::Instant::now(), times });
        Ok(Arc::new(Self { cert: cert.to_owned(), key: key.to_owned(), current, seen }))
    }

    /// The pair as it is now on disk, or the last good one when the files cannot be read.
    pub fn current(&self) -> Arc<CertifiedKey> {
        let mut seen = self.seen.lock();
        if seen.looked.elapsed().as_secs() >= 1 {
            seen.looked = std::time::Instant::now();
            let times = (modified(&self.cert), modified(&self.key));
            if times != seen.times {
                match read_pair(&self.cert, &self.key) {
                    Ok(pair) => {
                        tracing::info!(file = %self.cert.display(), "certificate reloaded");
                        self.current.store(Arc::new(pair));
                        seen.times = times;
                    }
                    Err(error) => tracing::warn!(error = format!("{error:#}"), "keep the old certificate"),
                }
            }
        }
        self.current.load_full()
    }
}

impl ResolvesServerCert for ReloadingCert {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// Who may connect: what the handshake asks of clients. Authorization is the request chain's affair.
#[derive(Debug, Clone)]
pub enum ClientAuth {
    /// No client certificate is asked for.
    None,
    /// A certificate is asked for; when one is presented it must chain to this file's CAs.
    Optional(PathBuf),
    /// A certificate that chains to this file's CAs is required.
    Required(PathBuf),
}

/// A server's TLS configuration, ALPN `h2` and `http/1.1`.
pub fn server_config(
    cert: Arc<dyn ResolvesServerCert>,
    clients: &ClientAuth,
    tls: &TlsArgs,
) -> Result<Arc<rustls::ServerConfig>> {
    let builder = tls.server()?;
    let mut config = match clients {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Optional(ca) => builder.with_client_cert_verifier(verifier(ca, true)?),
        ClientAuth::Required(ca) => builder.with_client_cert_verifier(verifier(ca, false)?),
    }
    .with_cert_resolver(cert);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn verifier(ca: &Path, optional: bool) -> Result<Arc<dyn ClientCertVerifier>> {
    let builder = WebPkiClientVerifier::builder(Arc::new(read_roots(ca)?));
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    builder.build().with_context(|| format!("build a client certificate verifier from {}", ca.display()))
}

/// Reads a PEM file of CA certificates.
pub fn read_roots(ca: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for cert in read_certs(ca)? {
        roots.add(cert).with_context(|| format!("use a certificate of {} as CA", ca.display()))?;
    }
    anyhow::ensure!(!roots.is_empty(), "{} holds no certificate", ca.display());
    Ok(roots)
}

/// Reads all certificates of a PEM file.
pub fn read_certs(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .with_context(|| format!("parse the certificates of {}", path.display()))
}

fn read_pair(cert: &Path, key: &Path) -> Result<CertifiedKey> {
    let certs = read_certs(cert)?;
    let pem = std::fs::read(key).with_context(|| format!("read {}", key.display()))?;
    let der = PrivateKeyDer::from_pem_slice(&pem).with_context(|| format!("parse the key in {}", key.display()))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(certs, der, &provider)
        .with_context(|| format!("use {} with {}", cert.display(), key.display()))
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|m| m.modified()).ok()
}
