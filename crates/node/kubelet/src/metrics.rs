//! The kubelet's own metrics, under upstream's names (`pkg/kubelet/metrics`).

use std::sync::Arc;
use std::time::Duration;

use kinit_component_base::metrics::{Metrics as Registry, global};
use kinit_cri::Observer;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::probe::metrics::ProbeMetrics;

/// What a call, a round or a refusal is counted under.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Operation {
    operation_type: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct State {
    container_state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Why {
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EvictionSignal {
    eviction_signal: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PreemptionSignal {
    preemption_signal: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct NodeName {
    node: String,
}

type Durations = Family<Operation, Histogram, fn() -> Histogram>;

/// The handles; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    pod_start: Histogram,
    worker: Durations,
    running_pods: Gauge,
    running_containers: Family<State, Gauge>,
    operations: Family<Operation, Counter>,
    errors: Family<Operation, Counter>,
    durations: Durations,
    started_pods: Counter,
    started_containers: Counter,
    rejections: Family<Why, Counter>,
    /// Upstream's names of these two lack the `_total` that counters get here: they only ever rise.
    evictions: Family<EvictionSignal, Gauge>,
    preemptions: Family<PreemptionSignal, Gauge>,
    node: Family<NodeName, Gauge>,
    /// What probes found; not in the process's registry.
    pub probes: ProbeMetrics,
}

/// Upstream's buckets of `kubelet_pod_start_duration_seconds`.
const POD_START: [f64; 21] = [
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0,
    600.0, 900.0,
];

fn runtime_call() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 2.5, 14))
}

fn round() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 2.0, 12))
}

impl Metrics {
    /// In the process's registry.
    pub fn new(node: &str) -> Self {
        Self::within(&global(), node)
    }

    fn within(registry: &Registry, node: &str) -> Self {
        let this = Self {
            pod_start: Histogram::new(POD_START),
            worker: Family::new_with_constructor(round),
            running_pods: Gauge::default(),
            running_containers: Family::default(),
            operations: Family::default(),
            errors: Family::default(),
            durations: Family::new_with_constructor(runtime_call),
            started_pods: Counter::default(),
            started_containers: Counter::default(),
            rejections: Family::default(),
            evictions: Family::default(),
            preemptions: Family::default(),
            node: Family::default(),
            probes: ProbeMetrics::default(),
        };
        let of = |name: &str| format!("kubelet_{name}");
        // Counters get their `_total` when they are written.
        registry.register(
            &of("pod_start_duration_seconds"),
            "Seconds from the kubelet seeing a pod for the first time to the pod running",
            this.pod_start.clone(),
        );
        let help = "Seconds to sync a pod, by what was done: create, update or sync";
        registry.register(&of("pod_worker_duration_seconds"), help, this.worker.clone());
        registry.register(&of("running_pods"), "Pods with a running sandbox", this.running_pods.clone());
        registry.register(&of("running_containers"), "Containers by state", this.running_containers.clone());
        registry.register(&of("runtime_operations"), "Calls of the container runtime", this.operations.clone());
        let help = "Failed calls of the container runtime";
        registry.register(&of("runtime_operations_errors"), help, this.errors.clone());
        let help = "Seconds that calls of the container runtime took";
        registry.register(&of("runtime_operations_duration_seconds"), help, this.durations.clone());
        registry.register(&of("started_pods"), "Sandboxes started", this.started_pods.clone());
        registry.register(&of("started_containers"), "Containers started", this.started_containers.clone());
        registry.register(&of("admission_rejections"), "Pods refused, by reason", this.rejections.clone());
        registry.register(&of("evictions"), "Pods evicted, by the signal that was crossed", this.evictions.clone());
        let help = "Pods ended for a critical one, by the resource that was short";
        registry.register(&of("preemptions"), help, this.preemptions.clone());
        registry.register(&of("node_name"), "The node's name; the value is 1", this.node.clone());
        this.node.get_or_create(&NodeName { node: node.to_owned() }).set(1);
        this
    }

