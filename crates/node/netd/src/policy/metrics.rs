//! Metrics of network policies. Upstream has no such program; the names follow its rules.

use std::time::Duration;

use kinit_component_base::metrics::{Metrics as Registry, global};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::Direction;
use super::engine::Counts;

type ByDirection = Family<[(&'static str, &'static str); 1], Gauge>;

/// The handles.
#[derive(Clone, Debug)]
pub struct Metrics {
    policies: Gauge,
    faulty: Gauge,
    isolated: ByDirection,
    elements: Gauge,
    sync: Histogram,
    failures: Counter,
    repairs: Counter,
}

impl Metrics {
    /// In the process's registry.
    pub fn new() -> Self {
        Self::within(&global())
    }

    fn within(registry: &Registry) -> Self {
        let this = Self {
            policies: Gauge::default(),
            faulty: Gauge::default(),
            isolated: ByDirection::default(),
            elements: Gauge::default(),
            sync: Histogram::new(exponential_buckets(0.0005, 2.0, 15)),
            failures: Counter::default(),
            repairs: Counter::default(),
        };
        // Counters get their `_total` when they are written.
        registry.register("netd_network_policies", "NetworkPolicies of the cluster", this.policies.clone());
        let help = "NetworkPolicies of which some part cannot be honoured";
        registry.register("netd_network_policies_invalid", help, this.faulty.clone());
        let help = "Pods of this node that are isolated, by direction";
        registry.register("netd_isolated_pods", help, this.isolated.clone());
        let help = "Elements of the sets and maps of network policies";
        registry.register("netd_network_policy_elements", help, this.elements.clone());
        let help = "Seconds it took to apply changes of network policies, or of the pods they are about";
        registry.register("netd_network_policy_sync_duration_seconds", help, this.sync.clone());
        let help = "Attempts to apply network policies that failed";
        registry.register("netd_network_policy_sync_failures", help, this.failures.clone());
        let help = "Rules of network policies made anew because somebody had changed them";
        registry.register("netd_network_policy_repairs", help, this.repairs.clone());
        this
    }

    /// An attempt to apply has ended; this is how much there is.
    pub fn applied(&self, took: Duration, good: bool, counts: &Counts) {
        self.sync.observe(took.as_secs_f64());
        if !good {
            self.failures.inc();
        }
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.policies.set(number(counts.policies));
        self.faulty.set(number(counts.faulty));
        self.elements.set(number(counts.elements));
        for (direction, count) in [(Direction::Ingress, counts.ingress), (Direction::Egress, counts.egress)] {
            self.isolated.get_or_create(&[("direction", direction.name())]).set(number(count));
        }
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
        let counts = Counts { policies: 3, faulty: 1, ingress: 5, egress: 2, elements: 70 };
        metrics.applied(Duration::from_millis(2), true, &counts);
        metrics.applied(Duration::from_millis(2), false, &counts);
        metrics.repaired();
        let text = registry.render();
        for line in [
            "netd_network_policies 3",
            "netd_network_policies_invalid 1",
            "netd_isolated_pods{direction=\"ingress\"} 5",
            "netd_isolated_pods{direction=\"egress\"} 2",
            "netd_network_policy_elements 70",
            "netd_network_policy_sync_duration_seconds_count 2",
            "netd_network_policy_sync_failures_total 1",
            "netd_network_policy_repairs_total 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
