//! The loop: nodes and the kernel's table, compared whenever either changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kinit_client::Rewatch;
use kinit_component_base::health::Checks;
use kinit_component_base::serve::serve_health_on;
use kinit_component_base::{Shutdown, supervise};
use kube::Api;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::metrics::Metrics;
use crate::routes::{Table, changed};
use crate::{Args, cni, masquerade, plan, portmap};

/// Should a change be missed, everything is compared again after this.
const RESYNC: Duration = Duration::from_secs(60);

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
    let news = Arc::new(Notify::new());
    let (nodes, ready) = watch_nodes(Api::all(client), news.clone());
    health(&args, &ready, shutdown.clone()).await?;
    let mut agent = Agent { table, nodes, own, cluster, args, masquerade: None, metrics: Metrics::new() };
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
            () = changed(&mut changes) => {}
            () = rules.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn watch_nodes(api: Api<Node>, news: Arc<Notify>) -> (Store<Node>, Arc<AtomicBool>) {
    let (reader, writer) = reflector::store();
    let ready = Arc::new(AtomicBool::new(false));
    let (store, flag) = (reader.clone(), ready.clone());
    let stream = kube::runtime::watcher(api, watcher::Config::default());
    supervise::spawn("node watch", async move {
        let mut stream = std::pin::pin!(stream.backoff(Rewatch::default()).reflect(writer));
        while let Some(event) = stream.next().await {
            match event {
                // Until the list is complete nothing may be concluded from what is missing.
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Ok(watcher::Event::InitDone) => {
                    flag.store(true, Ordering::Release);
                    news.notify_one();
                }
                Ok(_) => news.notify_one(),
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

async fn health(args: &Args, ready: &Arc<AtomicBool>, shutdown: Shutdown) -> Result<()> {
    let checks = Checks::with_ping();
    let ready = ready.clone();
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
    let done = [routes.await, masquerade::remove().await, portmap::remove().await, cni::remove(&args.cni_conf_dir)];
    done.into_iter().collect()
}
