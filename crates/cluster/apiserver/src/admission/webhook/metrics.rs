//! Counters of webhooks, under upstream's names (`k8s.io/apiserver/pkg/admission/metrics`).

use std::time::Duration;

use kinit_component_base::metrics::global;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

const BUCKETS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Asked {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    rejected: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    code: u16,
    rejected: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Rejected {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    error_type: &'static str,
    rejection_code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FailedOpen {
    name: String,
    r#type: &'static str,
}

/// What is counted of webhooks. Those whose names end in `_count` only grow, but are registered as gauges: the
/// exposition format would end a counter's name in `_total`, and upstream's do not.
pub struct Metrics {
    durations: Family<Asked, Histogram, fn() -> Histogram>,
    requests: Family<Answered, Counter>,
    rejections: Family<Rejected, Gauge>,
    failed_open: Family<FailedOpen, Gauge>,
}

/// One call, for counting.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The webhook.
    pub name: &'a str,
    /// `admit` or `validating`.
    pub kind: &'static str,
    /// `CREATE` and so on.
    pub operation: &'static str,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register() -> Self {
        let out = Self {
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            requests: Family::default(),
            rejections: Family::default(),
            failed_open: Family::default(),
        };
        let all = global();
        let durations = out.durations.clone();
        all.register("apiserver_admission_webhook_admission_duration_seconds", "Time webhooks take", durations);
        all.register("apiserver_admission_webhook_request", "Calls of webhooks", out.requests.clone());
        let rejections = out.rejections.clone();
        all.register("apiserver_admission_webhook_rejection_count", "Requests refused over a webhook", rejections);
        let failed_open = out.failed_open.clone();
        all.register(
            "apiserver_admission_webhook_fail_open_count",
            "Webhooks that failed and are ignored",
            failed_open,
        );
        out
    }

    /// Counts a call that came to an end.
    pub fn call(&self, call: Call<'_>, took: Duration, rejected: bool, code: u16) {
        let (name, rejected) = (call.name.to_owned(), rejected.to_string());
        let asked = Asked { name, r#type: call.kind, operation: call.operation, rejected };
        self.durations.get_or_create(&asked).observe(took.as_secs_f64());
        let Asked { name, r#type, operation, rejected } = asked;
        self.requests.get_or_create(&Answered { name, r#type, operation, code, rejected }).inc();
    }

    /// Counts a refusal: `calling_webhook_error`, `apiserver_internal_error` or `no_error`.
    pub fn rejected(&self, call: Call<'_>, error_type: &'static str, rejection_code: u16) {
        let name = call.name.to_owned();
        let labels = Rejected { name, r#type: call.kind, operation: call.operation, error_type, rejection_code };
        self.rejections.get_or_create(&labels).inc();
    }

    /// Counts a failure that is ignored.
    pub fn failed_open(&self, call: Call<'_>) {
        self.failed_open.get_or_create(&FailedOpen { name: call.name.to_owned(), r#type: call.kind }).inc();
    }
}
