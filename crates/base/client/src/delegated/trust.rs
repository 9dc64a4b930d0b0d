//! Whose certificates count: clients', and front proxies'. What the API server publishes is followed, so that new
//! authorities need no restart.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use http::HeaderMap;
use k8s_openapi::api::core::v1::ConfigMap;
use kinit_component_base::Shutdown;
use kube::runtime::watcher;
use kube::{Api, Client};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};

use super::User;
use super::headers::Headers;
use crate::informer;

const MAP: &str = "extension-apiserver-authentication";

type Verifier = Arc<dyn ClientCertVerifier>;

/// What is trusted at one time.
#[derive(Debug, Default)]
struct State {
    clients: Option<Verifier>,
    proxies: Option<(Verifier, Headers)>,
}

/// Authorities of certificates. Handshakes and requests see what is trusted at their time.
#[derive(Debug, Default)]
pub struct Trust {
    now: ArcSwap<State>,
    /// Whether authorities may come later.
    followed: bool,
}

impl Trust {
    /// From PEM: the CA of clients, and the CA of front proxies, all of which are believed.
    pub fn fixed(clients: Option<&[u8]>, proxies: Option<&[u8]>) -> Result<Arc<Self>> {
        let clients = clients.map(verifier).transpose().context("use the CA of client certificates")?;
        let proxies = proxies.map(verifier).transpose().context("use the CA of front proxies")?;
        let state = State { clients, proxies: proxies.map(|v| (v, Headers::default())) };
        Ok(Arc::new(Self { now: ArcSwap::from_pointee(state), followed: false }))
    }

    /// What ConfigMap `kube-system/extension-apiserver-authentication` says, now and later; nobody until it was read.
    /// A file takes the place of the map's CA of clients.
    pub fn published(client: Client, client_ca: Option<&Path>, shutdown: &Shutdown) -> Result<Arc<Self>> {
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
        let own = client_ca.map(read).transpose()?;
        let clients = own.as_deref().map(verifier).transpose().context("use the CA of client certificates")?;
        let state = State { clients, proxies: None };
        let trust = Arc::new(Self { now: ArcSwap::from_pointee(state), followed: true });
        let config = watcher::Config::default().fields(&format!("metadata.name={MAP}"));
        let maps = informer::spawn(Api::<ConfigMap>::namespaced(client, "kube-system"), config, shutdown);
        let followed = trust.clone();
        maps.on_change(move |change| {
            let data = change.object().data.clone().unwrap_or_default();
            match State::published(&data, own.as_deref()) {
                Ok(state) => followed.now.store(Arc::new(state)),
                Err(error) => tracing::error!(map = MAP, error = format!("{error:#}"), "keep trusting as before"),
            }
        });
        Ok(trust)
    }

    /// Who a certificate, and behind a front proxy's the headers, say that the caller is.
    pub(super) fn who(&self, headers: &HeaderMap, certificates: &[CertificateDer<'_>]) -> Option<User> {
        let [leaf, rest @ ..] = certificates else { return None };
        let (state, subject) = (self.now.load(), subject(leaf)?);
        let verifies = |v: &Verifier| v.verify_client_cert(leaf, rest, UnixTime::now()).is_ok();
        if let Some((proxies, names)) = &state.proxies
            && names.believes(&subject.name)
            && verifies(proxies)
            && let Some(user) = names.user(headers)
        {
            return Some(user);
        }
        let is_client = state.clients.as_ref().is_some_and(verifies);
        (is_client && !subject.name.is_empty()).then_some(subject)
    }
}

impl State {
    fn published(data: &std::collections::BTreeMap<String, String>, client_ca: Option<&[u8]>) -> Result<Self> {
        let pem = |key: &str| data.get(key).filter(|text| !text.is_empty()).map(|text| text.as_bytes());
        let clients = client_ca.or_else(|| pem("client-ca-file")).map(verifier).transpose();
        let proxies = pem("requestheader-client-ca-file").map(verifier).transpose();
        let names = Headers::published(data)?;
        Ok(Self {
            clients: clients.context("use client-ca-file")?,
            proxies: proxies.context("use requestheader-client-ca-file")?.map(|v| (v, names)),
        })
    }

    fn all(&self) -> impl Iterator<Item = &Verifier> {
        self.clients.iter().chain(self.proxies.iter().map(|(v, _)| v))
    }
}

fn verifier(pem: &[u8]) -> Result<Verifier> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.context("parse a CA certificate")?).context("use a certificate as CA")?;
    }
    Ok(WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build()?)
}

/// Common name and organizations.
fn subject(leaf: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    Some(User { name, groups, ..User::default() })
}

/// Handshakes: a certificate may be absent; one that is there must be of a trusted CA.
impl ClientCertVerifier for Trust {
    fn offer_client_auth(&self) -> bool {
        // Where authorities may come later, certificates are asked for from the start: a connection that is made
        // without is a stranger's for as long as it lasts, and API servers keep theirs. Until then a caller that has
        // one cannot connect, and tries again.
        self.followed || self.now.load().all().next().is_some()
    }
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let mut last = rustls::Error::General("no CA of client certificates".to_owned());
        for verifier in self.now.load().all() {
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
