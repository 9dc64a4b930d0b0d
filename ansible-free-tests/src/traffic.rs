//! A writer, a reader and a watcher, unmodified client libraries all, that keep going through the load balancer while
//! things break. When their kubeconfig changes they read it again, as every new kubectl would.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a part of tests, which fail by panics")]

use std::collections::BTreeSet;
use std::fmt::{Display, Formatter};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Config};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::lab::eventually;

const PAUSE: Duration = Duration::from_millis(100);
/// Label of all objects of a run; its value is the run's.
const LABEL: &str = "traffic";

/// What each of the three has done.
#[derive(Default)]
struct Record {
    acknowledged: Vec<(String, Instant)>,
    read: Vec<Instant>,
    watched: Vec<(String, Instant)>,
    /// Reads that found an acknowledged write missing.
    lost: Vec<String>,
    /// Calls that failed, each with its words, and how many got through.
    failed: Vec<(Instant, String)>,
    done: usize,
}

/// The longest time in which nothing of one kind got through.
#[derive(Debug, Clone, Copy)]
pub struct Silence {
    /// "writes", "reads" or "watches".
    pub of: &'static str,
    /// How long nothing got through.
    pub lasted: Duration,
    /// When it began, counted from the moment that was asked about.
    pub after: Duration,
}

impl Silence {
    fn longest(of: &'static str, since: Instant, times: impl Iterator<Item = Instant>) -> Self {
        let (mut last, mut longest) = (since, Self { of, lasted: Duration::ZERO, after: Duration::ZERO });
        for at in times.filter(|at| *at > since).chain([Instant::now()]) {
            let lasted = at.saturating_duration_since(last);
            if lasted > longest.lasted {
                longest = Self { of, lasted, after: last.saturating_duration_since(since) };
            }
            last = at;
        }
        longest
    }
}

impl Display for Silence {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:.1} s from +{:.1} s", self.of, self.lasted.as_secs_f64(), self.after.as_secs_f64())
    }
}

/// One line of a report.
#[must_use]
pub fn line(silences: &[Silence]) -> String {
    silences.iter().map(Silence::to_string).collect::<Vec<_>>().join(", ")
}

/// Clients at work; dropping ends them.
pub struct Traffic {
    runtime: Runtime,
    record: Arc<Mutex<Record>>,
    api: Connection,
    run: String,
}

impl Record {
    /// Calls that failed since `since`, a line each.
    fn failures(&self, since: Instant) -> Vec<String> {
        let failed = self.failed.iter().filter(|(at, _)| *at > since);
        failed.map(|(at, why)| format!("+{:.1} s {why}", at.duration_since(since).as_secs_f64())).collect()
    }

    fn written(&mut self, name: String, created: kube::Result<()>) {
        match created {
            Ok(()) => {
                self.acknowledged.push((name, Instant::now()));
                self.done += 1;
            }
            Err(error) => self.failed.push((Instant::now(), format!("write: {error}"))),
        }
    }
}

impl Traffic {
    /// Starts all three.
    pub fn start(kubeconfig: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        // Each has its own connection, as different programs would.
        let connect = || runtime.block_on(follow(kubeconfig.to_owned()));
        let record = Arc::new(Mutex::new(Record::default()));
        let run = format!("traffic-{:x}", jiff::Timestamp::now().as_millisecond());
        runtime.spawn(write(connect()?, run.clone(), record.clone()));
        runtime.spawn(read(connect()?, record.clone()));
        runtime.spawn(watched(connect()?, of(&run), record.clone()));
        let api = connect()?;
        Ok(Self { runtime, record, api, run })
    }