    /// Counts calls of the runtime.
    pub fn observer(&self) -> Observer {
        let this = self.clone();
        Arc::new(move |call, took, failed| {
            let operation = Operation { operation_type: operation(call) };
            this.operations.get_or_create(&operation).inc();
            this.durations.get_or_create(&operation).observe(took.as_secs_f64());
            if failed {
                this.errors.get_or_create(&operation).inc();
            } else {
                match call {
                    "RunPodSandbox" => drop(this.started_pods.inc()),
                    "StartContainer" => drop(this.started_containers.inc()),
                    _ => {}
                }
            }
        })
    }

    /// A pod runs, this long after it was first seen.
    pub fn pod_started(&self, after: Duration) {
        self.pod_start.observe(after.as_secs_f64());
    }

    /// A worker has looked after its pod once.
    pub fn worked(&self, what: &str, took: Duration) {
        self.worker.get_or_create(&Operation { operation_type: what.to_owned() }).observe(took.as_secs_f64());
    }

    /// A pod was refused.
    pub fn refused(&self, reason: &str) {
        self.rejections.get_or_create(&Why { reason: reason.to_owned() }).inc();
    }

    /// A pod was told to go because of a signal.
    pub fn evicted(&self, signal: &str) {
        self.evictions.get_or_create(&EvictionSignal { eviction_signal: signal.to_owned() }).inc();
    }

    /// A pod was told to make room.
    pub fn preempted(&self, resource: &str) {
        self.preemptions.get_or_create(&PreemptionSignal { preemption_signal: resource.to_owned() }).inc();
    }

    /// What runs now.
    pub fn running(&self, pods: usize, containers: [(&'static str, usize); 4]) {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.running_pods.set(number(pods));
        for (container_state, count) in containers {
            self.running_containers.get_or_create(&State { container_state }).set(number(count));
        }
    }
}

/// Upstream's name of a call (`kuberuntime/instrumented_services.go`): words joined by `_`, with a few of its own.
fn operation(call: &str) -> String {
    match call {
        "UpdateContainerResources" => return "update_container".to_owned(),
        "ImageFsInfo" => return "image_fs_info".to_owned(),
        _ => {}
    }
    let mut out = String::new();
    for c in call.replace("PodSandbox", "Podsandbox").chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_upstream() {
        let registry = Registry::default();
        let metrics = Metrics::within(&registry, "n1");
        let observe = metrics.observer();
        observe("RunPodSandbox", Duration::from_millis(20), false);
        observe("CreateContainer", Duration::from_millis(20), true);
        observe("StartContainer", Duration::from_millis(20), false);
        metrics.running(1, [("running", 2), ("created", 0), ("exited", 1), ("unknown", 0)]);
        metrics.pod_started(Duration::from_secs(2));
        metrics.worked("sync", Duration::from_millis(3));
        metrics.refused("OutOfcpu");
        metrics.evicted("memory.available");
        metrics.preempted("cpu");
        let text = registry.render();
        for line in [
            "kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"} 1",
            "kubelet_runtime_operations_errors_total{operation_type=\"create_container\"} 1",
            "kubelet_runtime_operations_duration_seconds_count{operation_type=\"create_container\"} 1",
            "kubelet_running_pods 1",
            "kubelet_running_containers{container_state=\"running\"} 2",
            "kubelet_pod_start_duration_seconds_count 1",
            "kubelet_pod_worker_duration_seconds_count{operation_type=\"sync\"} 1",
            "kubelet_started_pods_total 1",
            "kubelet_started_containers_total 1",
            "kubelet_admission_rejections_total{reason=\"OutOfcpu\"} 1",
            "kubelet_evictions{eviction_signal=\"memory.available\"} 1",
            "kubelet_preemptions{preemption_signal=\"cpu\"} 1",
            "kubelet_node_name{node=\"n1\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
