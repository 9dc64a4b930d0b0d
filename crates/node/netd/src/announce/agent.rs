//! The loop: what should be, what is, and the steps between.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kinit_client::events::Recorder;
use kinit_client::informer::{Store, spawn};
use kinit_component_base::{Shutdown, supervise};
use kube::runtime::{reflector, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::act::Leases;
use super::beats::Beats;
use super::decide::{Holder, Step, step};
use super::heart::{Heart, Pulse};
use super::interfaces::{self, Interface};
use super::lease;
use super::speaker::News;
use super::voice::{self, Command};
use super::wanted::{self, Wanted};
use crate::metrics::Metrics;

/// Everything is looked at again after this: the network interfaces tell of no change here.
const RESYNC: Duration = Duration::from_secs(10);
/// A Lease of no Service's address stays for so long, in case that the Service is not seen yet.
const LEFT_OVER: Duration = Duration::from_secs(5);
/// A node that turned out to live is left alone for so long.
pub(super) const DOUBT: Duration = Duration::from_secs(1);
const SERVICE: &str = "kubernetes.io/service-name";
const BY_SERVICE: &str = "service";

/// What the announcer is given.
#[derive(Clone)]
pub struct Setup {
    /// Towards the API.
    pub client: Client,
    /// This node's name.
    pub node: String,
    /// All nodes.
    pub nodes: reflector::Store<Node>,
    /// Whether the nodes are known.
    pub nodes_known: Arc<AtomicBool>,
    /// Told of changes of nodes and of the host's network.
    pub news: Arc<Notify>,
    /// Where it is counted.
    pub metrics: Metrics,
}

/// Runs until `shutdown`.
pub async fn run(setup: Setup, shutdown: Shutdown) -> Result<()> {
    let balanced = watcher::Config::default().fields("spec.type=LoadBalancer");
    let services: Arc<Store<Service>> = spawn(Api::all(setup.client.clone()), balanced, &shutdown);
    let news = setup.news.clone();
    follow(&services, news);
    // Without such Services a node watches nothing else, opens no socket and writes no Lease.
    while wanted::addresses(&services.list()).is_empty() {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = setup.news.notified() => {}
        }
    }
    let mut agent = Agent::start(setup, services, &shutdown);
    loop {
        let next = agent.align().await;
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = agent.setup.news.notified() => {}
            changed = agent.pulse.changed() => if changed.is_err() { return Ok(()) },
            Some((address, news)) = agent.reported.recv() => agent.tell(address, news),
            ended = &mut agent.speaking => return ended.context("the task that speaks ARP panicked")?,
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// An address that this node has.
pub(super) struct Mine {
    /// Of the Lease as this node wrote it.
    pub version: u64,
    /// By which it answers.
    pub interface: Interface,
}

/// The state of the loop.
pub(super) struct Agent {
    pub setup: Setup,
    services: Arc<Store<Service>>,
    /// From the first Service on that needs them.
    slices: Option<Arc<Store<EndpointSlice>>>,
    pub leases: Leases,
    beats: Beats,
    pub heart: Heart,
    pub pulse: watch::Receiver<Pulse>,
    epoch: u64,
    pub commands: mpsc::UnboundedSender<Command>,
    reported: mpsc::UnboundedReceiver<(Ipv4Addr, News)>,
    speaking: tokio::task::JoinHandle<Result<()>>,
    pub mine: BTreeMap<Ipv4Addr, Mine>,
    /// Since when nobody has an address.
    pub free: BTreeMap<Ipv4Addr, Instant>,
    /// Nodes that are not to be declared dead before then.
    pub doubts: HashMap<String, Instant>,
    events: Recorder,
    shutdown: Shutdown,
}

/// What was decided, in one round.
#[derive(Default)]
pub(super) struct Round {
    /// Addresses to take, or to answer for by another interface.
    pub take: BTreeMap<Ipv4Addr, Interface>,
    /// Addresses to give up.
    pub release: BTreeSet<Ipv4Addr>,
    /// Nodes to declare dead.
    pub dead: BTreeSet<String>,
    /// Leases to remove.
    pub forget: BTreeSet<Ipv4Addr>,
    /// When to look again, if nothing happens.
    pub rest: Option<Duration>,
}

impl Agent {
    fn start(setup: Setup, services: Arc<Store<Service>>, shutdown: &Shutdown) -> Self {
        let api: Api<Lease> = Api::namespaced(setup.client.clone(), lease::NAMESPACE);
        let store = spawn(api.clone(), watcher::Config::default(), shutdown);
        let beats = Beats::follow(&store, setup.news.clone());
        when_known(&store, setup.news.clone());
        let (nodes, name) = (setup.nodes.clone(), setup.node.clone());
        // A node's Lease goes with its Node.
        let own = move || nodes.get(&reflector::ObjectRef::new(&name))?.owner_ref(&());
        let heart = Heart::start(api.clone(), setup.node.clone(), own, setup.metrics.clone(), shutdown);
        let (commands, orders) = mpsc::unbounded_channel();
        let (sender, reported) = mpsc::unbounded_channel();
        let speaking = tokio::spawn(voice::run(orders, heart.pulse(), sender, setup.metrics.clone()));
        Self {
            leases: Leases { api, store, node: setup.node.clone() },
            events: Recorder::new(setup.client.clone(), "kube-netd", &setup.node),
            pulse: heart.pulse(),
            shutdown: shutdown.clone(),
            setup,
            services,
            slices: None,
            beats,
            heart,
            epoch: 0,
            commands,
            reported,
            speaking,
            mine: BTreeMap::new(),
            free: BTreeMap::new(),
            doubts: HashMap::new(),
        }
    }
}

impl Agent {
    /// Brings about what should be; when to look again.
    async fn align(&mut self) -> Instant {
        self.check_epoch();
        if !(self.services.is_synced()
            && self.leases.store.is_synced()
            && self.setup.nodes_known.load(Ordering::Acquire))
        {
            return Instant::now() + RESYNC;
        }
        let round = match interfaces::scan() {
            Ok(all) => self.decide(&all),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "answer for load balancers' addresses");
                return Instant::now() + RESYNC;
            }
        };
        let rest = round.rest.unwrap_or(RESYNC).min(RESYNC);
        let again = self.act(round).await;
        self.heart.want(!self.mine.is_empty());
        Instant::now() + again.map_or(rest, |again| again.min(rest))
    }

    /// Others declared this node dead: nothing that it had is its own any more.
    fn check_epoch(&mut self) {
        let epoch = self.pulse.borrow_and_update().epoch;
        if epoch != self.epoch {
            self.epoch = epoch;
            let all: Vec<Ipv4Addr> = self.mine.keys().copied().collect();
            all.into_iter().for_each(|address| self.stop(address));
        }
    }

    fn decide(&mut self, interfaces: &[Interface]) -> Round {
        let now = Instant::now();
        let wanted = wanted::addresses(&self.services.list());
        let nodes = self.setup.nodes.state();
        let fit = wanted::nodes(nodes.iter().map(AsRef::as_ref));
        self.doubts.retain(|_, until| *until > now);
        let mut round = Round::default();
        for (address, wanted) in &wanted {
            self.one(*address, wanted, &fit, interfaces, now, &mut round);
        }
        let known: BTreeSet<Ipv4Addr> =
            self.leases.store.list().iter().filter_map(|lease| lease::address(&lease.name_any())).collect();
        let first = fit.first() == Some(&self.setup.node);
        let all: Vec<Ipv4Addr> = known.iter().chain(self.mine.keys()).copied().collect();
        for address in all.into_iter().filter(|address| !wanted.contains_key(address)) {
            self.left_over(address, first, now, &mut round);
        }
        self.free.retain(|address, _| wanted.contains_key(address) || known.contains(address));
        round
    }

    fn one(
        &mut self,
        address: Ipv4Addr,
        wanted: &Wanted,
        fit: &BTreeSet<String>,
        interfaces: &[Interface],
        now: Instant,
        round: &mut Round,
    ) {
        let Some(candidates) = self.candidates(wanted, fit) else { return };
        // An address that this host has itself is left to its kernel: other nodes hear it, and tell.
        let own = interfaces::owner(interfaces, address).is_some();
        let interface = interfaces::serving(interfaces, address).filter(|_| !own);
        let seen = self.leases.get(&lease::of_address(address));
        let holder = self.holder(address, seen.as_deref(), now);
        // The order of the others does not depend on who has it, or had it and died.
        let had = seen.as_deref().and_then(lease::holder).filter(|node| *node != self.setup.node);
        let ranked = wanted::ranked(address, candidates.iter().filter(|node| Some(node.as_str()) != had));
        let rank = interface.and_then(|_| ranked.iter().position(|node| *node == self.setup.node));
        match (step(holder, rank), interface) {
            (Step::Rest(after), _) => {
                round.rest = [round.rest, after].into_iter().flatten().min();
                let moved = self.mine.get(&address).filter(|mine| Some(&mine.interface) != interface);
                if let (Some(_), Some(interface)) = (moved, interface) {
                    round.take.insert(address, interface.clone());
                }
            }
            (Step::Acquire, Some(interface)) => drop(round.take.insert(address, interface.clone())),
            (Step::DeclareDead, _) => match had.filter(|node| self.doubts.contains_key(*node)) {
                Some(_) => round.rest = sooner(round.rest, DOUBT),
                None => round.dead.extend(had.map(str::to_owned)),
            },
            (Step::Release | Step::Acquire, _) => drop(round.release.insert(address)),
        }
    }

    /// The nodes that may answer; `None` while that is not known.
    fn candidates(&mut self, wanted: &Wanted, fit: &BTreeSet<String>) -> Option<BTreeSet<String>> {
        if !wanted.local {
            return Some(fit.clone());
        }
        let slices = self.slices.get_or_insert_with(|| {
            let all: Api<EndpointSlice> = Api::all(self.setup.client.clone());
            let store = spawn(all, watcher::Config::default(), &self.shutdown);
            store.index(BY_SERVICE, |slice: &EndpointSlice| {
                let service = slice.labels().get(SERVICE);
                service.map(|name| format!("{}/{name}", slice.namespace().unwrap_or_default())).into_iter().collect()
            });
            let news = self.setup.news.clone();
            follow(&store, news);
            store
        });
        if !slices.is_synced() {
            return None;
        }
        let service = format!("{}/{}", wanted.service.namespace().unwrap_or_default(), wanted.service.name_any());
        let here = wanted::with_endpoints(&slices.by_index(BY_SERVICE, &service));
        Some(fit.intersection(&here).cloned().collect())
    }

    /// Who has the address. What this node has and the Lease does not say any more, it has lost.
    fn holder(&mut self, address: Ipv4Addr, seen: Option<&Lease>, now: Instant) -> Holder {
        let written = self.mine.get(&address).map(|mine| mine.version);
        if written.is_some_and(|version| seen.is_some_and(|seen| lease::version(seen) < version)) {
            return Holder::Me(true);
        }
        let since = self.free.get(&address).map_or(Duration::ZERO, |since| now.saturating_duration_since(*since));
        let holder = self.beats.holder(seen, &self.setup.node, written.is_some(), now, since);
        match holder {
            Holder::Nobody(_) => drop(self.free.entry(address).or_insert(now)),
            _ => drop(self.free.remove(&address)),
        }
        if written.is_some() && !matches!(holder, Holder::Me(_)) {
            tracing::warn!(%address, "another node has the address now");
            self.stop(address);
        }
        holder
    }

    /// A Lease of an address that no Service has.
    fn left_over(&mut self, address: Ipv4Addr, first: bool, now: Instant, round: &mut Round) {
        let seen = self.leases.get(&lease::of_address(address));
        match self.holder(address, seen.as_deref(), now) {
            Holder::Me(_) => drop(round.forget.insert(address)),
            Holder::Nobody(since) | Holder::Other(since) if first && since >= LEFT_OVER => {
                round.forget.insert(address);
            }
            Holder::Nobody(_) | Holder::Other(_) => {}
        }
    }

    /// From here on this node says nothing for the address.
    pub(super) fn stop(&mut self, address: Ipv4Addr) {
        if self.mine.remove(&address).is_some() {
            tracing::info!(%address, "this node answers for the address no more");
            let _ = self.commands.send(Command::Drop(address));
        }
    }

    /// What became of an address, as an event of its Service.
    fn tell(&self, address: Ipv4Addr, news: News) {
        let all = wanted::addresses(&self.services.list());
        let (Some(wanted), Some(mine)) = (all.get(&address), self.mine.get(&address)) else { return };
        let (node, interface) = (&self.setup.node, &mine.interface.name);
        match news {
            News::Speaking => {
                let note = format!("node {node} answers for {address} on {interface}");
                tracing::info!("{note}");
                self.events.normal(&*wanted.service, "NodeAssigned", note);
            }
            News::Conflict(mac) => {
                let note = format!(
                    "{address} is in use: {mac} answers for it on {interface} of node {node}. \
                     Take it out of the pool, or from who has it"
                );
                tracing::warn!("{note}");
                self.setup.metrics.conflict();
                self.events.warning(&*wanted.service, "AddressConflict", note);
            }
        }
    }
}

/// The sooner of two pauses.
pub(super) fn sooner(one: Option<Duration>, other: Duration) -> Option<Duration> {
    Some(one.map_or(other, |one| one.min(other)))
}

/// Tells of every change of the objects, and when all are known.
fn follow<K>(store: &Arc<Store<K>>, news: Arc<Notify>)
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    let change = news.clone();
    store.on_change(move |_| change.notify_one());
    when_known(store, news);
}

/// Tells when all objects are known: where there are none, that is no change.
fn when_known<K>(store: &Arc<Store<K>>, news: Arc<Notify>)
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    let store = store.clone();
    supervise::spawn("first list", async move {
        store.synced().await;
        news.notify_one();
    });
}
