//! Whose client certificates are good: two pools of CAs, read again when their files change.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use kinit_component_base::tls::read_certs;
use parking_lot::Mutex;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

const REMEMBER: Duration = Duration::from_secs(60);

struct Pools {
    clients: Arc<dyn ClientCertVerifier>,
    front: Option<Arc<dyn ClientCertVerifier>>,
    both: Arc<dyn ClientCertVerifier>,
    times: Vec<Option<SystemTime>>,
}

/// The pools, and what was found out about certificates lately.
pub struct Trust {
    clients: PathBuf,
    front: Option<PathBuf>,
    pools: ArcSwap<Pools>,
    looked: Mutex<Instant>,
    known: Mutex<HashMap<Vec<u8>, (bool, bool, Instant)>>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("clients", &self.clients).field("front", &self.front).finish_non_exhaustive()
    }
}

fn verifier(files: &[&Path]) -> Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for file in files {
        for cert in read_certs(file)? {
            roots.add(cert).with_context(|| format!("use a certificate of {} as CA", file.display()))?;
        }
    }
    WebPkiClientVerifier::builder(Arc::new(roots))
        .allow_unauthenticated()
        .build()
        .context("build a client certificate verifier")
}

impl Trust {
    /// Reads the files.
    pub fn load(clients: &Path, front: Option<&Path>) -> Result<Arc<Self>> {
        let pools = Pools::read(clients, front)?;
        Ok(Arc::new(Self {
            clients: clients.to_owned(),
            front: front.map(Path::to_owned),
            pools: ArcSwap::from_pointee(pools),
            looked: Mutex::new(Instant::now()),
            known: Mutex::default(),
        }))
    }

    fn pools(&self) -> arc_swap::Guard<Arc<Pools>> {
        let mut looked = self.looked.lock();
        if looked.elapsed() >= Duration::from_secs(1) {
            *looked = Instant::now();
            if Pools::times(&self.clients, self.front.as_deref()) != self.pools.load().times {
                match Pools::read(&self.clients, self.front.as_deref()) {
                    Ok(pools) => {
                        tracing::info!(file = %self.clients.display(), "client CAs reloaded");
                        self.pools.store(Arc::new(pools));
                        self.known.lock().clear();
                    }
                    Err(error) => tracing::warn!(error = format!("{error:#}"), "keep the old client CAs"),
                }
            }
        }
        self.pools.load()
    }

    fn check(&self, leaf: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> (bool, bool) {
        let key = leaf.as_ref().to_vec();
        if let Some((client, front, at)) = self.known.lock().get(&key)
            && at.elapsed() < REMEMBER
        {
            return (*client, *front);
        }
        let pools = self.pools();
        let rest = chain.get(1..).unwrap_or_default();
        let good = |v: &Arc<dyn ClientCertVerifier>| v.verify_client_cert(leaf, rest, UnixTime::now()).is_ok();
        let found = (good(&pools.clients), pools.front.as_ref().is_some_and(good));
        let mut known = self.known.lock();
        if known.len() > 10_000 {
            known.clear();
        }
        known.insert(key, (found.0, found.1, Instant::now()));
        found
    }

    /// Whether a certificate is of the clients' CA.
    pub fn is_client(&self, leaf: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> bool {
        self.check(leaf, chain).0
    }

    /// Whether a certificate is of the front proxies' CA.
    pub fn is_front_proxy(&self, leaf: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> bool {
        self.check(leaf, chain).1
    }
}

impl Pools {
    fn times(clients: &Path, front: Option<&Path>) -> Vec<Option<SystemTime>> {
        let time = |p: &Path| std::fs::metadata(p).and_then(|m| m.modified()).ok();
        std::iter::once(clients).chain(front).map(time).collect()
    }

    fn read(clients: &Path, front: Option<&Path>) -> Result<Self> {
        let times = Self::times(clients, front);
        let all: Vec<&Path> = std::iter::once(clients).chain(front).collect();
        Ok(Self {
            clients: verifier(&[clients])?,
            front: front.map(|f| verifier(&[f])).transpose()?,
            both: verifier(&all)?,
            times,
        })
    }
}

/// In the handshake a certificate of either pool passes; a presented certificate of neither ends it.
impl ClientCertVerifier for Trust {
    fn offer_client_auth(&self) -> bool {
        true
    }
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.pools().both.verify_client_cert(end_entity, intermediates, now)
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.pools().both.verify_tls12_signature(message, cert, dss)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.pools().both.verify_tls13_signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.pools().both.supported_verify_schemes()
    }
}
