//! A writer, a reader and a watcher, unmodified client libraries all, that keep going through the load balancer while
//! things break.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Config};
use tokio::runtime::Runtime;

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
}

/// Clients at work; dropping ends them.
pub struct Traffic {
    runtime: Runtime,
    record: Arc<Mutex<Record>>,
    api: Api<ConfigMap>,
    run: String,
}

impl Traffic {
    pub fn start(kubeconfig: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        // Each has its own connection, as different programs would.
        let connect = || {
            let options = KubeConfigOptions::default();
            let config =
                runtime.block_on(Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &options))?;
            let _inside = runtime.enter();
            anyhow::Ok(Api::<ConfigMap>::default_namespaced(Client::try_from(config)?))
        };
        let record = Arc::new(Mutex::new(Record::default()));
        let run = format!("traffic-{:x}", jiff::Timestamp::now().as_millisecond());
        runtime.spawn(write(connect()?, run.clone(), record.clone()));
        runtime.spawn(read(connect()?, record.clone()));
        runtime.spawn(watch(connect()?, of(&run), record.clone()));
        let api = connect()?;
        Ok(Self { runtime, record, api, run })
    }

    fn with<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&self.record.lock().unwrap())
    }

    /// Longest silence of writer, reader and watcher since `since`, up to now.
    pub fn longest_silence(&self, since: Instant) -> [(&'static str, Duration); 3] {
        let silence = |times: Vec<Instant>| {
            let times =
                [vec![since], times.into_iter().filter(|t| *t > since).collect(), vec![Instant::now()]].concat();
            times.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0])).max().unwrap_or_default()
        };
        self.with(|r| {
            [
                ("writes", silence(r.acknowledged.iter().map(|(_, at)| *at).collect())),
                ("reads", silence(r.read.clone())),
                ("watches", silence(r.watched.iter().map(|(_, at)| *at).collect())),
            ]
        })
    }

    /// All three have got through since `since`.
    pub fn flows(&self, since: Instant) -> Result<()> {
        let newest =
            self.with(|r| [r.acknowledged.last().map(|w| w.1), r.read.last().copied(), r.watched.last().map(|w| w.1)]);
        ensure!(newest.iter().all(|at| at.is_some_and(|at| at > since)), "not all clients get through");
        Ok(())
    }

    /// Every acknowledged write is there, and has been read and watched; how many there were.
    pub fn nothing_is_lost(&self) -> Result<usize> {
        let (acknowledged, watched, lost) = self.with(|r| {
            let names = |list: &[(String, Instant)]| list.iter().map(|(n, _)| n.clone()).collect::<BTreeSet<_>>();
            (names(&r.acknowledged), names(&r.watched), r.lost.clone())
        });
        ensure!(lost.is_empty(), "acknowledged, but not found when read: {lost:?}");
        let list = self.runtime.block_on(self.api.list(&ListParams::default().labels(&of(&self.run))))?;
        let stored: BTreeSet<String> = list.items.into_iter().filter_map(|c| c.metadata.name).collect();
        let missing: Vec<_> = acknowledged.difference(&stored).collect();
        ensure!(missing.is_empty(), "acknowledged, but not stored: {missing:?}");
        let unseen: Vec<_> = acknowledged.difference(&watched).collect();
        ensure!(unseen.is_empty(), "acknowledged, but not watched: {unseen:?}");
        Ok(acknowledged.len())
    }
}

/// Selects the objects of a run.
fn of(run: &str) -> String {
    format!("{LABEL}={run}")
}

async fn write(api: Api<ConfigMap>, run: String, record: Arc<Mutex<Record>>) {
    for n in 0.. {
        let name = format!("{run}-{n:06}");
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.clone());
        object.metadata.labels = Some([(LABEL.to_owned(), run.clone())].into());
        // What fails is not acknowledged; whether it was stored does not matter.
        if api.create(&PostParams::default(), &object).await.is_ok() {
            record.lock().unwrap().acknowledged.push((name, Instant::now()));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn read(api: Api<ConfigMap>, record: Arc<Mutex<Record>>) {
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some((name, _)) = record.lock().unwrap().acknowledged.last().cloned() else { continue };
        match api.get_opt(&name).await {
            Ok(Some(_)) => record.lock().unwrap().read.push(Instant::now()),
            Ok(None) => record.lock().unwrap().lost.push(name),
            Err(_) => {}
        }
    }
}

async fn watch(api: Api<ConfigMap>, labels: String, record: Arc<Mutex<Record>>) {
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default().labels(&labels)).default_backoff());
    while let Some(event) = events.next().await {
        if let Ok(Event::Apply(object) | Event::InitApply(object)) = event {
            let name = object.metadata.name.unwrap_or_default();
            record.lock().unwrap().watched.push((name, Instant::now()));
        }
    }
}
