//! All hosts at once: connected, with an agent each.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::stream::{self, StreamExt};
use kinit_agent::{Agent, Busy, OnNote};
use kinit_config::{Cluster, HostSpec};
use kinit_remote::{Desk, OnUnknown};
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
    /// Hears of hosts that another kinit works on, whose end is waited for.
    pub waiting: Arc<dyn Fn(&str) + Send + Sync>,
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

/// An agent on every host.
pub struct Hosts(BTreeMap<String, Arc<Agent>>);

impl Hosts {
    /// Connects to all hosts of the file at once; tells of all that cannot be reached.
    pub async fn connect(cluster: &Cluster, options: &ConnectOptions) -> Result<Self, Unreachable> {
        let one = |host: &HostSpec| {
            let (name, target, options) = (host.name.clone(), target(cluster, host, options), options.clone());
            async move {
                let agent = async {
                    let transport = options.desk.connect(&target?).await?;
                    let agent = Agent::start(&name, transport, &options.program, options.waiting.as_ref()).await?;
                    anyhow::Ok(agent.telling(options.note.clone()))
                };
                (name.clone(), agent.await)
            }
        };
        let tasks: Vec<_> = cluster.spec.hosts.iter().map(one).collect();
        let results: Vec<_> = stream::iter(tasks).buffer_unordered(PARALLELISM).collect().await;
        let (mut agents, mut why, mut busy) = (BTreeMap::new(), Vec::new(), true);
        for (name, result) in results {
            match result {
                Ok(agent) => {
                    agents.insert(name, Arc::new(agent));
                }
                Err(error) => {
                    busy &= error.is::<Busy>();
                    why.push((name, format!("{error:#}")));
                }
            }
        }
        why.sort();
        if why.is_empty() { Ok(Self(agents)) } else { Err(Unreachable { why, busy }) }
    }

    /// Facts about all hosts.
    pub async fn facts(&self, cluster: &Cluster) -> Result<BTreeMap<String, Facts>> {
        let data = cluster.spec.etcd.data_dir.as_str();
        self.each(|agent| async move { agent.facts(data).await }).await.context("ask the hosts what they are")
    }

    /// The agent of a host.
    pub fn agent(&self, host: &str) -> Result<&Arc<Agent>> {
        self.0.get(host).with_context(|| format!("host {host} is not connected"))
    }

    /// Does something on all hosts at once; the first failure wins, named by its host.
    pub async fn each<T, F, Fut>(&self, f: F) -> Result<BTreeMap<String, T>>
    where
        F: Fn(Arc<Agent>) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let tasks: Vec<_> = self.0.iter().map(|(name, agent)| (name.clone(), f(agent.clone()))).collect();
        let results: Vec<_> = stream::iter(tasks)
            .map(|(name, task)| async { (name, task.await) })
            .buffer_unordered(PARALLELISM)
            .collect()
            .await;
        results
            .into_iter()
            .map(|(name, result)| result.with_context(|| name.clone()).map(|value| (name, value)))
            .collect()
    }
}
