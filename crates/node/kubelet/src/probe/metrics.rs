//! What probes found, for `/metrics/probes` (`pkg/kubelet/prober`: `ProberResults`, `ProberDuration`).

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kinit_component_base::metrics::Metrics as Registry;
use kube::ResourceExt;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

/// A probe of a container, and what it found.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Found {
    probe_type: &'static str,
    result: &'static str,
    container: String,
    pod: String,
    namespace: String,
    pod_uid: String,
}

/// A probe of a container.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Took {
    probe_type: &'static str,
    container: String,
    pod: String,
    namespace: String,
}

const RESULTS: [&str; 3] = ["successful", "failed", "unknown"];

fn buckets() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

/// The handles, and the registry they alone are in; cheap to clone.
#[derive(Clone)]
pub struct ProbeMetrics {
    registry: Registry,
    total: Family<Found, Counter>,
    seconds: Family<Took, Histogram, fn() -> Histogram>,
}

impl Default for ProbeMetrics {
    fn default() -> Self {
        let (registry, total) = (Registry::default(), Family::default());
        let seconds: Family<Took, Histogram, fn() -> Histogram> = Family::new_with_constructor(buckets);
        registry.register("prober_probe", "Probes of containers by result", total.clone());
        registry.register("prober_probe_duration_seconds", "Seconds that probes took", seconds.clone());
        Self { registry, total, seconds }
    }
}

fn found(pod: &Pod, container: &str, probe_type: &'static str, result: &'static str) -> Found {
    Found {
        probe_type,
        result,
        container: container.to_owned(),
        pod: pod.name_any(),
        namespace: pod.namespace().unwrap_or_default(),
        pod_uid: pod.uid().unwrap_or_default(),
    }
}

impl ProbeMetrics {
    /// A probe found something: yes, no, or nothing at all.
    pub fn probed(&self, pod: &Pod, container: &str, kind: &'static str, good: Option<bool>, took: Duration) {
        let result = match good {
            Some(true) => RESULTS[0],
            Some(false) => RESULTS[1],
            None => RESULTS[2],
        };
        let found = found(pod, container, kind, result);
        let Found { container, pod, namespace, .. } = found.clone();
        self.total.get_or_create(&found).inc();
        if good.is_some() {
            let took_by = Took { probe_type: kind, container, pod, namespace };
            self.seconds.get_or_create(&took_by).observe(took.as_secs_f64());
        }
    }

    /// A pod's container is probed no more.
    pub fn forget(&self, pod: &Pod, container: &str, kind: &'static str) {
        for result in RESULTS {
            self.total.remove(&found(pod, container, kind, result));
        }
        let (pod, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
        self.seconds.remove(&Took { probe_type: kind, container: container.to_owned(), pod, namespace });
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        self.registry.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_upstream() {
        let pod: Pod =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}}))
                .unwrap();
        let metrics = ProbeMetrics::default();
        for good in [Some(true), Some(true), Some(false), None] {
            metrics.probed(&pod, "c", "Readiness", good, Duration::from_millis(20));
        }
        let text = metrics.render();
        for line in [
            "prober_probe_total{probe_type=\"Readiness\",result=\"successful\",container=\"c\",pod=\"p\",namespace=\"n\",pod_uid=\"u\"} 2",
            "prober_probe_total{probe_type=\"Readiness\",result=\"unknown\",container=\"c\",pod=\"p\",namespace=\"n\",pod_uid=\"u\"} 1",
            "prober_probe_duration_seconds_count{probe_type=\"Readiness\",container=\"c\",pod=\"p\",namespace=\"n\"} 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        metrics.forget(&pod, "c", "Readiness");
        assert!(!metrics.render().contains("container=\"c\""), "what is gone is not told of");
    }
}
