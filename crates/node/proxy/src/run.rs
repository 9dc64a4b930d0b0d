//! From the command line to rules that follow the cluster.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kinit_client::from_kubeconfig;
use kinit_client::informer::{Store, spawn};
use kinit_component_base::Shutdown;
use kinit_component_base::health::Checks;
use kinit_component_base::serve::serve_health;
use kinit_nftables::{Family, Monitor, Nftables, Observed, Table};
use kube::runtime::watcher::Config;
use kube::{Api, ResourceExt};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::args::Args;
use crate::flows::Udp;
use crate::health::{Freshness, HealthPorts, serve_healthz, wanted};
use crate::metrics::Metrics;
use crate::ruleset::{Options, TABLE, table};
use crate::services::{Place, ServicePort, collect};

const NAME: &str = "kube-proxy";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Changes come in bursts: this long is waited for the rest of one.
const GATHER: Duration = Duration::from_millis(10);
/// Should a notice be missed, it is checked this often that nobody else changed the table (one small question to the
/// kernel).
const AUDIT: Duration = Duration::from_secs(30);

/// The program. `args` holds the program's name first.
pub fn main(args: Vec<OsString>) -> ExitCode {
    kinit_component_base::main(NAME, args, |args: &Args| &args.logging, run)
}

async fn run(args: Args, shutdown: Shutdown) -> Result<()> {
    if args.cleanup {
        let nftables = Nftables::open().context("open nftables")?;
        return nftables.delete(Family::Ip, TABLE).context("remove the rules");
    }
    let kubeconfig = args.kubeconfig.clone().context("--kubeconfig is required")?;
    let client = from_kubeconfig(&kubeconfig, NAME).await?;
    let options = options(&args)?;
    // Headless Services need no rules, and those with a proxy of their own none of ours.
    let ours = Config::default().labels("!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name");
    let services = spawn(Api::<Service>::all(client.clone()), ours.clone(), &shutdown);
    let slices = spawn(Api::<EndpointSlice>::all(client.clone()), ours, &shutdown);
    let node = args.node_name().context("find this node's name")?;
    let only = Config::default().fields(&format!("metadata.name={node}"));
    let nodes = spawn(Api::<Node>::all(client), only, &shutdown);
    let freshness = Freshness::new();
    let changed = Arc::new(Notify::new());
    let metrics = Metrics::new();
    let count = metrics.clone();
    watch(&services, &changed, &freshness, move |_| count.service_changed());
    let count = metrics.clone();
    watch(&slices, &changed, &freshness, move |slice| count.slice_changed(slice));
    follow_zone(&nodes, &changed);
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    tasks.spawn(serve_healthz(args.healthz_bind_address, freshness.clone(), shutdown.clone()));
    tasks.spawn(serve_health(args.metrics_bind_address, Checks::with_ping(), shutdown.clone()));
    // A half-filled store would take rules away that are right.
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = async { services.synced().await; slices.synced().await } => {}
        Some(ended) = tasks.join_next() => return ended.context("a server's task ended")?,
    }
    metrics.forget_triggers();
    let kernel = Nftables::open().context("open nftables")?;
    let monitor = Monitor::open(Family::Ip, TABLE).context("watch nftables")?;
    let proxy = Proxy {
        monitor,
        port: kernel.port().context("open nftables")?,
        kernel,
        services,
        slices,
        nodes,
        node,
        options,
        health_ports: HealthPorts::new(freshness.clone(), shutdown.clone()),
        freshness,
        metrics,
        applied: None,
        udp: Udp::default(),
        generation: None,
    };
    let following = proxy.follow(changed, args.iptables_min_sync_period, shutdown.clone());
    tokio::select! {
        () = following => Ok(()),
        Some(ended) = tasks.join_next() => {
            if shutdown.is_cancelled() { Ok(()) } else { ended.context("a server's task ended")? }
        }
    }
}

fn options(args: &Args) -> Result<Options> {
    let cluster_cidr = match args.cluster_cidr {
        None => None,
        Some(IpNet::V4(net)) => Some(net),
        Some(IpNet::V6(net)) => anyhow::bail!("--cluster-cidr {net}: only IPv4 is served"),
    };
    Ok(Options { cluster_cidr, mark: 1 << args.iptables_masquerade_bit })
}

fn watch<K>(
    store: &Arc<Store<K>>,
    changed: &Arc<Notify>,
    freshness: &Freshness,
    count: impl Fn(&K) + Send + Sync + 'static,
) where
    K: kube::Resource + Clone + Send + Sync + 'static,
{
    let (changed, freshness) = (changed.clone(), freshness.clone());
    store.on_change(move |change| {
        count(change.object());
        freshness.wanted();
        changed.notify_one();
    });
}

