//! From the command line to rules that follow the cluster.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kinit_client::from_kubeconfig;
use kinit_client::informer::{Store, key_of, spawn};
use kinit_component_base::Shutdown;
use kinit_component_base::health::Checks;
use kinit_component_base::serve::serve_health;
use kinit_nftables::{Family, Nftables};
use kube::runtime::watcher::Config;
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::args::Args;
use crate::health::{Freshness, HealthPorts, serve_healthz, wanted};
use crate::keeper::Keeper;
use crate::metrics::Metrics;
use crate::ruleset::{Options, TABLE};
use crate::services::{Place, service_of, service_ports};

const NAME: &str = "kube-proxy";
const ZONE: &str = "topology.kubernetes.io/zone";
/// The index of slices by their Service.
const BY_SERVICE: &str = "service";
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
    let dirty = Arc::new(Dirty::default());
    let metrics = Metrics::new();
    slices.index(BY_SERVICE, |slice| service_of(slice).into_iter().collect());
    watch(&services, &dirty, &freshness, |service| Some(key_of(service)), {
        let metrics = metrics.clone();
        move |_| metrics.service_changed()
    });
    watch(&slices, &dirty, &freshness, service_of, {
        let metrics = metrics.clone();
        move |slice| metrics.slice_changed(slice)
    });
    follow_zone(&nodes, &dirty);
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
    let proxy = Proxy {
        keeper: Keeper::open(options)?,
        zone: None,
        services,
        slices,
        nodes,
        node,
        health_ports: HealthPorts::new(freshness.clone(), shutdown.clone()),
        freshness,
        metrics,
    };
    let following = proxy.follow(dirty, args.iptables_min_sync_period, shutdown.clone());
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

/// Services that have changed, or of which a slice has.
#[derive(Default)]
struct Dirty {
    services: Mutex<BTreeSet<String>>,
    reported: Notify,
}

impl Dirty {
    fn add(&self, services: impl IntoIterator<Item = String>) {
        self.services.lock().extend(services);
        self.reported.notify_one();
    }

    fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.services.lock())
    }
}

fn watch<K>(
    store: &Arc<Store<K>>,
    dirty: &Arc<Dirty>,
    freshness: &Freshness,
    service: impl Fn(&K) -> Option<String> + Send + Sync + 'static,
    count: impl Fn(&K) + Send + Sync + 'static,
) where
    K: kube::Resource + Clone + Send + Sync + 'static,
{
    let (dirty, freshness) = (dirty.clone(), freshness.clone());
    store.on_change(move |change| {
        count(change.object());
        freshness.wanted();
        // A slice can be given to another Service.
        let both = change.old().into_iter().chain([change.object()]);
        dirty.add(both.filter_map(|object| service(object)));
    });
}

/// Tells of a new zone; all else about the node (its status changes every few seconds) is no concern of ours.
fn follow_zone(nodes: &Arc<Store<Node>>, dirty: &Arc<Dirty>) {
    let (dirty, known) = (dirty.clone(), Mutex::new(None));
    let store = Arc::downgrade(nodes);
    nodes.on_change(move |_| {
        let Some(store) = store.upgrade() else { return };
        let zone = store.list().first().and_then(|n| n.labels().get(ZONE).cloned());
        let mut known = known.lock();
        if *known != zone {
            *known = zone;
            dirty.add([]);
        }
    });
}

struct Proxy {
    keeper: Keeper,
    services: Arc<Store<Service>>,
    slices: Arc<Store<EndpointSlice>>,
    /// This node's object alone.
    nodes: Arc<Store<Node>>,
    node: String,
    /// The node's zone that endpoints were last chosen for.
    zone: Option<String>,
    health_ports: HealthPorts,
    freshness: Freshness,
    metrics: Metrics,
}

impl Proxy {
    async fn follow(mut self, dirty: Arc<Dirty>, pause: Duration, shutdown: Shutdown) {
        let mut retry = Duration::ZERO;
        let mut audit = tokio::time::interval(AUDIT);
        loop {
            let started = Instant::now();
            match self.sync(dirty.take()).await {
                Ok(()) => retry = Duration::ZERO,
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "apply the rules");
                    retry = (retry * 2).clamp(Duration::from_secs(1), Duration::from_secs(30));
                }
            }
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = dirty.reported.notified() => break,
                    () = tokio::time::sleep(retry), if !retry.is_zero() => break,
                    () = self.keeper.touched() => if !self.is_right() { break },
                    _ = audit.tick() => if !self.is_right() { break },
                }
            }
            let rest = pause.saturating_sub(started.elapsed()).max(GATHER);
            tokio::select! { () = shutdown.cancelled() => return, () = tokio::time::sleep(rest) => {} }
        }
    }

    /// Looks at these Services alone, and at all of them when the node's zone is another.
    async fn sync(&mut self, dirty: BTreeSet<String>) -> Result<()> {
        let start = Instant::now();
        let triggers = self.metrics.take_triggers();
        self.is_right();
        let zone = self.nodes.get(&self.node).and_then(|n| n.labels().get(ZONE).cloned());
        if zone != self.zone {
            self.zone = zone;
            for service in self.keeper.planner.services() {
                self.look_at(&service);
            }
        }
        dirty.iter().for_each(|service| self.look_at(service));
        let sent = match tokio::task::block_in_place(|| self.keeper.apply()) {
            Ok(sent) => sent,
            Err(error) => {
                self.metrics.failed(triggers);
                return Err(error);
            }
        };
        self.freshness.applied();
        self.metrics.applied(start.elapsed(), &triggers);
        if sent > 0 {
            let services = self.keeper.planner.count();
            tracing::info!(changes = sent, services, took = ?start.elapsed(), "rules applied");
        }
        self.health_ports.update(wanted(self.keeper.planner.health_ports())).await;
        match tokio::task::block_in_place(|| self.keeper.forget_flows()) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "forgot stale UDP flows"),
            // They are seen to with the next change.
            Err(error) => tracing::warn!(error = format!("{error:#}"), "stale UDP flows stay"),
        }
        Ok(())
    }

    fn look_at(&mut self, key: &str) {
        let place = Place { node: &self.node, zone: self.zone.as_deref() };
        let ports = match self.services.get(key) {
            Some(service) => service_ports(&service, &self.slices.by_index(BY_SERVICE, key), place),
            None => Vec::new(),
        };
        self.keeper.planner.set(key, ports);
    }

    fn is_right(&mut self) -> bool {
        tokio::task::block_in_place(|| self.keeper.is_right())
    }
}
