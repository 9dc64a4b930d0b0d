//! Selectable fields (upstream's `AddFieldLabelConversionFunc` and `GetAttrs`).

use kinit_storage::Reading;
use serde_json::Value;

const POD: &[&str] = &[
    "spec.host",
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
const CORE_EVENT: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];
const EVENT: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
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
        ("", "Event") => CORE_EVENT,
        ("events.k8s.io", "Event") => EVENT,
        ("apps", "ReplicaSet") | ("", "ReplicationController") => &["status.replicas"],
        ("batch", "Job" | "CronJob") | ("apps", "StatefulSet") => &["status.successful"],
        ("certificates.k8s.io", "CertificateSigningRequest") => &["spec.signerName"],
        ("resource.k8s.io", "ResourceSlice") => &["spec.nodeName", "spec.driver"],
        _ => &[],
    }
}

/// How objects below a storage prefix are read.
pub fn reading(prefix: &str) -> Reading {
    let values = of(prefix);
    Reading::new(move |object| values(object).into_iter().map(|(path, value)| (path.into(), value)).collect())
}

/// The values of the selectable fields of a stored object, by storage prefix, as Go prints them: a field that is absent
/// is `""`, `false` or `0`, as its type has it. A path that is not among them is `""` to a selector.
fn of(prefix: &str) -> fn(&Value) -> Vec<(&'static str, String)> {
    match prefix {
        "pods/" => pod,
        "events/" => event,
        "minions/" => |v| vec![boolean(v, "spec.unschedulable")],
        "secrets/" => |v| vec![text(v, "type")],
        "namespaces/" => |v| vec![text(v, "status.phase")],
        "services/specs/" => |v| vec![text(v, "spec.clusterIP"), text(v, "spec.type")],
        "replicasets/" | "controllers/" => |v| vec![integer(v, "status.replicas")],
        "certificatesigningrequests/" => |v| vec![text(v, "spec.signerName")],
        "resourceslices/" => |v| vec![text(v, "spec.nodeName"), text(v, "spec.driver")],
        "jobs/" => |v| vec![("status.successful", integer(v, "status.succeeded").1)],
        // Not for selectors: the server itself asks for those that extension servers answer.
        "apiregistration.k8s.io/apiservices/" => {
            |v| vec![("spec.service", found(v, "spec.service").is_some_and(Value::is_object).to_string())]
        }
        _ => |_| Vec::new(),
    }
}

fn found<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, key| value.get(key))
}

fn text(value: &Value, path: &'static str) -> (&'static str, String) {
    (path, found(value, path).and_then(Value::as_str).unwrap_or_default().to_owned())
}

fn boolean(value: &Value, path: &'static str) -> (&'static str, String) {
    (path, found(value, path).and_then(Value::as_bool).unwrap_or_default().to_string())
}

fn integer(value: &Value, path: &'static str) -> (&'static str, String) {
    (path, found(value, path).and_then(Value::as_i64).unwrap_or_default().to_string())
}

/// `pod.ToSelectableFields`; `status.podIPs` may be asked for and has no value there.
fn pod(v: &Value) -> Vec<(&'static str, String)> {
    let node = text(v, "spec.nodeName");
    let mut out = vec![("spec.host", node.1.clone()), node, boolean(v, "spec.hostNetwork")];
    out.extend(
        ["spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "status.phase", "status.podIP"]
            .map(|path| text(v, path)),
    );
    out.push(text(v, "status.nominatedNodeName"));
    // Most pods have few of these: what is empty need not be kept.
    out.retain(|(_, value)| !value.is_empty());
    if !out.iter().any(|(path, _)| *path == "status.phase") {
        out.push(("status.phase", "Pending".into()));
    }
    out
}

/// Events are stored in the core form; the newer group's paths are names of the same fields
/// (`event.ToSelectableFields`: the source is the component that reported, by either of its two fields).
fn event(v: &Value) -> Vec<(&'static str, String)> {
    let mut out: Vec<_> = CORE_EVENT.iter().map(|path| text(v, path)).collect();
    let source = match (found(v, "source.component"), found(v, "reportingComponent")) {
        (Some(Value::String(component)), _) if !component.is_empty() => component.clone(),
        (_, Some(Value::String(controller))) => controller.clone(),
        _ => String::new(),
    };
    out.retain(|(path, _)| *path != "source");
    out.push(("source", source));
    for path in EVENT {
        let stored = match path.strip_prefix("regarding.") {
            Some(rest) => format!("involvedObject.{rest}"),
            None => path.replace("reportingController", "reportingComponent"),
        };
        if !out.iter().any(|(known, _)| known == path) {
            out.push((*path, found(v, &stored).and_then(Value::as_str).unwrap_or_default().to_owned()));
        }
    }
    out.retain(|(_, value)| !value.is_empty());
    out
}

#[cfg(test)]
mod tests {
    use kinit_apimachinery::selector::FieldSelector;
    use serde_json::json;

    use super::*;

    fn selects(prefix: &str, object: &Value, selector: &str) -> bool {
        let fields = of(prefix)(object);
        FieldSelector::parse(selector)
            .unwrap()
            .matches(|path| fields.iter().find(|(known, _)| *known == path).map(|(_, value)| value.as_str()))
    }

    #[test]
    fn absent_fields_have_gos_zero_values() {
        for (prefix, selector) in [
            ("minions/", "spec.unschedulable=false"),
            ("minions/", "spec.unschedulable!=true"),
            ("pods/", "spec.nodeName=,status.podIP=,status.phase=Pending,spec.hostNetwork=false"),
            ("pods/", "spec.host=,status.podIPs=,status.nominatedNodeName="),
            ("secrets/", "type="),
            ("namespaces/", "status.phase="),
            ("services/specs/", "spec.clusterIP=,spec.type!=NodePort"),
            ("replicasets/", "status.replicas=0"),
            ("controllers/", "status.replicas=0"),
            ("jobs/", "status.successful=0"),
            ("cronjobs/", "status.successful="),
            ("certificatesigningrequests/", "spec.signerName="),
            ("resourceslices/", "spec.nodeName=,spec.driver="),
            ("events/", "source=,involvedObject.name=,regarding.name=,reportingController=,type!=Warning"),
        ] {
            assert!(selects(prefix, &json!({}), selector), "{prefix} {selector}");
        }
    }

    #[test]
    fn values_are_printed_as_go_does() {
        for (prefix, object, selector) in [
            ("minions/", json!({"spec": {"unschedulable": true}}), "spec.unschedulable=true"),
            ("replicasets/", json!({"status": {"replicas": 3}}), "status.replicas=3"),
            ("jobs/", json!({"status": {"succeeded": 2}}), "status.successful=2"),
            ("pods/", json!({"spec": {"nodeName": "n"}}), "spec.host=n,spec.nodeName=n"),
            (
                "events/",
                json!({"reportingComponent": "c", "involvedObject": {"name": "p"}}),
                "source=c,reportingController=c,regarding.name=p,involvedObject.name=p",
            ),
        ] {
            assert!(selects(prefix, &object, selector), "{prefix} {selector}");
        }
    }
}