/// Tells of a new zone; all else about the node (its status changes every few seconds) is no concern of ours.
fn follow_zone(nodes: &Arc<Store<Node>>, changed: &Arc<Notify>) {
    let (changed, known) = (changed.clone(), parking_lot::Mutex::new(None));
    let store = Arc::downgrade(nodes);
    nodes.on_change(move |_| {
        let Some(store) = store.upgrade() else { return };
        let zone = store.list().first().and_then(|n| n.labels().get(ZONE).cloned());
        let mut known = known.lock();
        if *known != zone {
            *known = zone;
            changed.notify_one();
        }
    });
}

struct Proxy {
    kernel: Nftables,
    /// Tells when somebody else changes the table; ours come through this netlink port.
    monitor: Monitor,
    port: u32,
    services: Arc<Store<Service>>,
    slices: Arc<Store<EndpointSlice>>,
    /// This node's object alone.
    nodes: Arc<Store<Node>>,
    node: String,
    options: Options,
    health_ports: HealthPorts,
    freshness: Freshness,
    metrics: Metrics,
    applied: Option<Table>,
    udp: Udp,
    generation: Option<u32>,
}

impl Proxy {
    async fn follow(mut self, changed: Arc<Notify>, pause: Duration, shutdown: Shutdown) {
        let mut retry = Duration::ZERO;
        let mut audit = tokio::time::interval(AUDIT);
        loop {
            let started = Instant::now();
            match self.sync().await {
                Ok(()) => retry = Duration::ZERO,
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "apply the rules");
                    retry = (retry * 2).clamp(Duration::from_secs(1), Duration::from_secs(30));
                }
            }
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = changed.notified() => break,
                    () = tokio::time::sleep(retry), if !retry.is_zero() => break,
                    noticed = self.monitor.changed(Some(self.port)) => {
                        self.notice(noticed);
                        if self.was_tampered_with() { break }
                    }
                    _ = audit.tick() => if self.was_tampered_with() { break },
                }
            }
            let rest = pause.saturating_sub(started.elapsed()).max(GATHER);
            tokio::select! { () = shutdown.cancelled() => return, () = tokio::time::sleep(rest) => {} }
        }
    }

    async fn sync(&mut self) -> Result<()> {
        let start = Instant::now();
        let triggers = self.metrics.take_triggers();
        self.was_tampered_with();
        let zone = self.nodes.get(&self.node).and_then(|n| n.labels().get(ZONE).cloned());
        let ports: Vec<ServicePort> =
            collect(&self.services.list(), &self.slices.list(), Place { node: &self.node, zone: zone.as_deref() });
        let table = table(&ports, &self.options);
        let sent = tokio::task::block_in_place(|| self.kernel.apply(self.applied.as_ref(), &table));
        let sent = match sent {
            Ok(sent) => sent,
            Err(error) => {
                // What is there now is not known: next time all is made anew.
                self.applied = None;
                self.metrics.failed(triggers);
                return Err(error).context("change nftables");
            }
        };
        self.applied = Some(table);
        self.generation = self.kernel.generation().ok();
        self.freshness.applied();
        self.metrics.applied(start.elapsed(), &triggers);
        if sent > 0 {
            tracing::info!(changes = sent, service_ports = ports.len(), took = ?start.elapsed(), "rules applied");
        }
        self.health_ports.update(wanted(&ports)).await;
        let udp = Udp::of(&ports);
        if udp != self.udp {
            // The rules are right already: what is forgotten is remembered rightly.
            match tokio::task::block_in_place(|| self.kernel.forget_flows(|flow| udp.is_stale(flow))) {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "forgot stale UDP flows"),
                Err(error) => tracing::warn!(%error, "forget stale UDP flows"),
            }
            self.udp = udp;
        }
        Ok(())
    }

    /// Notices that cannot be had are asked for anew.
    fn notice(&mut self, noticed: Result<(), kinit_nftables::Error>) {
        let Err(error) = noticed else { return };
        tracing::warn!(%error, "watch nftables");
        match Monitor::open(Family::Ip, TABLE) {
            Ok(monitor) => self.monitor = monitor,
            Err(error) => kinit_component_base::supervise::fail(format!("watch nftables: {error}")),
        }
    }

    /// Whether somebody else changed our table; then what was applied is forgotten, and the next pass makes all anew.
    fn was_tampered_with(&mut self) -> bool {
        let (Some(table), Ok(generation)) = (&self.applied, self.kernel.generation()) else { return false };
        if self.generation == Some(generation) {
            return false;
        }
        self.generation = Some(generation);
        match self.kernel.read(Family::Ip, TABLE) {
            Ok(observed) if observed.as_ref() == Some(&Observed::of(table)) => false,
            Ok(_) => {
                tracing::warn!("somebody changed the rules: making them anew");
                self.applied = None;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "read the rules back");
                false
            }
        }
    }
}
