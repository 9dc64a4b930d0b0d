//! The loop: nodes and the kernel's table, compared whenever either changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::core::v1::Node;
use kinit_client::Rewatch;
use kinit_component_base::health::Checks;
use kinit_component_base::serve::serve_health_on;
use kinit_component_base::{Shutdown, supervise};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use crate::metrics::Metrics;
use crate::routes::{Table, changed};
use crate::{Args, announce, cni, masquerade, plan, policy, portmap};

/// Should a change be missed, everything is compared again after this.
const RESYNC: Duration = Duration::from_secs(60);
/// Pause after announcing failed as a whole: without the right to raw sockets, say.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(10);

/// Runs until `shutdown`; what it made stays, so that pods keep their network while it is restarted.
pub async fn run(args: Args, shutdown: Shutdown) -> Result<()> {
    let (table, mut changes) = Table::open()?;
    if args.cleanup {
        return clean_up(&table, &args).await;
    }
    let kubeconfig = args.kubeconfig.clone().context("--kubeconfig is missing")?;
    let own = args.node_name.clone().context("--node-name is missing")?;
    let cluster = args.cluster_cidr.context("--cluster-cidr is missing")?.trunc();
    check_forwarding()?;
    let client = kinit_client::from_kubeconfig(&kubeconfig, "kube-netd").await?;
    let (news, heard) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (nodes, ready) = watch_nodes(Api::all(client.clone()), [news.clone(), heard.clone()], &shutdown);
    let in_force = Arc::new(AtomicBool::new(false));
    health(&args, &ready, &in_force, shutdown.clone()).await?;
    let metrics = Metrics::new();
    announce(&own, client.clone(), &nodes, &ready, heard.clone(), &metrics, &shutdown);
    let (pod_cidrs, own_cidrs) = watch::channel(None);
    let settings = policy::Settings { node: own.clone(), cluster, in_force, own: own_cidrs };
    let keeper = policy::Keeper::open(settings, policy::Metrics::new())?;
    supervise::vital("network policies", &shutdown, keeper.run(client, shutdown.clone()));
    let mut agent = Agent { table, nodes, own, cluster, args, pod_cidrs, masquerade: None, metrics };
    let mut rules = masquerade::Watch::open();
    loop {
        let pause = match if ready.load(Ordering::Acquire) { agent.align_once().await } else { Ok(()) } {
            Ok(()) => RESYNC,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "align the pod network");
                Duration::from_secs(2)
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = news.notified() => {}
            () = changed(&mut changes) => heard.notify_one(),
            () = rules.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Answers for addresses of load balancers beside the pod network, which goes on whatever becomes of them.
fn announce(
    node: &str,
    client: Client,
    nodes: &Store<Node>,
    ready: &Arc<AtomicBool>,
    news: Arc<Notify>,
    metrics: &Metrics,
    shutdown: &Shutdown,
) {
    let (node, nodes, nodes_known, metrics) = (node.to_owned(), nodes.clone(), ready.clone(), metrics.clone());
    let setup = announce::Setup { client, node, nodes, nodes_known, news, metrics };
    let ending = shutdown.clone();
    supervise::vital("announcements", shutdown, async move {
        while !ending.is_cancelled() {
            // What it started ends with it.
            let own = ending.child_token();
            if let Err(error) = announce::run(setup.clone(), own.clone()).await {
                tracing::error!(error = format!("{error:#}"), "answer for load balancers' addresses");
            }
            own.cancel();
            tokio::select! {
                () = ending.cancelled() => {}
                () = tokio::time::sleep(ANNOUNCE_AGAIN) => {}
            }
        }
    });
}

pub(crate) fn watch_nodes(
    api: Api<Node>,
    news: [Arc<Notify>; 2],
    shutdown: &Shutdown,
) -> (Store<Node>, Arc<AtomicBool>) {
    let (reader, writer) = reflector::store();
    let ready = Arc::new(AtomicBool::new(false));
    let (store, flag) = (reader.clone(), ready.clone());
    let stream = kube::runtime::watcher(api, watcher::Config::default());
    supervise::vital("node watch", shutdown, async move {
        let mut stream = std::pin::pin!(stream.backoff(Rewatch::default()).reflect(writer));
        while let Some(event) = stream.next().await {
            match event {
                // Until the list is complete nothing may be concluded from what is missing.
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Ok(watcher::Event::InitDone) => {
                    flag.store(true, Ordering::Release);
                    news.iter().for_each(|one| one.notify_one());
                }
                Ok(_) => news.iter().for_each(|one| one.notify_one()),
                Err(error) => tracing::warn!(%error, "watch nodes"),
            }
        }
        drop(store);
    });
    (reader, ready)
}

fn check_forwarding() -> Result<()> {
    let path = "/proc/sys/net/ipv4/ip_forward";
    let value = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    ensure!(value.trim() == "1", "IP forwarding is off; set net.ipv4.ip_forward=1");
    Ok(())
}

async fn health(args: &Args, ready: &Arc<AtomicBool>, in_force: &Arc<AtomicBool>, shutdown: Shutdown) -> Result<()> {
    let checks = Checks::with_ping();
    let (ready, in_force) = (ready.clone(), in_force.clone());
    checks.add("network-policies-in-force", move || {
        if in_force.load(Ordering::Acquire) { Ok(()) } else { Err("network policies are not in force yet".to_owned()) }
    });
    checks.add("nodes-synced", move || {
        if ready.load(Ordering::Acquire) { Ok(()) } else { Err("nodes are not known yet".to_owned()) }
    });
    let address = args.healthz_bind_address;
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("listen on {address} for health checks"))?;
    supervise::spawn("health checks", serve_health_on(listener, checks, shutdown));
    Ok(())
}

struct Agent {
    table: Table,
    nodes: Store<Node>,
    own: String,
    cluster: Ipv4Net,
    args: Args,
    /// Where the networks of this node's pods are told, when the nodes are known.
    pod_cidrs: watch::Sender<Option<Vec<IpNet>>>,
    /// The masquerading rules as last applied.
    masquerade: Option<kinit_nftables::Table>,
    metrics: Metrics,
}

impl Agent {
    async fn align_once(&mut self) -> Result<()> {
        let begun = Instant::now();
        let result = self.align().await;
        self.metrics.aligned(begun.elapsed(), result.is_ok());
        result
    }

    /// Makes the node's network what the cluster's nodes say it is.
    async fn align(&mut self) -> Result<()> {
        let nodes = self.nodes.state();
        let own = nodes.iter().find(|n| n.metadata.name.as_deref() == Some(&self.own));
        let cidrs = Some(own.and_then(|own| plan::pod_cidr(own)).map(IpNet::V4).into_iter().collect());
        self.pod_cidrs.send_if_modified(|known| {
            *known != cidrs && {
                *known = cidrs;
                true
            }
        });
        if let Some(own) = own {
            self.configure(own).await?;
        }
        let wanted = plan::routes(nodes.iter().map(AsRef::as_ref), &self.own, &self.cluster);
        self.metrics.routes(wanted.len());
        let present = self.table.ours().await?;
        let (set, remove) = plan::difference(&wanted, &present);
        for (destination, gateway) in remove {
            tracing::info!(%destination, %gateway, "remove a route");
            self.table.remove(destination, gateway).await?;
        }
        let mut failed = None;
        for (destination, gateway) in set {
            match self.table.set(destination, gateway).await {
                Ok(()) => tracing::info!(%destination, %gateway, "set a route"),
                // One node that cannot be reached must not keep the others from being.
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn configure(&mut self, own: &Node) -> Result<()> {
        let Some(cidr) = plan::pod_cidr(own) else {
            tracing::debug!("the node has no pod CIDR yet");
            return Ok(());
        };
        let mtu = match plan::internal_ip(own) {
            Some(ip) => self.table.mtu(ip).await?.unwrap_or(1500),
            None => 1500,
        };
        if cni::write(&self.args.cni_conf_dir, &cni::conflist(cidr, mtu))? {
            tracing::info!(%cidr, mtu, "CNI configuration written");
        }
        let rules = masquerade::table(&cidr, &self.cluster);
        if let Some(applied) = &self.masquerade
            && !masquerade::is_there(applied.clone()).await?
        {
            tracing::warn!("somebody changed the masquerading rules: making them anew");
            self.metrics.repaired();
            self.masquerade = None;
        }
        if self.masquerade.as_ref() != Some(&rules) {
            masquerade::apply(self.masquerade.take(), rules.clone()).await?;
            self.masquerade = Some(rules);
        }
        Ok(())
    }
}

/// Removes everything; goes on after a failure, and tells the first.
async fn clean_up(table: &Table, args: &Args) -> Result<()> {
    let routes = async {
        for (destination, gateway) in table.ours().await? {
            table.remove(destination, gateway).await?;
        }
        Ok(())
    };
    let done = [
        routes.await,
        policy::remove().await,
        masquerade::remove().await,
        portmap::remove().await,
        cni::remove(&args.cni_conf_dir),
    ];
    done.into_iter().collect()
}
