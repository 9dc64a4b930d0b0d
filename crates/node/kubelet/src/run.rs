//! From the command line to running tasks.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kinit_client::Rewatch;
use kinit_client::events::Recorder;
use kinit_component_base::Shutdown;
use kinit_component_base::supervise;
use kinit_component_helpers::storage::LocalPath;
use kinit_cri::Runtime;
use kube::runtime::reflector::Store as ServiceStore;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::certs::store::Store;
use crate::certs::{bootstrap, rotate, serving};
use crate::cgroup::{Cgroups, qos};
use crate::config::KubeletConfig;
use crate::dns::Resolver;
use crate::events::Events;
use crate::evict::{self, Pressure};
use crate::image::Pulls;
use crate::image_gc::{self, Collector};
use crate::kubelet::Kubelet;
use crate::listen::{health, serve};
use crate::metrics::Metrics;
use crate::names::Paths;
use crate::node::facts::{self, Machine};
use crate::node::held::Held;
use crate::node::register::Registration;
use crate::node::{self, capacity, lease};
use crate::objects::Objects;
use crate::pace::Bucket;
use crate::pod::ledger::Ledger;
use crate::pod::manager::Manager;
use crate::pod::mirror::Mirrors;
use crate::pod::writer::Writer;
use crate::pod::{self, static_pods};
use crate::process;
use crate::rotate_logs;
use crate::volumes::{folders, make_directory};

/// Runs until `shutdown`. Containers stay as they are.
pub async fn run(args: Args, shutdown: Shutdown) -> Result<()> {
    let config = match &args.config {
        Some(path) => KubeletConfig::load(path)?,
        None => KubeletConfig::defaults(),
    };
    process::prepare(&config)?;
    let node_name = args.node_name()?;
    let ip = match args.node_ip {
        Some(ip) => ip,
        None => facts::default_ip()?,
    };
    let machine = facts::machine()?;
    capacity::check(&config, &machine).map_err(|e| anyhow!(e))?;
    let client = match &args.kubeconfig {
        Some(kubeconfig) => {
            // A node that nobody lets in must still stop when told to.
            tokio::select! {
                done = bootstrap::ensure(&args, kubeconfig, &node_name) => done?,
                () = shutdown.cancelled() => return Ok(()),
            }
            Some(kinit_client::from_kubeconfig(kubeconfig, "kubelet").await?)
        }
        None => None,
    };
    let kubelet = assemble(&args, config, &machine, ip, client, &shutdown)?;
    let top = qos::top_of(&kubelet.config, &kubelet.machine);
    kubelet.cgroups.create_top(&top).await.context("make the cgroups of pods")?;
    supervise::vital("pod cgroups", &shutdown, qos::run(kubelet.clone(), shutdown.clone()));
    let manager = Manager::new(kubelet.clone());
    let (files_ready, all_ready) = (CancellationToken::new(), CancellationToken::new());
    match kubelet.config.static_pods() {
        Some(directory) => {
            let pods = static_pods::run(directory, node_name, manager.clone(), files_ready.clone());
            supervise::vital("static pods", &shutdown, pods);
        }
        None => files_ready.cancel(),
    }
    let api_ready = CancellationToken::new();
    match kubelet.client.clone() {
        Some(client) => speak(&args, &kubelet, &manager, client, machine, ip, api_ready.clone(), shutdown.clone())?,
        None => api_ready.cancel(),
    }
    supervise::vital("runtime events", &shutdown, manager.clone().follow_runtime());
    supervise::vital("housekeeping", &shutdown, manager.clone().keep_house(all_ready.clone()));
    health(&kubelet.config, shutdown.clone()).await?;
    supervise::vital("image garbage collection", &shutdown, image_gc::run(kubelet.clone(), shutdown.clone()));
    supervise::vital("eviction", &shutdown, evict::run(kubelet.clone(), manager.clone(), shutdown.clone()));
    supervise::vital("log rotation", &shutdown, rotate_logs::run(kubelet.clone(), shutdown.clone()));
    let server = serve(&args, &kubelet, &manager, ip, shutdown.clone())?;
    tokio::spawn(async move {
        files_ready.cancelled().await;
        api_ready.cancelled().await;
        all_ready.cancel();
    });
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        // Without it nothing of the node can be reached: better to end and be started again.
        ended = server => ended.context("the kubelet's server")?.context("the kubelet's server"),
    }
}

/// Makes the kubelet's parts.
fn assemble(
    args: &Args,
    config: KubeletConfig,
    machine: &Machine,
    ip: IpAddr,
    client: Option<Client>,
    shutdown: &Shutdown,
) -> Result<Arc<Kubelet>> {
    let node_name = args.node_name()?;
    let paths = paths(args, &config)?;
    let services = client.clone().map(|client| watch_services(client, shutdown));
    let recorder = client.clone().map(|c| Recorder::new(c, "kubelet", &node_name));
    let runtime = Runtime::new(&config.container_runtime_endpoint).map_err(|e| anyhow!(e))?;
    let metrics = Metrics::new(&node_name);
    Ok(Arc::new(Kubelet {
        node_name: node_name.clone(),
        runtime: runtime.with_observer(metrics.observer()),
        metrics,
        events: Events::new(recorder, Bucket::new(config.event_record_qps.unwrap_or(50), config.event_burst)),
        pulls: Pulls::new(&config),
        objects: Objects::new(client.clone()),
        resolver: resolver(&config)?,
        host_ips: vec![ip.to_string()],
        node_memory: machine.memory,
        machine: machine.clone(),
        node: Held::default(),
        initial: Arc::new(registration(args, &config, &node_name, machine)?.node()),
        admission: tokio::sync::Mutex::default(),
        cgroups: Cgroups::new(config.systemd_cgroups(), &config.cgroup_root, config.pod_pids_limit),
        ledger: Ledger::new(capacity::allocatable_of(&config, machine)),
        pressure: Pressure::default(),
        images: Collector::default(),
        writer: Writer::default(),
        services,
        client,
        paths,
        config,
    }))
}

