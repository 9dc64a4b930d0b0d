//! A work queue's metrics, under the names of client-go's `util/workqueue`.

use std::sync::LazyLock;
use std::time::Duration;

use kinit_component_base::metrics;
use kinit_component_base::metrics::prometheus_client::metrics::counter::Counter;
use kinit_component_base::metrics::prometheus_client::metrics::family::Family;
use kinit_component_base::metrics::prometheus_client::metrics::gauge::Gauge;
use kinit_component_base::metrics::prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

type Labels = [(&'static str, &'static str); 1];
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
}

static ALL: LazyLock<All> = LazyLock::new(|| {
    let all = All {
        depth: Family::default(),
        adds: Family::default(),
        retries: Family::default(),
        waited: Family::new_with_constructor(buckets),
        worked: Family::new_with_constructor(buckets),
    };
    let registry = metrics::global();
    registry.register("workqueue_depth", "Current depth of workqueue", all.depth.clone());
    registry.register("workqueue_adds", "Total number of adds handled by workqueue", all.adds.clone());
    registry.register("workqueue_retries", "Total number of retries handled by workqueue", all.retries.clone());
    let help = "How long in seconds an item stays in workqueue before being requested";
    registry.register("workqueue_queue_duration_seconds", help, all.waited.clone());
    let help = "How long in seconds processing an item from workqueue takes";
    registry.register("workqueue_work_duration_seconds", help, all.worked.clone());
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
