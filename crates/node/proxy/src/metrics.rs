//! The proxy's own metrics, under upstream's names (`pkg/proxy/metrics`).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kinit_component_base::metrics::{Metrics as Registry, global};
use kube::ResourceExt;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Set by the EndpointSlice controller to the time of the pod's or Service's change.
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Changes that are remembered between two passes at most; a burst is well described by this many.
const MOST: usize = 10_000;

type Seconds = Gauge<f64, AtomicU64>;

/// The handles; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    sync: Histogram,
    programming: Histogram,
    last: Seconds,
    queued: Seconds,
    service_changes: Counter,
    endpoint_changes: Counter,
    failures: Counter,
    triggers: Arc<Mutex<Vec<Timestamp>>>,
}

impl Metrics {
    /// In the process's registry.
    pub fn new() -> Self {
        Self::within(&global())
    }

    fn within(registry: &Registry) -> Self {
        let programming =
            [0.25, 0.5].into_iter().chain((1..=59).map(f64::from)).chain((60..=300).step_by(5).map(f64::from));
        let this = Self {
            sync: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            programming: Histogram::new(programming),
            last: Gauge::default(),
            queued: Gauge::default(),
            service_changes: Counter::default(),
            endpoint_changes: Counter::default(),
            failures: Counter::default(),
            triggers: Arc::default(),
        };
        let of = |name: &str| format!("kubeproxy_{name}");
        // Counters get their `_total` when they are written.
        registry.register(&of("sync_proxy_rules_duration_seconds"), "Seconds a pass took", this.sync.clone());
        let help = "Seconds from an endpoint's change to the rules that follow it";
        registry.register(&of("network_programming_duration_seconds"), help, this.programming.clone());
        let help = "When the rules were last applied";
        registry.register(&of("sync_proxy_rules_last_timestamp_seconds"), help, this.last.clone());
        let help = "When a pass was last asked for";
        registry.register(&of("sync_proxy_rules_last_queued_timestamp_seconds"), help, this.queued.clone());
        let help = "Changes of Services";
        registry.register(&of("sync_proxy_rules_service_changes"), help, this.service_changes.clone());
        let help = "Changes of EndpointSlices";
        registry.register(&of("sync_proxy_rules_endpoint_changes"), help, this.endpoint_changes.clone());
        let help = "Passes that the kernel refused";
        registry.register(&of("sync_proxy_rules_nftables_sync_failures"), help, this.failures.clone());
        this
    }

    /// A Service changed.
    pub fn service_changed(&self) {
        self.service_changes.inc();
        self.queued.set(now());
    }

    /// An EndpointSlice changed.
    pub fn slice_changed(&self, slice: &EndpointSlice) {
        self.endpoint_changes.inc();
        self.queued.set(now());
        let trigger = slice.annotations().get(TRIGGER).and_then(|t| t.parse::<Timestamp>().ok());
        let mut triggers = self.triggers.lock();
        if triggers.len() < MOST {
            triggers.extend(trigger);
        }
    }

    /// What was at the start is no change that the network waited for.
    pub fn forget_triggers(&self) {
        self.triggers.lock().clear();
    }

    /// Changes that the pass which begins now will have followed when it has ended.
    pub fn take_triggers(&self) -> Vec<Timestamp> {
        std::mem::take(&mut self.triggers.lock())
    }

    /// A pass has ended well.
    pub fn applied(&self, took: Duration, triggers: &[Timestamp]) {
        self.sync.observe(took.as_secs_f64());
        self.last.set(now());
        let now = Timestamp::now();
        for trigger in triggers {
            // Clocks differ between hosts; a change is never followed before it was made.
            self.programming.observe(now.duration_since(*trigger).as_secs_f64().max(0.0));
        }
    }

    /// The kernel refused a pass; what it was to follow waits for the next.
    pub fn failed(&self, triggers: Vec<Timestamp>) {
        self.failures.inc();
        self.triggers.lock().extend(triggers);
    }
}

fn now() -> f64 {
    Timestamp::now().as_duration().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_as_upstream() {
        let registry = Registry::default();
        let metrics = Metrics::within(&registry);
        metrics.service_changed();
        let slice = |trigger: &str| {
            let meta = json!({"name": "s", "annotations": {TRIGGER: trigger}});
            serde_json::from_value(json!({"metadata": meta, "addressType": "IPv4", "endpoints": []})).unwrap()
        };
        metrics.slice_changed(&slice("2026-01-01T00:00:00Z"));
        metrics.forget_triggers();
        metrics.slice_changed(&slice("2026-01-01T00:00:00Z"));
        metrics.slice_changed(&slice("no time"));
        let triggers = metrics.take_triggers();
        metrics.failed(triggers);
        let triggers = metrics.take_triggers();
        metrics.applied(Duration::from_millis(3), &triggers);
        metrics.applied(Duration::from_millis(3), &metrics.take_triggers());
        let text = registry.render();
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_count 2",
            "kubeproxy_network_programming_duration_seconds_count 1",
            "kubeproxy_sync_proxy_rules_service_changes_total 1",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 3",
            "kubeproxy_sync_proxy_rules_nftables_sync_failures_total 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(text.contains("\nkubeproxy_sync_proxy_rules_last_timestamp_seconds "), "{text}");
    }
}
