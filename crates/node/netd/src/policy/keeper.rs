//! The engine's table in the kernel: applied as news come, and put back when somebody else changes it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::core::v1::ObjectReference;
use kinit_client::events::Recorder;
use kinit_component_base::{Shutdown, supervise};
use kinit_nftables::{Monitor, Nftables, Observed};
use kube::Client;
use kube::runtime::events::EventType;
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;

use super::Id;
use super::base::{self, FAMILY, TABLE};
use super::engine::Engine;
use super::feed::{self, Kind, News};
use super::metrics::Metrics;
use super::parse::Policy;

/// Changes come in bursts: this long is waited for the rest of one.
const GATHER: Duration = Duration::from_millis(10);
/// News that one transaction takes up at most.
const BURST: usize = 4096;
/// Pauses after failures.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What it needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This node's name.
    pub node: String,
    /// Addresses of all pods of the cluster.
    pub cluster: Ipv4Net,
    /// Becomes true when the rules of all policies are in force.
    pub in_force: Arc<AtomicBool>,
    /// Networks of this node's pods; `None` until that is known.
    pub own: watch::Receiver<Option<Vec<IpNet>>>,
}

/// See the module.
pub struct Keeper {
    kernel: Nftables,
    /// Tells when somebody else changes the table; ours come through this netlink port.
    monitor: Monitor,
    port: u32,
    engine: Engine,
    /// Kinds whose first list has not arrived: until then nothing may be concluded from what is missing.
    incomplete: BTreeSet<Kind>,
    /// The kernel's table is not known to be what was applied last: all is made anew.
    anew: bool,
    /// Policies that have something wrong, which was not told yet.
    faulty: Vec<Policy>,
    settings: Settings,
    metrics: Metrics,
    events: Option<Recorder>,
}

impl Keeper {
    /// Opens the kernel's side. Without a table of an earlier run the gate is closed first; one that is there stays in
    /// force until policies are known.
    pub fn open(settings: Settings, metrics: Metrics) -> Result<Self> {
        let kernel = Nftables::open().context("open nftables")?;
        let monitor = Monitor::open(FAMILY, TABLE).context("watch nftables")?;
        close_gate(&kernel, &settings.cluster)?;
        Ok(Self {
            port: kernel.port().context("open nftables")?,
            kernel,
            monitor,
            engine: Engine::default(),
            incomplete: Kind::ALL.into(),
            anew: true,
            faulty: Vec::new(),
            settings,
            metrics,
            events: None,
        })
    }

