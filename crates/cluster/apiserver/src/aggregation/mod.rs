//! Aggregation: group versions that extension API servers answer, through Services (`k8s.io/kube-aggregator`).
//!
//! ```text
//! watch cache of APIServices ── service    an APIService as it is used, parsed once
//!                                 ├─ register      local ones for what this server has, definitions included
//!                                 ├─ availability  checks, and the condition Available
//!                                 │     └─ discover, documents   what extension servers say they have: bounded, kept
//!                                 └─ proxy         requests, as the front proxy
//! backend    connections to a Service: resolve (address), TLS by the caBundle, our client certificate, pool
//! catalog    all group versions in the order of their priorities: for /apis, the aggregated discovery, OpenAPI
//! ```
//! Every server of a cluster checks for itself, as upstream's do. What an extension server answers is its own word:
//! read up to a size and a time, taken for the group version of its APIService alone.

mod availability;
mod backend;
pub mod catalog;
mod discover;
pub(crate) mod documents;
pub mod proxy;
mod register;
mod resolve;
mod service;
pub mod validate;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use kinit_component_base::supervise;
use kinit_component_base::tls::ReloadingCert;
use kinit_storage::Store;
use parking_lot::Mutex;

use self::backend::Backend;
use self::discover::Discovered;
use self::documents::Documents;
pub use self::service::ApiService;
use crate::options::Options;
use crate::server::Server;

/// Where APIServices are stored.
pub const PREFIX: &str = "apiregistration.k8s.io/apiservices/";

/// An APIService with a Service, and how that is reached.
pub struct Remote {
    /// What the APIService says.
    pub service: ApiService,
    backend: Arc<Backend>,
}

/// What is known of extension API servers.
pub struct Aggregator {
    store: Store,
    identity: Option<Arc<ReloadingCert>>,
    /// Whether endpoints are called, and not cluster IPs.
    by_endpoints: bool,
    known: Mutex<HashMap<String, Arc<Remote>>>,
    discovered: Mutex<HashMap<String, Arc<Discovered>>>,
    documents: Documents,
    unavailable: availability::Metrics,
    /// Whether this server's own group versions are registered.
    registered: AtomicBool,
}

impl Aggregator {
    /// From the command line.
    pub fn new(options: &Options, store: &Store) -> Result<Self> {
        let identity = match (&options.proxy_client_cert_file, &options.proxy_client_key_file) {
            (Some(cert), Some(key)) => {
                Some(ReloadingCert::load(cert, key).context("load the front proxy's client certificate")?)
            }
            _ => None,
        };
        Ok(Self {
            store: store.clone(),
            identity,
            by_endpoints: options.enable_aggregator_routing,
            known: Mutex::default(),
            discovered: Mutex::default(),
            documents: Documents::default(),
            unavailable: availability::Metrics::register(),
            registered: AtomicBool::new(false),
        })
    }

    /// Whether the group versions of this server are registered as APIServices.
    pub fn is_registered(&self) -> bool {
        self.registered.load(Ordering::Relaxed)
    }

    /// The extension server of a group version, if it has one.
    pub fn remote(&self, group: &str, version: &str) -> Option<Arc<Remote>> {
        self.by_name(&format!("{version}.{group}"))
    }

    fn by_name(&self, name: &str) -> Option<Arc<Remote>> {
        let entry = self.store.cache(PREFIX)?.last_known(name)?;
        let mut known = self.known.lock();
        if let Some(remote) = known.get(name).filter(|r| r.service.revision == entry.revision) {
            return Some(remote.clone());
        }
        let service = ApiService::of(&entry.value(), entry.revision);
        let Some(target) = service.target.clone() else {
            known.remove(name);
            return None;
        };
        // A status that changes leaves connections as they are.
        let kept = known.get(name).filter(|r| r.service.target.as_ref() == Some(&target)).map(|r| r.backend.clone());
        let backend = kept.unwrap_or_else(|| {
            Arc::new(Backend::new(target, self.store.clone(), self.identity.clone(), self.by_endpoints))
        });
        let remote = Arc::new(Remote { service, backend });
        known.insert(name.to_owned(), remote.clone());
        Some(remote)
    }

    /// All extension servers' group versions.
    fn remotes(&self) -> Vec<Arc<Remote>> {
        let Some(cache) = self.store.cache(PREFIX) else { return Vec::new() };
        let (entries, _) = cache.all_last_known("", |entry| entry.field(service::REMOTE) == Some("true"));
        let names: Vec<&str> = entries.iter().map(|entry| &*entry.key).collect();
        self.known.lock().retain(|name, _| names.contains(&name.as_str()));
        self.discovered.lock().retain(|name, _| names.contains(&name.as_str()));
        self.documents.retain(|name| names.contains(&name));
        names.iter().filter_map(|name| self.by_name(name)).collect()
    }
}

/// Registers this server's group versions and looks after the extension servers, for as long as the server runs.
pub fn start(server: &Arc<Server>) {
    let (ours, shutdown) = (server.clone(), server.shutdown.clone());
    supervise::vital("the registration of API services", &shutdown, async move {
        tokio::select! {
            () = ours.shutdown.cancelled() => {}
            () = register::follow(&ours) => {}
        }
    });
    let (ours, shutdown) = (server.clone(), server.shutdown.clone());
    supervise::vital("the availability of API services", &shutdown, async move {
        tokio::select! {
            () = ours.shutdown.cancelled() => {}
            () = availability::follow(&ours) => {}
        }
    });
}
