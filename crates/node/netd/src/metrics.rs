//! The pod network's own metrics. Upstream has no such program; the names follow its rules.

use std::time::Duration;

use kinit_component_base::metrics::{Metrics as Registry, global};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// The handles.
#[derive(Clone, Debug)]
pub struct Metrics {
    sync: Histogram,
    failures: Counter,
    routes: Gauge,
    repairs: Counter,
    announced: Gauge,
    takeovers: Counter,
    conflicts: Counter,
    heart_failures: Counter,
}

impl Metrics {
    /// In the process's registry.
    pub fn new() -> Self {
        Self::within(&global())
    }

    fn within(registry: &Registry) -> Self {
        let this = Self {
            sync: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            failures: Counter::default(),
            routes: Gauge::default(),
            repairs: Counter::default(),
            announced: Gauge::default(),
            takeovers: Counter::default(),
            conflicts: Counter::default(),
            heart_failures: Counter::default(),
        };
        // Counters get their `_total` when they are written.
        registry.register("netd_sync_duration_seconds", "Seconds it took to align the pod network", this.sync.clone());
        registry.register("netd_sync_failures", "Attempts to align that failed", this.failures.clone());
        registry.register("netd_routes", "Routes to other nodes that there should be", this.routes.clone());
        let help = "Masquerading rules made anew because somebody had changed them";
        registry.register("netd_masquerade_repairs", help, this.repairs.clone());
        let help = "Addresses of load balancers that this node answers for";
        registry.register("netd_announced_addresses", help, this.announced.clone());
        let help = "Nodes that this one found dead, to take their addresses over";
        registry.register("netd_address_takeovers", help, this.takeovers.clone());
        let help = "Times that somebody else was heard to have a load balancer's address";
        registry.register("netd_address_conflicts", help, this.conflicts.clone());
        let help = "Renewals of this node's sign of life that failed";
        registry.register("netd_sign_of_life_failures", help, this.heart_failures.clone());
        this
    }

    /// An attempt to align has ended.
    pub fn aligned(&self, took: Duration, good: bool) {
        self.sync.observe(took.as_secs_f64());
        if !good {
            self.failures.inc();
        }
    }

    /// This many routes there should be.
    pub fn routes(&self, wanted: usize) {
        self.routes.set(i64::try_from(wanted).unwrap_or(i64::MAX));
    }

    /// This many addresses are answered for.
    pub fn announced(&self, count: usize) {
        self.announced.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Another node was declared dead.
    pub fn declared_dead(&self) {
        self.takeovers.inc();
    }

    /// Somebody else has an address.
    pub fn conflict(&self) {
        self.conflicts.inc();
    }

    /// The sign of life could not be renewed.
    pub fn heart_failed(&self) {
        self.heart_failures.inc();
    }

    /// Somebody had changed the rules.
    pub fn repaired(&self) {
        self.repairs.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown() {
        let registry = Registry::default();
        let metrics = Metrics::within(&registry);
        metrics.aligned(Duration::from_millis(2), true);
        metrics.aligned(Duration::from_millis(2), false);
        metrics.routes(4);
        metrics.repaired();
        metrics.announced(3);
        metrics.declared_dead();
        metrics.conflict();
        metrics.heart_failed();
        let text = registry.render();
        for line in [
            "netd_sync_duration_seconds_count 2",
            "netd_sync_failures_total 1",
            "netd_routes 4",
            "netd_masquerade_repairs_total 1",
            "netd_announced_addresses 3",
            "netd_address_takeovers_total 1",
            "netd_address_conflicts_total 1",
            "netd_sign_of_life_failures_total 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
