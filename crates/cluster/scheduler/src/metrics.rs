//! The scheduler's metrics, under upstream's names (`pkg/scheduler/metrics`).

use std::sync::LazyLock;
use std::time::Duration;

use kinit_component_base::metrics;
use kinit_component_base::metrics::prometheus_client::metrics::counter::Counter;
use kinit_component_base::metrics::prometheus_client::metrics::family::Family;
use kinit_component_base::metrics::prometheus_client::metrics::gauge::Gauge;
use kinit_component_base::metrics::prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::worker::PROFILE;

type Labels = [(&'static str, &'static str); 2];

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The pod was bound.
    Scheduled,
    /// No node fits.
    Unschedulable,
    /// Something went wrong.
    Error,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Unschedulable => "unschedulable",
            Self::Error => "error",
        }
    }
}

/// 1 ms to some 9 min.
fn attempt_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 20))
}

struct All {
    attempts: Family<Labels, Counter>,
    latency: Family<Labels, Histogram, fn() -> Histogram>,
    pending: Family<[(&'static str, &'static str); 1], Gauge>,
}

static ALL: LazyLock<All> = LazyLock::new(|| {
    let all = All {
        attempts: Family::default(),
        latency: Family::new_with_constructor(attempt_buckets),
        pending: Family::default(),
    };
    let registry = metrics::global();
    let help = "Number of attempts to schedule pods, by the result";
    registry.register("scheduler_schedule_attempts", help, all.attempts.clone());
    let help = "Scheduling attempt latency in seconds (scheduling algorithm + binding)";
    registry.register("scheduler_scheduling_attempt_duration_seconds", help, all.latency.clone());
    let help = "Number of pending pods, by the queue type";
    registry.register("scheduler_pending_pods", help, all.pending.clone());
    all
});

/// An attempt came to its end after so long.
pub fn attempted(outcome: Outcome, took: Duration) {
    let labels = [("profile", PROFILE), ("result", outcome.label())];
    ALL.attempts.get_or_create(&labels).inc();
    ALL.latency.get_or_create(&labels).observe(took.as_secs_f64());
}

/// So many pods wait in each part of the queue.
pub fn pending(active: usize, backing_off: usize, unschedulable: usize) {
    for (queue, count) in [("active", active), ("backoff", backing_off), ("unschedulable", unschedulable)] {
        ALL.pending.get_or_create(&[("queue", queue)]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