/// Everything that needs the API server.
#[allow(clippy::too_many_arguments)]
fn speak(
    args: &Args,
    kubelet: &Arc<Kubelet>,
    manager: &Manager,
    client: Client,
    machine: Machine,
    ip: IpAddr,
    ready: CancellationToken,
    shutdown: Shutdown,
) -> Result<()> {
    let config = &kubelet.config;
    let name = kubelet.node_name.clone();
    supervise::vital("status writer", &shutdown, kubelet.writer.clone().run(client.clone()));
    let mirrors = Mirrors::default();
    supervise::vital("mirror pods", &shutdown, mirrors.clone().run(client.clone(), manager.clone(), name.clone()));
    let registration = registration(args, config, &name, &machine)?;
    let certificates = args.certificates();
    let own = Store::new(&certificates, "kubelet-client");
    if config.rotate_certificates && own.current().exists() {
        renew(client.clone(), own, &name, shutdown.clone());
    }
    let (kubelet, manager, port) = (kubelet.clone(), manager.clone(), config.port);
    let ending = shutdown.clone();
    supervise::vital("node", &ending, async move {
        let config = &kubelet.config;
        let folders_client = client.clone();
        let posted = CancellationToken::new();
        // What the node is like decides which pods may come: it is known before the first of them.
        let node = match config.register_node {
            Some(false) => {
                kubelet.node.await_first(client.clone(), &name).await;
                None
            }
            _ => Some(registration.run(client.clone()).await),
        };
        if let Some(node) = &node {
            kubelet.node.note(node.clone());
        }
        if config.server_tls_bootstrap {
            // The approver compares the names asked for with the node's addresses: they are in its status first.
            let store = Store::new(&certificates, "kubelet-server");
            let ask = serving::serving_ask(&name, &[ip]);
            let keep = rotate::keep(client.clone(), store, ask, shutdown.clone(), || ());
            let posted = posted.clone();
            supervise::vital("serving certificate", &shutdown, async move {
                posted.cancelled().await;
                keep.await;
            });
        }
        supervise::vital(
            "pod source",
            &shutdown,
            pod::api::run(client.clone(), name.clone(), manager, mirrors, kubelet.writer.clone(), ready),
        );
        if let Some(node) = node {
            kubelet.events.node(&name, false, "Starting", "Starting kubelet.");
            let lease = lease::run(client, node, config.node_lease_duration_seconds, shutdown.clone());
            supervise::vital("lease", &shutdown, lease);
        }
        folders::start(&kubelet, folders_client, &shutdown);
        node::status::run(kubelet.clone(), machine, port, posted, shutdown).await;
    });
    Ok(())
}

/// Renews the client certificate. Connections that are open keep the identity they were made with, and a server refuses
/// it once it has expired: the process ends, and its unit starts it again with the new one. Containers do not notice.
fn renew(client: Client, store: Store, name: &str, shutdown: Shutdown) {
    let anew = shutdown.clone();
    let keep = rotate::keep(client, store, bootstrap::client_ask(name), shutdown.clone(), move || anew.cancel());
    supervise::vital("client certificate", &shutdown, keep);
}

fn registration(args: &Args, config: &KubeletConfig, name: &str, machine: &Machine) -> Result<Registration> {
    let mut taints = args.taints()?;
    taints.extend(config.register_with_taints.clone());
    let architecture = machine.architecture.clone();
    Ok(Registration { name: name.to_owned(), labels: args.labels()?, taints, architecture })
}

/// Follows all Services; pods get variables about those that are known when they start.
fn watch_services(client: Client, shutdown: &Shutdown) -> ServiceStore<Service> {
    let (reader, writer) = kube::runtime::reflector::store();
    let stream = kube::runtime::watcher(Api::<Service>::all(client), watcher::Config::default());
    supervise::vital("service watch", shutdown, async move {
        let mut stream = std::pin::pin!(stream.backoff(Rewatch::default()).reflect(writer).touched_objects());
        while let Some(event) = stream.next().await {
            if let Err(error) = event {
                tracing::debug!(%error, "watch services");
            }
        }
    });
    reader
}

fn paths(args: &Args, config: &KubeletConfig) -> Result<Paths> {
    let paths = Paths {
        root: args.root_dir.clone(),
        pod_logs: PathBuf::from(&config.pod_logs_dir),
        container_logs: PathBuf::from("/var/log/containers"),
        local_path: PathBuf::from(LocalPath::ROOT),
    };
    for (path, mode) in [
        (paths.root.clone(), 0o755),
        (paths.pods(), 0o750),
        (paths.pod_logs.clone(), 0o755),
        (paths.container_logs.clone(), 0o755),
    ] {
        make_directory(&path, mode).map_err(|e| anyhow!(e))?;
    }
    Ok(paths)
}

fn resolver(config: &KubeletConfig) -> Result<Resolver> {
    let host = match config.resolver_file() {
        Some(path) => std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?,
        None => String::new(),
    };
    Ok(Resolver { cluster_dns: config.cluster_dns.clone(), cluster_domain: config.cluster_domain.clone(), host })
}
