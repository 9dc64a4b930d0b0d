//! Counters, under upstream's names.

use std::sync::atomic::AtomicU64;

use kinit_component_base::metrics::global;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    code: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DurationLabels {
    verb: String,
    resource: String,
}

/// The server's metrics.
#[derive(Clone)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter<u64, AtomicU64>>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    watches: Gauge,
    panics: Counter,
}

/// Counts an open watch while it lives.
pub struct WatchGuard(Gauge);

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.5, 12))
}

impl Metrics {
    /// Makes and registers them.
    pub fn register() -> Self {
        let out = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram),
            watches: Gauge::default(),
            panics: Counter::default(),
        };
        let registry = global();
        registry.register("apiserver_request", "Requests by verb, resource and code", out.requests.clone());
        registry.register(
            "apiserver_request_duration_seconds",
            "Duration of requests that are not long-running",
            out.durations.clone(),
        );
        registry.register("apiserver_request_panics", "Requests whose handling panicked", out.panics.clone());
        registry.register("apiserver_longrunning_requests", "Open watches", out.watches.clone());
        out
    }

    /// Counts a request.
    pub fn request(&self, info: &crate::http::RequestInfo, code: u16, seconds: f64, long: bool) {
        let resource = if info.is_resource { info.resource.clone() } else { String::new() };
        self.requests
            .get_or_create(&RequestLabels {
                verb: info.verb.to_uppercase(),
                group: info.group.clone(),
                version: info.version.clone(),
                resource: resource.clone(),
                subresource: info.subresource.clone(),
                code: u32::from(code),
            })
            .inc();
        if !long {
            self.durations.get_or_create(&DurationLabels { verb: info.verb.to_uppercase(), resource }).observe(seconds);
        }
    }

    /// Counts a panic.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// Counts a watch until the guard goes.
    pub fn watch_opened(&self) -> WatchGuard {
        self.watches.inc();
        WatchGuard(self.watches.clone())
    }
}
