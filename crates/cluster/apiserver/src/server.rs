//! The server as a value: everything a request may need, and how it is started.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use kinit_component_base::Shutdown;
use kinit_component_base::compatibility::Compatibility;
use kinit_component_base::health::Checks;
use kinit_component_base::serve::serve;
use kinit_component_base::supervise;
use kinit_component_base::tls::ReloadingCert;
use kinit_etcd_connect::{Etcd, Options as EtcdOptions};
use kinit_storage::{ResourceSpec, Store};
use tokio::net::TcpListener;

use crate::admission::webhook::Webhooks;
use crate::aggregation::Aggregator;
use crate::authn::anonymous::Anonymous;
use crate::authn::keys::Keys;
use crate::authn::token_file::TokenFile;
use crate::authz::rbac::{Rbac, Rule};
use crate::bodies::Bodies;
use crate::definitions::Definitions;
use crate::flow::{self, Fairness};
use crate::inflight::Limit;
use crate::metrics::Metrics;
use crate::openapi::published::Documents;
use crate::options::Options;
use crate::resources::{Registry, fields};
use crate::trust::Trust;
use crate::{aggregation, audit, authz, bootstrap, chain, definitions, encryption, node};

/// State shared by all requests.
pub struct Server {
    /// The command line.
    pub options: Options,
    /// The minor version that is served.
    pub compatibility: Compatibility,
    /// What is served.
    pub registry: Registry,
    /// Where it is kept.
    pub store: Store,
    /// Ends everything.
    pub shutdown: Shutdown,
    /// Client CAs.
    pub trust: Arc<Trust>,
    /// Where anonymous requests may go.
    pub anonymous: Anonymous,
    /// Keys of service account tokens.
    pub keys: Keys,
    /// Static tokens.
    pub token_file: TokenFile,
    /// Roles and bindings.
    pub rbac: Rbac,
    /// Rules of every node.
    pub node_rules: Vec<Rule>,
    /// What nodes have to do with.
    pub nodes: authz::node::Live,
    /// Counters.
    pub metrics: Metrics,
    /// Audit log.
    pub audit: audit::Audit,
    /// OpenAPI documents.
    pub documents: Documents,
    /// Definitions of custom resources.
    pub definitions: Definitions,
    /// Extension API servers.
    pub aggregator: Aggregator,
    /// Encryption at rest.
    pub encryption: encryption::Config,
    /// Admission webhooks.
    pub webhooks: Webhooks,
    /// Admission policies.
    pub policies: crate::admission::policy::Policies,
    /// Reaches kubelets.
    pub kubelets: node::Kubelets,
    /// `/healthz`.
    pub health: Checks,
    /// `/livez`.
    pub live: Checks,
    /// `/readyz`.
    pub ready: Checks,
    /// Whether the bootstrap objects are there.
    pub bootstrapped: tokio::sync::watch::Sender<bool>,
    /// Namespaces that were deleted a moment ago.
    pub deleted_namespaces: crate::admission::DeletedNamespaces,
    /// Charges of quotas under way.
    pub quotas: crate::admission::quota::Ledger,
    /// Priority and fairness; without it `reads` and `writes` limit requests.
    pub fairness: Option<Fairness>,
    /// Limits the bytes of bodies.
    pub(crate) bodies: Bodies,
    /// Limits reading requests.
    pub reads: Limit,
    /// Limits writing requests.
    pub writes: Limit,
}

impl Server {
    /// Builds a server; nothing runs yet.
    pub async fn build(options: Options, shutdown: Shutdown) -> Result<Arc<Self>> {
        options.validate()?;
        let etcd = Etcd::connect(EtcdOptions {
            endpoints: options.etcd_servers.clone(),
            ca_file: options.etcd_cafile.clone(),
            cert_file: options.etcd_certfile.clone(),
            key_file: options.etcd_keyfile.clone(),
            without_leader: false,
        })
        .await?;
        let compatibility = options.compatibility.resolve()?;
        let registry = Registry::builtin_of(compatibility.emulated);
        let encryption = encryption::Config::load(options.encryption_provider_config.as_deref())?;
        let store = Store::new(etcd, specs(&registry, &encryption));
        let anonymous = match (&options.authentication_config, options.anonymous_auth) {
            (Some(path), _) => Anonymous::from_file(path)?,
            (None, Some(false)) => Anonymous::Off,
            (None, _) => Anonymous::On,
        };
        let keys = Keys::load(&options.service_account_key_file, Some(&options.service_account_signing_key_file))
            .context("load the service account keys")?;
        let trust = Trust::load(&options.client_ca_file, options.requestheader_client_ca_file.as_deref())?;
        let server = Arc::new(Self {
            trust,
            anonymous,
            keys,
            token_file: options.token_auth_file.as_deref().map(TokenFile::load).transpose()?.unwrap_or_default(),
            rbac: Rbac::default(),
            node_rules: authz::node::rules(),
            nodes: authz::node::Live::default(),
            metrics: Metrics::register(),
            audit: audit::Audit::open(&options)?,
            documents: Documents::default(),
            webhooks: Webhooks::new(),
            policies: Default::default(),
            definitions: Definitions::default(),
            aggregator: Aggregator::new(&options, &store)?,
            encryption,
            kubelets: node::Kubelets::new(&options)?,
            health: Checks::with_ping(),
            live: Checks::with_ping(),
            ready: Checks::with_ping(),
            bootstrapped: tokio::sync::watch::Sender::new(false),
            deleted_namespaces: Default::default(),
            quotas: crate::admission::quota::Ledger::default(),
            fairness: fairness(&options),
            bodies: Bodies::new(options.max_requests_inflight.saturating_add(options.max_mutating_requests_inflight)),
            reads: Limit::new(options.max_requests_inflight),
            writes: Limit::new(options.max_mutating_requests_inflight),
            compatibility,
            registry,
            store,
            shutdown,
            options,
        });
        server.add_checks();
        Ok(server)
    }

