//! Counters, under upstream's names.

use std::sync::atomic::AtomicU64;

use kinit_component_base::metrics::global;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::http::RequestInfo;
use crate::resources::Descriptor;

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
    fn new() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram),
            watches: Gauge::default(),
            panics: Counter::default(),
        }
    }

    /// Makes and registers them.
    pub fn register() -> Self {
        let out = Self::new();
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

    /// Counts a request. Labels come from what is served, never from the path as it was sent: anybody may ask for
    /// anything.
    pub fn request(&self, info: &RequestInfo, served: Option<&Descriptor>, code: u16, seconds: f64, long: bool) {
        let verb = info.verb.to_uppercase();
        let known = served.filter(|desc| info.subresource.is_empty() || desc.sub(&info.subresource).is_some());
        let (group, version, resource, subresource) = match known {
            Some(desc) => (desc.group.clone(), desc.version.clone(), desc.plural.clone(), info.subresource.clone()),
            None => Default::default(),
        };
        if !long {
            let labels = DurationLabels { verb: verb.clone(), resource: resource.clone() };
            self.durations.get_or_create(&labels).observe(seconds);
        }
        let labels = RequestLabels { verb, group, version, resource, subresource, code: u32::from(code) };
        self.requests.get_or_create(&labels).inc();
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

#[cfg(test)]
mod tests {
    use hyper::Method;

    use super::*;
    use crate::resources::Registry;

    #[test]
    fn no_label_is_made_of_a_path_nobody_serves() {
        let (metrics, registry) = (Metrics::new(), Registry::builtin());
        let count = |path: &str| {
            let info = RequestInfo::parse(&Method::GET, path, "");
            let served = registry.find(&info.group, &info.version, &info.resource);
            metrics.request(&info, served.as_deref(), 401, 0.1, false);
        };
        for n in 0..100 {
            count(&format!("/apis/g{n}/v1/things"));
            count(&format!("/api/v1/namespaces/a/r{n}/b"));
            count(&format!("/api/v1/namespaces/a/pods/b/s{n}"));
            count(&format!("/api/v{n}/pods"));
        }
        count("/api/v1/pods");
        let mut text = String::new();
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register("requests", "", metrics.requests.clone());
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert_eq!(text.lines().filter(|line| line.starts_with("requests_total")).count(), 3, "{text}");
    }
}
