//! The certificate of the kubelet's own server: given by file, signed by the cluster, or self-signed until it is.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use kinit_component_base::tls::ReloadingCert;
use kinit_pki::{Subject, Usage};
use parking_lot::Mutex;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::signing::SigningRequest;
use crate::volumes::files::write_atomically;

/// The serving certificate a node asks for.
pub fn serving_ask(node: &str, ips: &[IpAddr]) -> SigningRequest {
    SigningRequest {
        signer: "kubernetes.io/kubelet-serving",
        usages: &["digital signature", "server auth"],
        subject: Subject {
            common_name: format!("system:node:{node}"),
            organization: Some("system:nodes".into()),
            usages: vec![Usage::Server],
            dns: vec![node.to_owned()],
            ips: ips.to_vec(),
            days: 365,
        },
    }
}

/// Presents the file's certificate as soon as there is one.
#[derive(Debug)]
pub struct Resolver {
    file: PathBuf,
    loaded: Mutex<Option<Arc<ReloadingCert>>>,
    fallback: Arc<ReloadingCert>,
}

impl Resolver {
    /// `file` holds certificate and key once the cluster has signed; until then the self-signed pair serves.
    pub fn new(file: PathBuf, directory: &Path, node: &str, ips: &[IpAddr]) -> Result<Arc<Self>> {
        let fallback = self_signed(directory, node, ips)?;
        Ok(Arc::new(Self { file, loaded: Mutex::new(None), fallback }))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut loaded = self.loaded.lock();
        if loaded.is_none() && self.file.exists() {
            match ReloadingCert::load(&self.file, &self.file) {
                Ok(cert) => *loaded = Some(cert),
                Err(error) => tracing::warn!(error = format!("{error:#}"), "read the serving certificate"),
            }
        }
        Some(loaded.as_ref().unwrap_or(&self.fallback).current())
    }
}

/// `kubelet.crt` and `kubelet.key`, made when they are not there.
pub fn self_signed(directory: &Path, node: &str, ips: &[IpAddr]) -> Result<Arc<ReloadingCert>> {
    let (cert, key) = (directory.join("kubelet.crt"), directory.join("kubelet.key"));
    if let Ok(pair) = ReloadingCert::load(&cert, &key) {
        return Ok(pair);
    }
    crate::volumes::make_directory(directory, 0o755).map_err(|e| anyhow::anyhow!(e))?;
    let mut names = vec![node.to_owned()];
    names.extend(ips.iter().map(ToString::to_string));
    let made = rcgen::generate_simple_self_signed(names).context("make a self-signed serving certificate")?;
    write_atomically(&key, made.signing_key.serialize_pem().as_bytes(), 0o600).context("write kubelet.key")?;
    write_atomically(&cert, made.cert.pem().as_bytes(), 0o644).context("write kubelet.crt")?;
    ReloadingCert::load(&cert, &key)
}
