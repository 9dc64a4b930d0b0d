//! All hosts at once: connected, with an agent each.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::stream::{self, StreamExt};
use kinit_agent::{Agent, Busy, OnNote, OnWaiting, Opening};
use kinit_config::{Cluster, HostSpec};
use kinit_remote::{ConfigProblem, Desk, OnUnknown, SudoProblem};
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

    /// Connects to more hosts.
    pub async fn add(
        &mut self,
        cluster: &Cluster,
        hosts: impl IntoIterator<Item = &HostSpec>,
        options: &ConnectOptions,
    ) -> Result<(), Unreachable> {
        let one = |host: &HostSpec| {
            let (name, target, options) = (host.name.clone(), target(cluster, host, options), options.clone());
            async move {
                let agent = async {
                    let transport = options.desk.connect(&target?).await?;
                    let waiting = options.waiting.as_ref();
                    let agent = Agent::start(&name, transport, &options.program, &options.opening, waiting).await?;
                    anyhow::Ok(agent.telling(options.note.clone()))
                };
                (name.clone(), agent.await)
            }
        };
        let known = |name: &str| self.agents.contains_key(name) || self.unreachable.contains_key(name);
        let tasks: Vec<_> = hosts.into_iter().filter(|host| !known(&host.name)).map(one).collect();
        let results: Vec<_> = stream::iter(tasks).buffer_unordered(PARALLELISM).collect().await;
        let (mut why, mut busy) = (Vec::new(), true);
        for (name, result) in results {
            match result {
                Ok(agent) => drop(self.agents.insert(name, Arc::new(agent))),
                Err(error) if error.is::<Busy>() => why.push((name, format!("{error:#}"))),
                Err(error) if is_the_desks(&error) => {
                    busy = false;
                    why.push((name, format!("{error:#}")));
                }
                Err(error) => drop(self.unreachable.insert(name, format!("{error:#}"))),
            }
        }
        why.sort();
        if why.is_empty() { Ok(()) } else { Err(Unreachable { why, busy }) }
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
