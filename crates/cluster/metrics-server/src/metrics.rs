//! What the server says of itself, under metrics-server's names.

use std::time::Duration;

use kinit_component_base::metrics::global;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    success: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    r#type: &'static str,
}

/// Handles.
#[derive(Clone)]
pub struct Metrics {
    requests: Family<Outcome, Counter>,
    seconds: Histogram,
    rounds: Histogram,
    points: Family<Kind, Gauge>,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register() -> Self {
        let buckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        let new = Self {
            requests: Family::default(),
            seconds: Histogram::new(buckets),
            rounds: Histogram::new(buckets),
            points: Family::default(),
        };
        let add = |name: &str, help: &str, metric| global().register(&format!("metrics_server_{name}"), help, metric);
        add("kubelet_request", "Requests to kubelets, by success", new.requests.clone());
        let add = |name: &str, help: &str, metric| global().register(&format!("metrics_server_{name}"), help, metric);
        add("kubelet_request_duration_seconds", "How long requests to kubelets took", new.seconds.clone());
        add("manager_tick_duration_seconds", "How long rounds took", new.rounds.clone());
        global().register("metrics_server_storage_points", "Points of which the use is known", new.points.clone());
        new
    }

    /// A kubelet was asked.
    pub fn asked(&self, success: bool, took: Duration) {
        let success = if success { "true" } else { "false" };
        self.requests.get_or_create(&Outcome { success }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// A round is over.
    pub fn round(&self, took: Duration, (nodes, containers): (usize, usize)) {
        self.rounds.observe(took.as_secs_f64());
        for (kind, count) in [("node", nodes), ("container", containers)] {
            self.points.get_or_create(&Kind { r#type: kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
