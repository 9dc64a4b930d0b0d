//! Counters of the audit log, under upstream's names (`k8s.io/apiserver/pkg/audit/metrics.go`).

use std::sync::LazyLock;

use kinit_component_base::metrics::global;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

type Labels = [(&'static str, &'static str); 1];

struct All {
    events: Counter,
    errors: Family<Labels, Counter>,
    levels: Family<Labels, Counter>,
    rejected: Counter,
}

static ALL: LazyLock<All> = LazyLock::new(|| {
    let all = All {
        events: Counter::default(),
        errors: Family::default(),
        levels: Family::default(),
        rejected: Counter::default(),
    };
    let registry = global();
    let help = "Audit events generated and sent to the audit backend";
    registry.register("apiserver_audit_event", help, all.events.clone());
    let help = "Audit events that the backend could not write";
    registry.register("apiserver_audit_error", help, all.errors.clone());
    let help = "Policy levels of requests that were evaluated for auditing";
    registry.register("apiserver_audit_level", help, all.levels.clone());
    let help = "Requests rejected because their audit event could not be written";
    registry.register("apiserver_audit_requests_rejected", help, all.rejected.clone());
    // A failure that never happened is 0, which an alert on its increase needs.
    drop(all.errors.get_or_create(&[("plugin", "log")]));
    all
});

/// An event is on its way to the log.
pub fn event() {
    ALL.events.inc();
}

/// An event was not written.
pub fn lost() {
    ALL.errors.get_or_create(&[("plugin", "log")]).inc();
}

/// The policy was asked about a request.
pub fn level(level: &'static str) {
    ALL.levels.get_or_create(&[("level", level)]).inc();
}

/// A request was refused because its first event could not be written (`--audit-log-mode=blocking-strict`).
pub fn rejected() {
    ALL.rejected.inc();
}
