//! An etcd client over mutual TLS that outlives certificate rotation.
//!
//! ```text
//! Options (endpoints, files) ─ Etcd::connect ─ client() ── the same connection while the files stay the same,
//!                                                      └── a new one after they changed
//! ```
//!
//! Several endpoints share one balanced channel; a dead one is left out until it answers again.

use std::path::PathBuf;
use std::sync::Arc;
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
    client: ArcSwapOption<Client>,
    seen: Mutex<Seen>,
}

struct Seen {
    looked: Instant,
    times: Vec<Option<SystemTime>>,
}

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

impl Etcd {
    /// Builds the channel; etcd itself need not answer yet.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let times = options.times();
        let client = options.client().await?;
        Ok(Self(Arc::new(Inner {
            client: ArcSwapOption::from_pointee(client),
            seen: Mutex::new(Seen { looked: Instant::now(), times }),
            options,
        })))
    }

    /// A client with the identity that is on disk now.
    pub async fn client(&self) -> Result<Client, Error> {
        if let Ok(mut seen) = self.0.seen.try_lock()
            && seen.looked.elapsed() >= LOOK
        {
            seen.looked = Instant::now();
            let times = self.0.options.times();
            if times != seen.times {
                match self.0.options.client().await {
                    Ok(client) => {
                        tracing::info!("etcd client certificate reloaded");
                        self.0.client.store(Some(Arc::new(client)));
                        seen.times = times;
                    }
                    Err(error) => tracing::warn!(%error, "keep the old etcd connection"),
                }
            }
        }
        match self.0.client.load_full() {
            Some(client) => Ok((*client).clone()),
            None => self.0.options.client().await,
        }
    }
}

impl Options {
    fn times(&self) -> Vec<Option<SystemTime>> {
        [&self.ca_file, &self.cert_file, &self.key_file]
            .into_iter()
            .map(|f| f.as_ref().and_then(|f| std::fs::metadata(f).ok()).and_then(|m| m.modified().ok()))
            .collect()
    }

    async fn client(&self) -> Result<Client, Error> {
        let mut options = ConnectOptions::new()
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
            .with_keep_alive_while_idle(true)
            .with_connect_timeout(Duration::from_secs(3))
            .with_tcp_keepalive(Duration::from_secs(15));
        if let Some(tls) = self.tls()? {
            options = options.with_tls(tls);
        }
        Client::connect(&self.endpoints, Some(options))
            .await
            .map_err(|source| Error::Connect { endpoints: self.endpoints.join(","), source })
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
