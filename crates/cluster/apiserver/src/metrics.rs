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

/// What is asked for, as upstream labels it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Asked {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    code: u32,
    #[prometheus(flatten)]
    asked: Asked,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Sort {
    request_kind: &'static str,
}

/// The server's metrics.
#[derive(Clone)]
pub struct Metrics {
    requests: Family<Answered, Counter<u64, AtomicU64>>,
    durations: Family<Asked, Histogram, fn() -> Histogram>,
    long: Family<Asked, Gauge>,
    inflight: Family<Sort, Gauge>,
    panics: Counter,
}

/// Counts something while it lives.
pub struct Guard(Gauge);

impl Guard {
    fn of(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.5, 12))
}

impl Asked {
    /// Labels come from what is served, never from the path as it was sent: anybody may ask for anything.
    fn of(info: &RequestInfo, served: Option<&Descriptor>) -> Self {
        let known = served.filter(|desc| info.subresource.is_empty() || desc.sub(&info.subresource).is_some());
        let (group, version, resource, subresource) = match known {
            Some(desc) => (desc.group.clone(), desc.version.clone(), desc.plural.clone(), info.subresource.clone()),
            None => Default::default(),
        };
        Self {
            verb: verb(info.verb),
            group,
            version,
            resource,
            subresource,
            scope: scope(info),
            component: "apiserver",
        }
    }
}

/// Verbs as methods, where upstream reports them so (`cleanVerb`).
fn verb(verb: &'static str) -> &'static str {
    match verb {
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "get" => "GET",
        "head" => "HEAD",
        "list" => "LIST",
        "watch" => "WATCH",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "connect" => "CONNECT",
        "options" => "OPTIONS",
        _ => "OTHER",
    }
}

/// How much a request is about (`CleanScope`).
fn scope(info: &RequestInfo) -> &'static str {
    match () {
        () if !info.is_resource => "",
        () if !info.name.is_empty() || info.verb == "create" => "resource",
        () if !info.namespace.is_empty() => "namespace",
        () => "cluster",
    }
}

impl Metrics {
    fn new() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram),
            long: Family::default(),
            inflight: Family::default(),
            panics: Counter::default(),
        }
    }

    /// Makes and registers them.
    pub fn register() -> Self {
        let out = Self::new();
        let registry = global();
        registry.register("apiserver_request", "Requests by verb, resource and code", out.requests.clone());
        let help = "Duration of requests that are not long-running";
        registry.register("apiserver_request_duration_seconds", help, out.durations.clone());
        registry.register("apiserver_request_panics", "Requests whose handling panicked", out.panics.clone());
        let help = "Watches that are open";
        registry.register("apiserver_longrunning_requests", help, out.long.clone());
        let help = "Requests that are being handled, by sort, long-running ones left out";
        registry.register("apiserver_current_inflight_requests", help, out.inflight.clone());
        out
    }

    /// Counts a request.
    pub fn request(&self, info: &RequestInfo, served: Option<&Descriptor>, code: u16, seconds: f64, long: bool) {
        let asked = Asked::of(info, served);
        if !long {
            self.durations.get_or_create(&asked).observe(seconds);
        }
        self.requests.get_or_create(&Answered { code: u32::from(code), asked }).inc();
    }

    /// Counts a panic.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// Counts a long-running request until the guard goes.
    pub fn long_running(&self, info: &RequestInfo, served: &Descriptor) -> Guard {
        Guard::of(self.long.get_or_create_owned(&Asked::of(info, Some(served))))
    }

    /// Counts a request that is being handled until the guard goes.
    pub fn in_flight(&self, reading: bool) -> Guard {
        let request_kind = if reading { "readOnly" } else { "mutating" };
        Guard::of(self.inflight.get_or_create_owned(&Sort { request_kind }))
    }
}

#[cfg(test)]
mod tests {
    use hyper::Method;

    use super::*;
    use crate::resources::Registry;

    fn text(metrics: &Metrics) -> String {
        let mut text = String::new();
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register("requests", "", metrics.requests.clone());
        registry.register("inflight", "", metrics.inflight.clone());
        registry.register("long", "", metrics.long.clone());
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn requests_are_labelled_as_upstream_does() {
        let (metrics, registry) = (Metrics::new(), Registry::builtin());
        let pods = registry.find("", "v1", "pods").unwrap();
        for (method, path, query, labels) in [
            (
                Method::GET,
                "/api/v1/namespaces/a/pods",
                "",
                r#"verb="LIST",group="",version="v1",resource="pods",subresource="",scope="namespace""#,
            ),
            (
                Method::GET,
                "/api/v1/pods",
                "watch=1",
                r#"verb="WATCH",group="",version="v1",resource="pods",subresource="",scope="cluster""#,
            ),
            (
                Method::POST,
                "/api/v1/namespaces/a/pods",
                "",
                r#"verb="POST",group="",version="v1",resource="pods",subresource="",scope="resource""#,
            ),
            (
                Method::PUT,
                "/api/v1/namespaces/a/pods/p/status",
                "",
                r#"verb="PUT",group="",version="v1",resource="pods",subresource="status",scope="resource""#,
            ),
            (
                Method::DELETE,
                "/api/v1/namespaces/a/pods",
                "",
                r#"verb="DELETECOLLECTION",group="",version="v1",resource="pods",subresource="",scope="namespace""#,
            ),
        ] {
            metrics.request(&RequestInfo::parse(&method, path, query), Some(&pods), 200, 0.1, false);
            let line = format!("requests_total{{code=\"200\",{labels},component=\"apiserver\"}} 1");
            assert!(text(&metrics).contains(&line), "{line}: {}", text(&metrics));
        }
        metrics.request(&RequestInfo::parse(&Method::GET, "/version", ""), None, 200, 0.1, false);
        assert!(text(&metrics).contains(r#"verb="GET",group="",version="",resource="",subresource="",scope="""#));
        let guards = (metrics.in_flight(true), metrics.in_flight(true), metrics.in_flight(false));
        let watch = RequestInfo::parse(&Method::GET, "/api/v1/pods", "watch=1");
        let long = metrics.long_running(&watch, &pods);
        let now = text(&metrics);
        for line in [
            "inflight{request_kind=\"readOnly\"} 2",
            "inflight{request_kind=\"mutating\"} 1",
            "scope=\"cluster\",component=\"apiserver\"} 1",
        ] {
            assert!(now.contains(line), "{line}: {now}");
        }
        drop((guards, long));
        assert!(text(&metrics).contains("inflight{request_kind=\"readOnly\"} 0"));
    }

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
        let text = text(&metrics);
        assert_eq!(text.lines().filter(|line| line.starts_with("requests_total")).count(), 3, "{text}");
    }
}
