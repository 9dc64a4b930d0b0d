//! Selectable fields (upstream's `AddFieldLabelConversionFunc` and `GetAttrs`).

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

const POD: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
];
const EVENT: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingComponent",
    "reportingController",
    "source",
    "type",
];

/// The paths a kind's selectors may use.
pub fn selectable(group: &str, kind: &str) -> &'static [&'static str] {
    match (group, kind) {
        ("", "Pod") => POD,
        ("", "Node") => &["spec.unschedulable"],
        ("", "Secret") => &["type"],
        ("", "Namespace") => &["status.phase"],
        ("", "Service") => &["spec.clusterIP", "spec.type"],
        ("", "Event") | ("events.k8s.io", "Event") => EVENT,
        ("apps", "ReplicaSet") | ("", "ReplicationController") => &["status.replicas"],
        ("batch", "Job") => &["status.successful"],
        ("certificates.k8s.io", "CertificateSigningRequest") => &["spec.signerName"],
        ("networking.k8s.io", "IPAddress") => &[],
        ("resource.k8s.io", "ResourceSlice") => &["spec.nodeName", "spec.driver"],
        _ => &[],
    }
}

/// The values of the selectable fields of a stored object, by storage prefix.
pub fn of(prefix: &str) -> fn(&Value) -> Vec<(&'static str, String)> {
    match prefix {
        "pods/" => pod,
        "events/" => event,
        "minions/" => |v| paths(v, &["spec.unschedulable"]),
        "secrets/" => |v| paths(v, &["type"]),
        "namespaces/" => |v| paths(v, &["status.phase"]),
        "services/specs/" => |v| paths(v, &["spec.clusterIP", "spec.type"]),
        "replicasets/" | "controllers/" => |v| paths(v, &["status.replicas"]),
        "certificatesigningrequests/" => |v| paths(v, &["spec.signerName"]),
        "resourceslices/" => |v| paths(v, &["spec.nodeName", "spec.driver"]),
        "jobs/" => |v| vec![("status.successful", text(v.at(&["status", "succeeded"]).unwrap_or(&Value::from(0))))],
        _ => |_| Vec::new(),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

fn paths(value: &Value, paths: &[&'static str]) -> Vec<(&'static str, String)> {
    paths
        .iter()
        .filter_map(|path| {
            let keys: Vec<&str> = path.split('.').collect();
            let found = value.at(&keys)?;
            (!found.is_null()).then(|| (*path, text(found)))
        })
        .collect()
}

fn pod(v: &Value) -> Vec<(&'static str, String)> {
    let mut out = paths(v, POD);
    out.retain(|(k, _)| !matches!(*k, "spec.hostNetwork" | "status.podIPs"));
    out.push(("spec.hostNetwork", (v.at(&["spec", "hostNetwork"]) == Some(&Value::Bool(true))).to_string()));
    if !out.iter().any(|(k, _)| *k == "status.phase") {
        out.push(("status.phase", "Pending".into()));
    }
    out
}

/// Events are stored in the core form; the newer group's paths are names of the same fields.
fn event(v: &Value) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    for path in EVENT {
        let stored = path.replace("regarding.", "involvedObject.");
        let keys: Vec<&str> = match stored.as_str() {
            "source" => vec!["source", "component"],
            "reportingController" => vec!["reportingComponent"],
            other => other.split('.').collect(),
        };
        if let Some(found) = v.at(&keys).filter(|f| !f.is_null()) {
            out.push((*path, text(found)));
        }
    }
    if !out.iter().any(|(k, _)| *k == "source")
        && let Some(controller) = v.at(&["reportingComponent"])
    {
        out.push(("source", text(controller)));
    }
    out
}
