//! `apiserver_flowcontrol_*`, under upstream's names.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use kinit_component_base::metrics::global;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::allocation::Bounds;
use super::queues::Refused;

/// The level and the schema of a request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Of {
    /// Name of the PriorityLevelConfiguration.
    pub priority_level: String,
    /// Name of the FlowSchema.
    pub flow_schema: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Why {
    priority_level: String,
    flow_schema: String,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfLevel {
    priority_level: String,
}

type ByOf<M> = Family<Of, M>;

/// The counters.
#[derive(Debug, Clone)]
pub struct Metrics {
    refused: Family<Why, Counter<u64, AtomicU64>>,
    dispatched: ByOf<Counter<u64, AtomicU64>>,
    waiting: ByOf<Gauge>,
    running: ByOf<Gauge>,
    wait: Family<Of, Histogram, fn() -> Histogram>,
    execution: Family<Of, Histogram, fn() -> Histogram>,
    nominal: Family<OfLevel, Gauge>,
    least: Family<OfLevel, Gauge>,
    most: Family<OfLevel, Gauge>,
    current: Family<OfLevel, Gauge>,
}

fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 3.0, 10))
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            refused: Family::default(),
            dispatched: Family::default(),
            waiting: Family::default(),
            running: Family::default(),
            wait: Family::new_with_constructor(histogram),
            execution: Family::new_with_constructor(histogram),
            nominal: Family::default(),
            least: Family::default(),
            most: Family::default(),
            current: Family::default(),
        }
    }
}

impl Metrics {
    /// Makes and registers them.
    pub fn register() -> Self {
        let out = Self::default();
        let registry = global();
        let name = |rest: &str| format!("apiserver_flowcontrol_{rest}");
        registry.register(&name("rejected_requests"), "Requests that were refused", out.refused.clone());
        registry.register(&name("dispatched_requests"), "Requests that were let in", out.dispatched.clone());
        registry.register(&name("current_inqueue_requests"), "Requests that wait", out.waiting.clone());
        registry.register(&name("current_executing_requests"), "Requests that run", out.running.clone());
        registry.register(&name("request_wait_duration_seconds"), "Time in a queue", out.wait.clone());
        registry.register(&name("request_execution_seconds"), "Time after the queue", out.execution.clone());
        registry.register(&name("nominal_limit_seats"), "Seats by configuration", out.nominal.clone());
        registry.register(&name("lower_limit_seats"), "Seats that are never lent", out.least.clone());
        registry.register(&name("upper_limit_seats"), "Seats with all that may be borrowed", out.most.clone());
        registry.register(&name("current_limit_seats"), "Seats of this period", out.current.clone());
        out
    }

    pub(super) fn refused(&self, of: &Of, why: Refused) {
        let (priority_level, flow_schema) = (of.priority_level.clone(), of.flow_schema.clone());
        self.refused.get_or_create(&Why { priority_level, flow_schema, reason: why.reason() }).inc();
    }

    pub(super) fn waiting(&self, of: &Of, change: i64) {
        self.waiting.get_or_create(of).inc_by(change);
    }

    pub(super) fn started(&self, of: &Of, waited: Duration) {
        self.dispatched.get_or_create(of).inc();
        self.running.get_or_create(of).inc();
        self.wait.get_or_create(of).observe(waited.as_secs_f64());
    }

    pub(super) fn ended(&self, of: &Of, took: Duration) {
        self.running.get_or_create(of).dec();
        self.execution.get_or_create(of).observe(took.as_secs_f64());
    }

    pub(super) fn bounds(&self, level: &str, bounds: Bounds) {
        let of = OfLevel { priority_level: level.to_owned() };
        self.nominal.get_or_create(&of).set(bounds.nominal.into());
        self.least.get_or_create(&of).set(bounds.least.into());
        self.most.get_or_create(&of).set(bounds.most.into());
    }

    pub(super) fn seats(&self, level: &str, seats: u32) {
        self.current.get_or_create(&OfLevel { priority_level: level.to_owned() }).set(seats.into());
    }

    /// Limits of a level that is gone are not told any more.
    pub(super) fn forget(&self, level: &str) {
        let of = OfLevel { priority_level: level.to_owned() };
        for family in [&self.nominal, &self.least, &self.most, &self.current] {
            family.remove(&of);
        }
    }
}
