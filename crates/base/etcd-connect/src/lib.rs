//! An etcd client over mutual TLS that outlives certificate rotation.
//!
//! ```text
//! Options (endpoints, files) ─ Etcd::connect ─ client() ── a connection to the current endpoint until files change,
//!                                                      └── a new one after they changed
//!                                            ─ failed() ── the next endpoint becomes the current one
//! ```
//!
//! One endpoint at a time: requests that go to a dead one are the caller's to try again after [`Etcd::failed`].

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
pub use etcd_client;
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::sync::Mutex;

/// Where etcd is and how to prove who we are.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `https://IP:2379`, one or several.
    pub endpoints: Vec<String>,
    /// CA of etcd's serving certificates (PEM).
    pub ca_file: Option<PathBuf>,
    /// Our client certificate (PEM).
    pub cert_file: Option<PathBuf>,
    /// Its key (PEM).
    pub key_file: Option<PathBuf>,
    /// Ask a member that has no leader too, instead of having it refuse.
    pub without_leader: bool,
}

/// What can go wrong before etcd is even asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the options cannot be read.
    #[error("read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate is given without its key, or the other way round.
    #[error("a client certificate needs both its certificate and its key file")]
    HalfIdentity,
    /// The channel cannot be built.
    #[error("connect to etcd at {endpoints}")]
    Connect {
        /// The endpoints.
        endpoints: String,
        /// Why.
        source: etcd_client::Error,
    },
}

/// A handle that gives out clients. Cheap to clone.
#[derive(Clone)]
pub struct Etcd(Arc<Inner>);

struct Inner {
    options: Options,
    clients: Vec<ArcSwapOption<Client>>,
    current: AtomicUsize,
    seen: Mutex<Seen>,
}

struct Seen {
    looked: Instant,
    times: Vec<Option<SystemTime>>,
}

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

impl Etcd {
    /// Builds the channels; etcd itself need not answer yet.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let times = options.times();
        let mut clients = Vec::new();
        for endpoint in &options.endpoints {
            clients.push(ArcSwapOption::from_pointee(options.client(endpoint).await?));
        }
        Ok(Self(Arc::new(Inner {
            clients,
            current: AtomicUsize::new(0),
            seen: Mutex::new(Seen { looked: Instant::now(), times }),
            options,
        })))
    }

    /// How many endpoints there are.
    pub fn endpoints(&self) -> usize {
        self.0.clients.len()
    }

    /// Says that the client last given out could not reach its endpoint: the next one takes over.
    pub fn failed(&self) {
        let count = self.0.clients.len();
        if count > 1 {
            let was = self.0.current.fetch_add(1, Ordering::Relaxed) % count;
            tracing::debug!(endpoint = self.0.options.endpoints[was], "etcd endpoint failed; using the next one");
        }
    }

    /// A client of the current endpoint, with the identity that is on disk now.
    pub async fn client(&self) -> Result<Client, Error> {
        self.look().await;
        let count = self.0.clients.len();
        if count == 0 {
            return self.0.options.client("").await;
        }
        let at = self.0.current.load(Ordering::Relaxed) % count;
        match self.0.clients[at].load_full() {
            Some(client) => Ok((*client).clone()),
            None => self.0.options.client(&self.0.options.endpoints[at]).await,
        }
    }

    /// Rebuilds the channels when a file of the identity has changed.
    async fn look(&self) {
        let Ok(mut seen) = self.0.seen.try_lock() else { return };
        if seen.looked.elapsed() < LOOK {
            return;
        }
        seen.looked = Instant::now();
        let times = self.0.options.times();
        if times == seen.times {
            return;
        }
        for (endpoint, slot) in self.0.options.endpoints.iter().zip(&self.0.clients) {
            match self.0.options.client(endpoint).await {
                Ok(client) => slot.store(Some(Arc::new(client))),
                Err(error) => return tracing::warn!(%error, "keep the old etcd connection"),
            }
        }
        tracing::info!("etcd client certificate reloaded");
        seen.times = times;
    }
}

/// A client of one endpoint with credentials that are in no file (PEM); it asks a member that has no leader too. It
/// does not notice when they are replaced.
pub async fn client_with(endpoint: &str, authority: &str, certificate: &str, key: &str) -> Result<Client, Error> {
    let identity = Identity::from_pem(certificate, key);
    let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(authority)).identity(identity);
    open(endpoint, Some(tls), true).await
}

async fn open(endpoint: &str, tls: Option<TlsOptions>, without_leader: bool) -> Result<Client, Error> {
    let mut options = ConnectOptions::new()
        .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
        .with_keep_alive_while_idle(true)
        .with_connect_timeout(Duration::from_secs(3))
        .with_tcp_keepalive(Duration::from_secs(15));
    if let Some(tls) = tls {
        options = options.with_tls(tls);
    }
    // A member that has lost its quorum ends its streams instead of keeping them silent.
    options = options.with_require_leader(!without_leader);
    Client::connect([endpoint], Some(options))
        .await
        .map_err(|source| Error::Connect { endpoints: endpoint.to_owned(), source })
}

impl Options {
    fn times(&self) -> Vec<Option<SystemTime>> {
        [&self.ca_file, &self.cert_file, &self.key_file]
            .into_iter()
            .map(|f| f.as_ref().and_then(|f| std::fs::metadata(f).ok()).and_then(|m| m.modified().ok()))
            .collect()
    }

    async fn client(&self, endpoint: &str) -> Result<Client, Error> {
        open(endpoint, self.tls()?, self.without_leader).await
    }

    fn tls(&self) -> Result<Option<TlsOptions>, Error> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|source| Error::File { path: path.clone(), source });
        if !self.endpoints.iter().any(|e| e.starts_with("https://")) {
            return Ok(None);
        }
        let mut tls = TlsOptions::new();
        if let Some(ca) = &self.ca_file {
            tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?)),
            (None, None) => {}
            _ => return Err(Error::HalfIdentity),
        }
        Ok(Some(tls))
    }
}