    /// Follows the cluster until `shutdown`; the table stays.
    pub async fn run(mut self, client: Client, shutdown: Shutdown) {
        self.events = Some(Recorder::new(client.clone(), "kube-netd", &self.settings.node));
        let news = feed::start(&client, &self.settings.node, &shutdown);
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.follow(news) => {}
        }
    }

    /// Ends when no more news can come.
    pub(super) async fn follow(&mut self, mut news: Receiver<News>) {
        let mut retry = None;
        let mut own_known = self.learn_own();
        loop {
            let mut burst = Vec::new();
            tokio::select! {
                count = news.recv_many(&mut burst, BURST) => {
                    if count == 0 {
                        return;
                    }
                    tokio::time::sleep(GATHER).await;
                    while burst.len() < BURST && let Ok(one) = news.try_recv() {
                        burst.push(one);
                    }
                }
                changed = self.settings.own.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    own_known = self.learn_own();
                }
                noticed = self.monitor.changed(Some(self.port)) => self.notice(noticed),
                () = tokio::time::sleep(retry.unwrap_or_default()), if retry.is_some() => {}
            }
            burst.into_iter().for_each(|one| self.take(one));
            if !self.incomplete.is_empty() || !own_known {
                continue;
            }
            std::mem::take(&mut self.faulty).iter().for_each(|policy| self.report(policy));
            retry = match self.apply() {
                Ok(()) => None,
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "apply network policies");
                    Some(retry.map_or(RETRY.0, |pause: Duration| (pause * 2).min(RETRY.1)))
                }
            };
        }
    }

    /// Whether this node's networks are known.
    fn learn_own(&mut self) -> bool {
        let own = self.settings.own.borrow_and_update().clone();
        self.engine.set_own(own.as_deref().unwrap_or_default());
        own.is_some()
    }

    fn take(&mut self, news: News) {
        match news {
            News::Namespace(name, labels) => self.engine.set_namespace(&name, labels),
            News::Pod(id, pod) => self.engine.set_pod(&id, pod.map(|pod| *pod)),
            News::Policy(id, policy) => {
                let policy = policy.map(|policy| *policy);
                let faulty = policy.clone().filter(|policy| !policy.problems.is_empty());
                // A list that is read again tells what is known.
                if self.engine.set_policy(&id, policy) {
                    self.faulty.extend(faulty);
                }
            }
            News::Complete(kind) => drop(self.incomplete.remove(&kind)),
        }
    }

    /// A policy that has something wrong is told of where it matters: on nodes with pods of its namespace.
    fn report(&self, policy: &Policy) {
        let Policy { id: Id { namespace, name }, uid, problems, .. } = policy;
        let problems = problems.join("; ");
        tracing::warn!(namespace, name, problems, "parts of a network policy cannot be honoured: they allow nothing");
        if let Some(events) = self.events.as_ref().filter(|_| self.engine.concerns(namespace)) {
            let object = ObjectReference {
                api_version: Some("networking.k8s.io/v1".to_owned()),
                kind: Some("NetworkPolicy".to_owned()),
                namespace: Some(namespace.clone()),
                name: Some(name.clone()),
                uid: uid.clone(),
                ..ObjectReference::default()
            };
            let note = format!("Parts of this policy cannot be honoured and allow nothing: {problems}");
            events.send(object, EventType::Warning, "InvalidNetworkPolicy", note);
        }
    }

    /// One transaction of all that changed.
    fn apply(&mut self) -> Result<()> {
        let begun = Instant::now();
        let changes = self.engine.changes();
        let sent = if self.anew {
            tokio::task::block_in_place(|| self.kernel.apply(None, self.engine.table()))
        } else {
            tokio::task::block_in_place(|| self.kernel.commit(FAMILY, TABLE, &changes)).map(|()| changes.len())
        };
        let sent = match sent {
            Err(error) if error.is_surprise() && !self.anew => {
                tracing::warn!(%error, "somebody changed the rules of network policies: making them anew");
                self.metrics.repaired();
                tokio::task::block_in_place(|| self.kernel.apply(None, self.engine.table()))
            }
            sent => sent,
        };
        // What was not taken is not in the next changes: then all is made anew.
        self.anew = sent.is_err();
        self.metrics.applied(begun.elapsed(), sent.is_ok(), &self.engine.counts());
        let sent = sent.context("change nftables")?;
        self.settings.in_force.store(true, Ordering::Release);
        if sent > 0 {
            tracing::debug!(changes = sent, took = ?begun.elapsed(), "network policies applied");
        }
        Ok(())
    }

    /// Somebody else changed the table, or notices cannot be had.
    fn notice(&mut self, noticed: Result<(), kinit_nftables::Error>) {
        if let Err(error) = noticed {
            tracing::warn!(%error, "watch nftables");
            match Monitor::open(FAMILY, TABLE) {
                Ok(monitor) => self.monitor = monitor,
                Err(error) => supervise::fail(format!("watch nftables: {error}")),
            }
        }
        if self.anew {
            // Not synced yet, or about to be tried again: until then the gate is better than nothing.
            if let Err(error) = close_gate(&self.kernel, &self.settings.cluster) {
                tracing::error!(error = format!("{error:#}"), "close the gate of the pod network");
            }
            return;
        }
        match tokio::task::block_in_place(|| self.kernel.read(FAMILY, TABLE)) {
            Ok(observed) if observed.as_ref() == Some(&Observed::of(self.engine.table())) => {}
            Ok(_) => {
                tracing::warn!("somebody changed the rules of network policies: making them anew");
                self.metrics.repaired();
                self.anew = true;
            }
            Err(error) => {
                tracing::warn!(%error, "read the rules of network policies back");
                self.anew = true;
            }
        }
    }
}

/// Where there is no table, makes the one that holds until policies are known.
fn close_gate(kernel: &Nftables, cluster: &Ipv4Net) -> Result<()> {
    if kernel.has_table(FAMILY, TABLE).context("look for the rules of network policies")? {
        return Ok(());
    }
    kernel.apply(None, &base::gate(cluster)).map(drop).context("close the gate of the pod network")
}
