//! A work queue's metrics, under the names of client-go's `util/workqueue`.

use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use kinit_component_base::metrics;
use kinit_component_base::metrics::prometheus_client::metrics::counter::Counter;
use kinit_component_base::metrics::prometheus_client::metrics::family::Family;
use kinit_component_base::metrics::prometheus_client::metrics::gauge::Gauge;
use kinit_component_base::metrics::prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use parking_lot::Mutex;

type Labels = [(&'static str, &'static str); 1];
type SecondsGauge = Family<Labels, Gauge<f64, AtomicU64>>;
type Seconds = Family<Labels, Histogram, fn() -> Histogram>;

/// Upstream's buckets: 10 ns to 1000 s.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(10e-9, 10.0, 12))
}

struct All {
    depth: Family<Labels, Gauge>,
    adds: Family<Labels, Counter>,
    retries: Family<Labels, Counter>,
    waited: Seconds,
    worked: Seconds,
    unfinished: SecondsGauge,
    longest: SecondsGauge,
}

/// For how long the keys under work have been.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Running {
    /// All together.
    pub sum: Duration,
    /// The one that has taken longest.
    pub longest: Duration,
}

/// Tells of one queue, until it is gone.
type Look = Box<dyn Fn() -> Option<Running> + Send>;

/// Queues that run, by name; some share one.
static LOOKS: Mutex<Vec<(&'static str, Look)>> = Mutex::new(Vec::new());

/// Asks `look` about the queue `name` whenever metrics are rendered.
pub fn follow(name: &'static str, look: impl Fn() -> Option<Running> + Send + 'static) {
    LOOKS.lock().push((name, Box::new(look)));
}

/// Whether there is a queue of this name to ask.
#[cfg(test)]
pub fn follows(name: &str) -> bool {
    LOOKS.lock().iter().any(|(known, _)| *known == name)
}

/// Sets the gauges of work that goes on.
fn look(unfinished: &SecondsGauge, longest: &SecondsGauge) {
    let mut seen = std::collections::BTreeMap::<&str, Running>::new();
    LOOKS.lock().retain(|(name, look)| {
        let (all, now) = (seen.entry(name).or_default(), look());
        all.sum += now.unwrap_or_default().sum;
        all.longest = all.longest.max(now.unwrap_or_default().longest);
        now.is_some()
    });
    for (name, running) in seen {
        let labels = [("name", name)];
        unfinished.get_or_create_owned(&labels).set(running.sum.as_secs_f64());
        longest.get_or_create_owned(&labels).set(running.longest.as_secs_f64());
    }
}

static ALL: LazyLock<All> = LazyLock::new(|| {
    let all = All {
        depth: Family::default(),
        adds: Family::default(),
        retries: Family::default(),
        waited: Family::new_with_constructor(buckets),
        worked: Family::new_with_constructor(buckets),
        unfinished: Family::default(),
        longest: Family::default(),
    };
    let registry = metrics::global();
    registry.register("workqueue_depth", "Current depth of workqueue", all.depth.clone());
    registry.register("workqueue_adds", "Total number of adds handled by workqueue", all.adds.clone());
    registry.register("workqueue_retries", "Total number of retries handled by workqueue", all.retries.clone());
    let help = "How long in seconds an item stays in workqueue before being requested";
    registry.register("workqueue_queue_duration_seconds", help, all.waited.clone());
    let help = "How long in seconds processing an item from workqueue takes";
    registry.register("workqueue_work_duration_seconds", help, all.worked.clone());
    let help = "How many seconds of work is in progress and not yet observed by work_duration";
    registry.register("workqueue_unfinished_work_seconds", help, all.unfinished.clone());
    let help = "How many seconds the longest running processor of the workqueue has been running";
    registry.register("workqueue_longest_running_processor_seconds", help, all.longest.clone());
    let (unfinished, longest) = (all.unfinished.clone(), all.longest.clone());
    registry.before_render(move || look(&unfinished, &longest));
    all
});

/// The metrics of one queue.
pub struct QueueMetrics {
    depth: Gauge,
    adds: Counter,
    retries: Counter,
    waited: Histogram,
    worked: Histogram,
}

impl QueueMetrics {
    /// Of the queue `name`; queues of one name share them.
    pub fn of(name: &'static str) -> Self {
        let labels = [("name", name)];
        Self {
            depth: ALL.depth.get_or_create_owned(&labels),
            adds: ALL.adds.get_or_create_owned(&labels),
            retries: ALL.retries.get_or_create_owned(&labels),
            waited: ALL.waited.get_or_create_owned(&labels),
            worked: ALL.worked.get_or_create_owned(&labels),
        }
    }

    /// A key became due that was not.
    pub fn added(&self) {
        self.adds.inc();
        self.depth.inc();
    }

    /// A key was handed out, so long after it had become due.
    pub fn taken(&self, waited: Duration) {
        self.depth.dec();
        self.waited.observe(waited.as_secs_f64());
    }

    /// A key was worked on for so long.
    pub fn worked(&self, took: Duration) {
        self.worked.observe(took.as_secs_f64());
    }

    /// A key is to be tried again after its back-off.
    pub fn retried(&self) {
        self.retries.inc();
    }
}
