//! The server's own metrics, under the names of CoreDNS (its plugin `metrics`), whose place it takes.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use kinit_component_base::metrics::{Metrics as Registry, global};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// CoreDNS' name of a server block on port 53.
const SERVER: &str = "dns://:53";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Asked {
    server: &'static str,
    zone: String,
    view: &'static str,
    proto: &'static str,
    family: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Place {
    server: &'static str,
    zone: String,
    view: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Said {
    server: &'static str,
    zone: String,
    view: &'static str,
    rcode: &'static str,
    plugin: &'static str,
}

/// A query and what became of it.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    /// Whether it came over TCP.
    pub tcp: bool,
    /// Whether it came over IPv6.
    pub v6: bool,
    /// What was asked for; absent where the question could not be read.
    pub kind: Option<RecordType>,
    /// Whether the zone answered, not a resolver.
    pub ours: bool,
    /// The answer's code.
    pub code: ResponseCode,
    /// How long it took.
    pub took: Duration,
}

/// The handles.
#[derive(Clone)]
pub struct Metrics {
    zone: String,
    requests: Family<Asked, Counter>,
    durations: Family<Place, Histogram, fn() -> Histogram>,
    responses: Family<Said, Counter>,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.00025, 2.0, 16))
}

impl Metrics {
    /// In the process's registry; `zone` is the cluster's domain, with its last dot.
    pub fn new(zone: &str) -> Self {
        Self::within(&global(), zone)
    }

    fn within(registry: &Registry, zone: &str) -> Self {
        let this = Self {
            zone: zone.to_owned(),
            requests: Family::default(),
            durations: Family::new_with_constructor(seconds),
            responses: Family::default(),
        };
        // Counters get their `_total` when they are written.
        registry.register("coredns_dns_requests", "Queries by zone, protocol, family and type", this.requests.clone());
        let help = "Seconds a query took, by zone";
        registry.register("coredns_dns_request_duration_seconds", help, this.durations.clone());
        registry.register("coredns_dns_responses", "Answers by zone, code and who answered", this.responses.clone());
        this
    }

    /// Counts a query that was answered.
    pub fn answered(&self, query: Query) {
        let zone = if query.ours { self.zone.clone() } else { ".".to_owned() };
        let (server, view) = (SERVER, "");
        self.requests
            .get_or_create(&Asked {
                server,
                zone: zone.clone(),
                view,
                proto: if query.tcp { "tcp" } else { "udp" },
                family: if query.v6 { "2" } else { "1" },
                r#type: kind(query.kind),
            })
            .inc();
        let place = Place { server, zone: zone.clone(), view };
        self.durations.get_or_create(&place).observe(query.took.as_secs_f64());
        let plugin = if query.ours { "kubernetes" } else { "forward" };
        self.responses.get_or_create(&Said { server, zone, view, rcode: rcode(query.code), plugin }).inc();
    }
}

/// CoreDNS counts the common types by name: clients must not be able to make up series.
fn kind(kind: Option<RecordType>) -> &'static str {
    match kind {
        Some(RecordType::A) => "A",
        Some(RecordType::AAAA) => "AAAA",
        Some(RecordType::CNAME) => "CNAME",
        Some(RecordType::HTTPS) => "HTTPS",
        Some(RecordType::MX) => "MX",
        Some(RecordType::NS) => "NS",
        Some(RecordType::PTR) => "PTR",
        Some(RecordType::SOA) => "SOA",
        Some(RecordType::SRV) => "SRV",
        Some(RecordType::TXT) => "TXT",
        Some(RecordType::ANY) => "ANY",
        _ => "other",
    }
}

fn rcode(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::BADVERS => "BADVERS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_coredns() {
        let registry = Registry::default();
        let metrics = Metrics::within(&registry, "cluster.local.");
        let query = Query {
            tcp: false,
            v6: false,
            kind: Some(RecordType::A),
            ours: true,
            code: ResponseCode::NXDomain,
            took: Duration::from_millis(1),
        };
        metrics.answered(query);
        metrics.answered(Query { tcp: true, ours: false, kind: None, code: ResponseCode::NoError, ..query });
        let text = registry.render();
        let place = "server=\"dns://:53\",zone=\"cluster.local.\",view=\"\"";
        for line in [
            format!("coredns_dns_requests_total{{{place},proto=\"udp\",family=\"1\",type=\"A\"}} 1"),
            format!("coredns_dns_request_duration_seconds_count{{{place}}} 1"),
            format!("coredns_dns_responses_total{{{place},rcode=\"NXDOMAIN\",plugin=\"kubernetes\"}} 1"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(text.contains("zone=\".\",view=\"\",proto=\"tcp\",family=\"1\",type=\"other\"} 1"), "{text}");
    }
}