    fn with<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&self.record.lock().unwrap())
    }

    /// Longest silence of writer, reader and watcher since `since`, up to now.
    #[must_use]
    pub fn longest_silence(&self, since: Instant) -> [Silence; 3] {
        self.with(|r| {
            [
                Silence::longest("writes", since, r.acknowledged.iter().map(|(_, at)| *at)),
                Silence::longest("reads", since, r.read.iter().copied()),
                Silence::longest("watches", since, r.watched.iter().map(|(_, at)| *at)),
            ]
        })
    }

    /// Makes a change while all three work, prints what it cost them, and fails when one was silent for `limit`.
    ///
    /// # Panics
    ///
    /// When a silence was as long as `limit`, with the calls that failed meanwhile.
    #[track_caller]
    pub fn during(&self, what: &str, limit: Duration, change: impl FnOnce()) {
        let ready = Instant::now();
        eventually(Duration::from_secs(60), || self.flows(ready)).unwrap();
        let begun = Instant::now();
        change();
        let silences = self.longest_silence(begun);
        println!("-- {what}: {:.0} s; longest silence: {}", begun.elapsed().as_secs_f64(), line(&silences));
        assert!(
            silences.iter().all(|silence| silence.lasted < limit),
            "{what}: {}\n{}",
            line(&silences),
            self.with(|r| r.failures(begun)).join("\n")
        );
    }

    /// Calls without retries since `since`: how many there were, and those that failed.
    #[must_use]
    pub fn calls(&self, since: Instant) -> (usize, Vec<String>) {
        self.with(|r| {
            let failed = r.failed.iter().filter(|(at, _)| *at > since).map(|(_, why)| why.clone());
            (r.done, failed.collect())
        })
    }

    /// All three have got through since `since`.
    pub fn flows(&self, since: Instant) -> Result<()> {
        self.calls_flow(since)?;
        let watched = self.with(|r| r.watched.last().map(|w| w.1));
        ensure!(watched.is_some_and(|at| at > since), "the watcher sees nothing");
        Ok(())
    }

    /// Writer and reader have got through since `since`. A watcher that sends nothing cannot know that a machine
    /// between it and the server has vanished, unless its library asks now and then.
    pub fn calls_flow(&self, since: Instant) -> Result<()> {
        let newest = self.with(|r| [r.acknowledged.last().map(|w| w.1), r.read.last().copied()]);
        ensure!(newest.iter().all(|at| at.is_some_and(|at| at > since)), "not all clients get through");
        Ok(())
    }

    /// Every acknowledged write is there, and has been read and watched; how many there were.
    pub fn nothing_is_lost(&self) -> Result<usize> {
        let kept = self.no_write_is_lost()?;
        let unseen = self.with(|r| {
            let watched: BTreeSet<&String> = r.watched.iter().map(|(name, _)| name).collect();
            r.acknowledged
                .iter()
                .map(|(name, _)| name)
                .filter(|name| !watched.contains(name))
                .cloned()
                .collect::<Vec<_>>()
        });
        ensure!(unseen.is_empty(), "acknowledged, but not watched: {unseen:?}");
        Ok(kept)
    }

    /// Every acknowledged write is there, and was when it was read; how many there were.
    pub fn no_write_is_lost(&self) -> Result<usize> {
        let (acknowledged, lost) =
            self.with(|r| (r.acknowledged.iter().map(|(n, _)| n.clone()).collect::<BTreeSet<_>>(), r.lost.clone()));
        ensure!(lost.is_empty(), "acknowledged, but not found when read: {lost:?}");
        let list = self.runtime.block_on(current(&self.api).list(&ListParams::default().labels(&of(&self.run))))?;
        let stored: BTreeSet<String> = list.items.into_iter().filter_map(|c| c.metadata.name).collect();
        let missing: Vec<_> = acknowledged.difference(&stored).collect();
        ensure!(missing.is_empty(), "acknowledged, but not stored: {missing:?}");
        Ok(acknowledged.len())
    }
}

/// Selects the objects of a run.
fn of(run: &str) -> String {
    format!("{LABEL}={run}")
}

/// An API that is replaced when its kubeconfig changes.
type Connection = watch::Receiver<Api<ConfigMap>>;

fn current(connection: &Connection) -> Api<ConfigMap> {
    connection.borrow().clone()
}

async fn follow(kubeconfig: PathBuf) -> Result<Connection> {
    let mut text = std::fs::read_to_string(&kubeconfig)?;
    let (replace, connection) = watch::channel(connect(&text).await?);
    tokio::spawn(async move {
        while !replace.is_closed() {
            tokio::time::sleep(PAUSE).await;
            let Ok(now) = std::fs::read_to_string(&kubeconfig) else { continue };
            if now != text
                && let Ok(api) = connect(&now).await
            {
                text = now;
                replace.send_replace(api);
            }
        }
    });
    Ok(connection)
}

async fn connect(kubeconfig: &str) -> Result<Api<ConfigMap>> {
    let (kubeconfig, options) = (Kubeconfig::from_yaml(kubeconfig)?, KubeConfigOptions::default());
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    Ok(Api::default_namespaced(Client::try_from(config)?))
}

async fn write(connection: Connection, run: String, record: Arc<Mutex<Record>>) {
    for n in 0.. {
        let name = format!("{run}-{n:06}");
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.clone());
        object.metadata.labels = Some([(LABEL.to_owned(), run.clone())].into());
        // What fails is not acknowledged; whether it was stored does not matter.
        let created = current(&connection).create(&PostParams::default(), &object).await;
        record.lock().unwrap().written(name, created.map(drop));
        tokio::time::sleep(PAUSE).await;
    }
}

async fn read(connection: Connection, record: Arc<Mutex<Record>>) {
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some((name, _)) = record.lock().unwrap().acknowledged.last().cloned() else { continue };
        let got = current(&connection).get_opt(&name).await;
        let mut record = record.lock().unwrap();
        match got {
            Ok(Some(_)) => {
                record.read.push(Instant::now());
                record.done += 1;
            }
            Ok(None) => record.lost.push(name),
            Err(error) => record.failed.push((Instant::now(), format!("read: {error}"))),
        }
    }
}

async fn watched(mut connection: Connection, labels: String, record: Arc<Mutex<Record>>) {
    loop {
        let api = connection.borrow_and_update().clone();
        tokio::select! {
            () = watch_by(api, &labels, &record) => return,
            changed = connection.changed() => if changed.is_err() { return },
        }
    }
}

/// Tries again at once, and then at the same pace for ever: what is measured is how long servers are silent, not how
/// patient a client library has become after the servers that restarted before.
struct Steady;

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(PAUSE)
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}

async fn watch_by(api: Api<ConfigMap>, labels: &str, record: &Mutex<Record>) {
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default().labels(labels)).backoff(Steady));
    while let Some(event) = events.next().await {
        if let Ok(Event::Apply(object) | Event::InitApply(object)) = event {
            let name = object.metadata.name.unwrap_or_default();
            record.lock().unwrap().watched.push((name, Instant::now()));
        }
    }
}
