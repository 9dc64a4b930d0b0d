//! All hosts at once: connected, with an agent each.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::stream::{self, StreamExt};
use kinit_agent::{Agent, Busy, LockMode, OnNote, OnWaiting, Opening, WireUse};
use kinit_config::{Cluster, HostSpec, Role};
use kinit_remote::{ConfigProblem, Desk, OnUnknown, SudoProblem, Transport};
use kinit_resource::Facts;

use crate::PARALLELISM;
use crate::route::target;

/// How to connect.
#[derive(Clone)]
pub struct ConnectOptions {
    /// kinit's own program, to be copied to hosts that do not have it.
    pub program: Arc<Vec<u8>>,
    /// The desk user's home, for `~` and OpenSSH's files.
    pub home: PathBuf,
    /// What was told at the desk: passwords and passphrases.
    pub desk: Desk,
    /// What to do about hosts that are not known.
    pub on_unknown: OnUnknown,
    /// How long a connection may take.
    pub timeout: Duration,
    /// Who works on the hosts, what for, and with which claim to their locks.
    pub opening: Opening,
    /// Hears of hosts that another kinit works on, whose end is waited for.
    pub waiting: Arc<OnWaiting>,
    /// Hears what steps on hosts say while they work.
    pub note: OnNote,
}

/// Hosts that could not be had, each with the reason.
#[derive(Debug, thiserror::Error)]
#[error("{}", .why.iter().map(|(host, why)| format!("{host}: {why}")).collect::<Vec<_>>().join("\n"))]
pub struct Unreachable {
    /// Host and reason.
    pub why: Vec<(String, String)>,
    /// All of them were reached, but another kinit works on them.
    pub busy: bool,
}

/// Whether the mistake is the desk's: a wrong password or a wrong setting makes no host dead.
fn is_the_desks(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<SudoProblem>() || cause.is::<ConfigProblem>())
}

/// Hosts whose state is no fact to plan with.
#[derive(Default)]
struct Missed {
    why: Vec<(String, String)>,
    by_desk: bool,
}

impl Missed {
    fn judged(mut self) -> Result<(), Unreachable> {
        self.why.sort();
        if self.why.is_empty() { Ok(()) } else { Err(Unreachable { why: self.why, busy: !self.by_desk }) }
    }
}

async fn reach<'a>(
    cluster: &Cluster,
    host: &'a HostSpec,
    options: &ConnectOptions,
) -> (&'a HostSpec, Result<Box<dyn Transport>>) {
    let connected = async { options.desk.connect(&target(cluster, host, options)?).await };
    (host, connected.await)
}

async fn start(name: &str, transport: Box<dyn Transport>, options: &ConnectOptions) -> Result<Agent> {
    let waiting = options.waiting.as_ref();
    let agent = Agent::start(name, transport, &options.program, &options.opening, waiting).await?;
    Ok(agent.telling(options.note.clone()))
}

/// An agent on every host that could be reached.
#[derive(Default)]
pub struct Hosts {
    agents: BTreeMap<String, Arc<Agent>>,
    unreachable: BTreeMap<String, String>,
}

impl Hosts {
    /// Connects to all of these hosts at once. One that cannot be reached is a fact, which each operation judges for
    /// itself; one that another kinit works on is an error, and so is a mistake of the desk's.
    pub async fn connect(
        cluster: &Cluster,
        hosts: impl IntoIterator<Item = &HostSpec>,
        options: &ConnectOptions,
    ) -> Result<Self, Unreachable> {
        let mut all = Self::default();
        all.add(cluster, hosts, options).await?;
        Ok(all)
    }

    /// One machine alone, which works for itself.
    pub(crate) fn alone(agent: Arc<Agent>) -> Self {
        let agents = BTreeMap::from([(agent.host().to_owned(), agent)]);
        Self { agents, ..Self::default() }
    }

