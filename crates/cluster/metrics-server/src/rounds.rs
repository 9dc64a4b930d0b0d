//! Round after round all kubelets are asked, at the same time; a round ends before the next one is due, with what came.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kinit_component_base::Shutdown;
use parking_lot::RwLock;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior};

use crate::known::{Index, Known};
use crate::kubelet::Kubelets;
use crate::metrics::Metrics;
use crate::storage::{Batch, Storage};

/// So many are asked at the same time: what is dead does not hold the others up in clusters of usual size, and
/// descriptors are bounded in large ones.
const AT_ONCE: usize = 512;

/// What rounds bring, and when they began.
pub struct Collected {
    /// The points.
    pub storage: RwLock<Storage>,
    began: RwLock<Option<Instant>>,
    resolution: Duration,
}

impl Collected {
    /// Nothing yet.
    pub fn new(resolution: Duration) -> Arc<Self> {
        Arc::new(Self { storage: RwLock::new(Storage::new(resolution)), began: RwLock::default(), resolution })
    }

    /// Whether rounds begin when they should; before the first there is nothing to complain of.
    pub fn is_timely(&self) -> bool {
        self.began.read().is_none_or(|at| at.elapsed() <= self.resolution * 3 / 2 + Duration::from_secs(1))
    }
}

/// Asks until `shutdown`.
pub async fn run(
    collected: Arc<Collected>,
    nodes: Arc<Index>,
    kubelets: Kubelets,
    metrics: Metrics,
    shutdown: Shutdown,
) {
    let mut tick = tokio::time::interval(collected.resolution);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut eager = tokio::time::interval(Duration::from_millis(200));
    while !nodes.is_synced() {
        tokio::select! { () = shutdown.cancelled() => return, _ = eager.tick() => {} }
    }
    tick.reset_immediately();
    loop {
        tokio::select! { () = shutdown.cancelled() => return, _ = tick.tick() => {} }
        let began = Instant::now();
        *collected.began.write() = Some(began);
        let all = nodes.list("");
        let batch = tokio::select! {
            () = shutdown.cancelled() => return,
            batch = round(&all, &kubelets, &metrics, began + collected.resolution * 9 / 10) => batch,
        };
        let known = {
            let mut storage = collected.storage.write();
            storage.store(batch);
            storage.known()
        };
        metrics.round(began.elapsed(), known);
    }
}

async fn round(nodes: &[Arc<Known>], kubelets: &Kubelets, metrics: &Metrics, until: Instant) -> Batch {
    let permits = Semaphore::new(AT_ONCE);
    let mut asking: FuturesUnordered<_> = nodes.iter().map(|node| ask(node, kubelets, metrics, &permits)).collect();
    let mut all = Batch::default();
    loop {
        match tokio::time::timeout_at(until, asking.next()).await {
            Ok(Some(Some(batch))) => {
                all.nodes.extend(batch.nodes);
                all.pods.extend(batch.pods);
            }
            Ok(Some(None)) => {}
            Ok(None) => return all,
            Err(_) => {
                tracing::warn!(missing = asking.len(), "kubelets did not answer within the round");
                return all;
            }
        }
    }
}

async fn ask(node: &Known, kubelets: &Kubelets, metrics: &Metrics, permits: &Semaphore) -> Option<Batch> {
    // Closed it never is.
    let _permit = permits.acquire().await.ok()?;
    let began = Instant::now();
    let answer = kubelets.ask(node).await;
    metrics.asked(answer.is_ok(), began.elapsed());
    match answer {
        Ok(batch) => Some(batch),
        Err(error) => {
            tracing::warn!(node = node.name, error = format!("{error:#}"), "ask a kubelet");
            None
        }
    }
}