    fn add_checks(self: &Arc<Self>) {
        for checks in [&self.health, &self.ready] {
            let store = self.store.clone();
            checks.add("etcd", move || if store.is_healthy() { Ok(()) } else { Err("etcd does not answer".into()) });
        }
        let store = self.store.clone();
        self.ready.add("informer-sync", move || {
            if store.is_ready() { Ok(()) } else { Err("the caches are not filled".into()) }
        });
        let server = Arc::downgrade(self);
        self.ready.add("poststarthook/crd-informer-synced", move || {
            match server.upgrade().is_some_and(|server| server.definitions.is_ready()) {
                true => Ok(()),
                false => Err("the custom resources are not served yet".into()),
            }
        });
        let server = Arc::downgrade(self);
        self.ready.add("autoregister-completion", move || {
            match server.upgrade().is_some_and(|server| server.aggregator.is_registered()) {
                true => Ok(()),
                false => Err("the APIServices of this server are not registered yet".into()),
            }
        });
        let shutdown = self.shutdown.clone();
        self.ready.add("shutdown", move || {
            if shutdown.is_cancelled() { Err("process is shutting down".into()) } else { Ok(()) }
        });
    }

    /// Listens and serves until shutdown.
    pub async fn run(self: Arc<Self>) -> Result<()> {
        let address = SocketAddr::new(self.options.bind_address, self.options.secure_port);
        let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        self.run_on(listener).await
    }

    /// Serves on a listener that is open already.
    pub async fn run_on(self: Arc<Self>, listener: TcpListener) -> Result<()> {
        let cert = ReloadingCert::load(&self.options.tls_cert_file, &self.options.tls_private_key_file)?;
        let mut tls = self.options.tls.server()?.with_client_cert_verifier(self.trust.clone()).with_cert_resolver(cert);
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let (store, shutdown) = (self.store.clone(), self.shutdown.clone());
        supervise::vital("the store's feed", &self.shutdown, async move { store.run(shutdown).await });
        let server = self.clone();
        supervise::vital("the graph of nodes", &self.shutdown, async move {
            tokio::select! {
                () = server.shutdown.cancelled() => {}
                () = server.nodes.follow(&server.store) => {}
            }
        });
        let server = self.clone();
        supervise::vital("the custom resources", &self.shutdown, async move {
            tokio::select! {
                () = server.shutdown.cancelled() => {}
                () = definitions::follow(&server) => {}
            }
        });
        let server = self.clone();
        supervise::vital("the type checks of admission policies", &self.shutdown, async move {
            tokio::select! {
                () = server.shutdown.cancelled() => {}
                () = crate::admission::policy::type_check::follow(&server) => {}
            }
        });
        bootstrap::start(&self);
        aggregation::start(&self);
        tracing::info!(address = %listener.local_addr()?, "serving");
        let server = self.clone();
        let leaving = async {
            // Nobody is to be sent here while the last requests finish.
            self.shutdown.cancelled().await;
            bootstrap::leave(&self).await;
        };
        let serving = serve(listener, Some(Arc::new(tls)), self.shutdown.clone(), move |request| {
            chain::handle(server.clone(), request)
        });
        tokio::join!(serving, leaving);
        Ok(())
    }
}

/// The seats are as many as both limits allow requests.
fn fairness(options: &Options) -> Option<Fairness> {
    let total = options.max_requests_inflight.saturating_add(options.max_mutating_requests_inflight);
    let seats = u32::try_from(total).unwrap_or(u32::MAX).max(1);
    options.enable_priority_and_fairness.then(|| Fairness::new(seats, flow::metrics::Metrics::register()))
}

fn specs(registry: &Registry, encryption: &encryption::Config) -> Vec<ResourceSpec> {
    let mut specs: Vec<ResourceSpec> = Vec::new();
    for desc in registry.all() {
        if desc.prefix.is_empty() || specs.iter().any(|s| s.prefix == desc.prefix) {
            continue;
        }
        specs.push(ResourceSpec {
            prefix: desc.prefix.clone(),
            reading: fields::reading(&desc.prefix),
            crypt: encryption.of(&desc.group, &desc.plural),
        });
    }
    specs
}