    /// Connects to more hosts: all at once, but for the lock of the first control plane that is reached. Whoever has
    /// that one has the cluster: of two kinits that begin at the same moment one waits there, with no other lock.
    pub async fn add(
        &mut self,
        cluster: &Cluster,
        hosts: impl IntoIterator<Item = &HostSpec>,
        options: &ConnectOptions,
    ) -> Result<(), Unreachable> {
        let known = |name: &str| self.agents.contains_key(name) || self.unreachable.contains_key(name);
        let new: Vec<&HostSpec> = hosts.into_iter().filter(|host| !known(&host.name)).collect();
        let mut missed = Missed::default();
        let mut reached = Vec::new();
        let reach = new.iter().map(|host| reach(cluster, host, options));
        for (host, transport) in stream::iter(reach.collect::<Vec<_>>()).buffered(PARALLELISM).collect::<Vec<_>>().await
        {
            match transport {
                Ok(transport) => reached.push((host, transport)),
                Err(error) => self.miss(&host.name, error, &mut missed),
            }
        }
        while self.agents.is_empty()
            && options.opening.lock != LockMode::Look
            && let Some(at) = reached.iter().position(|(host, _)| host.is(Role::ControlPlane))
        {
            let (host, transport) = reached.remove(at);
            match start(&host.name, transport, options).await {
                Ok(agent) => drop(self.agents.insert(host.name.clone(), Arc::new(agent))),
                Err(error) if error.is::<Busy>() => {
                    self.miss(&host.name, error, &mut missed);
                    return missed.judged();
                }
                Err(error) => self.miss(&host.name, error, &mut missed),
            }
        }
        let starts = reached
            .into_iter()
            .map(|(host, transport)| async move { (host.name.as_str(), start(&host.name, transport, options).await) });
        let started: Vec<_> = stream::iter(starts.collect::<Vec<_>>()).buffer_unordered(PARALLELISM).collect().await;
        for (name, result) in started {
            match result {
                Ok(agent) => drop(self.agents.insert(name.to_owned(), Arc::new(agent))),
                Err(error) => self.miss(name, error, &mut missed),
            }
        }
        missed.judged()
    }

    /// A host without an agent: a fact, or a reason to stop.
    fn miss(&mut self, host: &str, error: anyhow::Error, missed: &mut Missed) {
        let why = format!("{error:#}");
        if error.is::<Busy>() {
            missed.why.push((host.to_owned(), why));
        } else if is_the_desks(&error) {
            missed.by_desk = true;
            missed.why.push((host.to_owned(), why));
        } else {
            self.unreachable.insert(host.to_owned(), why);
        }
    }

    /// Those that could not be reached, each with the reason.
    pub fn unreachable(&self) -> &BTreeMap<String, String> {
        &self.unreachable
    }

    /// Refuses to go on without any of them.
    pub fn need_all(&self) -> Result<(), Unreachable> {
        let why: Vec<_> = self.unreachable.iter().map(|(host, why)| (host.clone(), why.clone())).collect();
        if why.is_empty() { Ok(()) } else { Err(Unreachable { why, busy: false }) }
    }

    /// Refuses to go on without these.
    pub fn need<'a>(&self, hosts: impl Iterator<Item = &'a HostSpec>) -> Result<(), Unreachable> {
        let missing = |host: &HostSpec| Some((host.name.clone(), self.unreachable.get(&host.name)?.clone()));
        let why: Vec<_> = hosts.filter_map(missing).collect();
        if why.is_empty() { Ok(()) } else { Err(Unreachable { why, busy: false }) }
    }

    /// Facts about all hosts.
    pub async fn facts(&self, cluster: &Cluster) -> Result<BTreeMap<String, Facts>> {
        let data = cluster.spec.etcd.data_dir.as_str();
        self.each(|agent| async move { agent.facts(data).await }).await.context("ask the hosts what they are")
    }

    /// The agent of a host.
    pub fn agent(&self, host: &str) -> Result<&Arc<Agent>> {
        self.agents.get(host).with_context(|| match self.unreachable.get(host) {
            Some(why) => format!("host {host} cannot be reached: {why}"),
            None => format!("host {host} is not connected"),
        })
    }

    /// The names of all hosts with an agent.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.agents.keys().map(String::as_str)
    }

    /// What the conversation with each host has cost the line so far.
    pub fn wire_use(&self) -> BTreeMap<String, WireUse> {
        self.agents.iter().map(|(name, agent)| (name.clone(), agent.wire_use())).collect()
    }

    /// Does something on all hosts at once; every failure is told, named by its host.
    pub async fn each<T, F, Fut>(&self, f: F) -> Result<BTreeMap<String, T>>
    where
        F: Fn(Arc<Agent>) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let (done, failed): (Vec<_>, Vec<_>) =
            self.try_each(f).await.into_iter().partition(|(_, result)| result.is_ok());
        let failed = failed.into_iter().filter_map(|(host, result)| Some(format!("{host}: {:#}", result.err()?)));
        let failed: Vec<String> = failed.collect();
        ensure!(failed.is_empty(), "{}", failed.join("\n"));
        Ok(done.into_iter().filter_map(|(host, result)| Some((host, result.ok()?))).collect())
    }

    /// Does something on all hosts at once.
    pub async fn try_each<T, F, Fut>(&self, f: F) -> BTreeMap<String, Result<T>>
    where
        F: Fn(Arc<Agent>) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let tasks: Vec<_> = self.agents.iter().map(|(name, agent)| (name.clone(), f(agent.clone()))).collect();
        stream::iter(tasks)
            .map(|(name, task)| async { (name, task.await) })
            .buffer_unordered(PARALLELISM)
            .collect()
            .await
    }
}
