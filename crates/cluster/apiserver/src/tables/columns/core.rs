//! Pods, nodes, services and what else lives in the core group.

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::{AGE, NAME, col, num, wide};
use crate::tables::Column;
use crate::tables::pod;
use crate::tables::values::{age, condition, int, joined, labels, list, name, since, size, text};

pub(super) static POD: &[Column] = &[
    NAME,
    col("Ready", pod::ready),
    col("Status", pod::status),
    col("Restarts", pod::restarts),
    AGE,
    wide("IP", |o| text(o, &["status", "podIP"], "<none>")),
    wide("Node", |o| text(o, &["spec", "nodeName"], "<none>")),
    wide("Nominated Node", |o| text(o, &["status", "nominatedNodeName"], "<none>")),
    wide("Readiness Gates", pod::gates),
];

fn node_address(o: &Value, kind: &str) -> Value {
    list(o, &["status", "addresses"])
        .iter()
        .find(|a| a.str_at(&["type"]) == kind)
        .map_or("<none>", |a| a.str_at(&["address"]))
        .into()
}
fn node_status(o: &Value) -> Value {
    let mut parts = vec![match condition(o, "Ready").map(|c| c.str_at(&["status"])) {
        Some("True") => "Ready",
        Some("False") => "NotReady",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if o.at(&["spec", "unschedulable"]) == Some(&Value::Bool(true)) {
        parts.push("SchedulingDisabled");
    }
    parts.join(",").into()
}
fn node_roles(o: &Value) -> Value {
    let mut roles: Vec<&str> = o
        .at(&["metadata", "labels"])
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| match k.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ if k == "kubernetes.io/role" => v.as_str().filter(|r| !r.is_empty()),
            _ => None,
        })
        .collect();
    roles.sort_unstable();
    if roles.is_empty() { "<none>".into() } else { roles.join(",").into() }
}
pub(super) static NODE: &[Column] = &[
    NAME,
    col("Status", node_status),
    col("Roles", node_roles),
    AGE,
    col("Version", |o| text(o, &["status", "nodeInfo", "kubeletVersion"], "")),
    wide("Internal-IP", |o| node_address(o, "InternalIP")),
    wide("External-IP", |o| node_address(o, "ExternalIP")),
    wide("OS-Image", |o| text(o, &["status", "nodeInfo", "osImage"], "<unknown>")),
    wide("Kernel-Version", |o| text(o, &["status", "nodeInfo", "kernelVersion"], "<unknown>")),
    wide("Container-Runtime", |o| text(o, &["status", "nodeInfo", "containerRuntimeVersion"], "<unknown>")),
];

fn external_ip(o: &Value) -> Value {
    let fixed = kinit_apimachinery::meta::strings(o.at(&["spec", "externalIPs"])).join(",");
    match o.str_at(&["spec", "type"]) {
        "LoadBalancer" => {
            let given = joined(list(o, &["status", "loadBalancer", "ingress"]), |i| match i.str_at(&["ip"]) {
                "" => i.str_at(&["hostname"]),
                ip => ip,
            });
            match (given.is_empty(), fixed.is_empty()) {
                (false, true) => given.into(),
                (false, false) => format!("{given},{fixed}").into(),
                (true, false) => fixed.into(),
                (true, true) => "<pending>".into(),
            }
        }
        "ExternalName" => text(o, &["spec", "externalName"], "<none>"),
        _ if fixed.is_empty() => "<none>".into(),
        _ => fixed.into(),
    }
}
fn service_ports(o: &Value) -> Value {
    let ports: Vec<String> = list(o, &["spec", "ports"])
        .iter()
        .map(|p| {
            let node = int(p, &["nodePort"]);
            let node = if node > 0 { format!(":{node}") } else { String::new() };
            format!("{}{node}/{}", int(p, &["port"]), p.str_at(&["protocol"]))
        })
        .collect();
    if ports.is_empty() { "<none>".into() } else { ports.join(",").into() }
}
pub(super) static SERVICE: &[Column] = &[
    NAME,
    col("Type", |o| text(o, &["spec", "type"], "")),
    col("Cluster-IP", |o| text(o, &["spec", "clusterIP"], "<none>")),
    col("External-IP", external_ip),
    col("Port(s)", service_ports),
    AGE,
    wide("Selector", |o| labels(o.at(&["spec", "selector"])).into()),
];
pub(super) static NAMESPACE: &[Column] = &[NAME, col("Status", |o| text(o, &["status", "phase"], "")), AGE];

fn endpoints(o: &Value) -> Value {
    let mut out = Vec::new();
    let mut more = 0;
    for subset in list(o, &["subsets"]) {
        for address in list(subset, &["addresses"]) {
            let ip = address.str_at(&["ip"]);
            let ports = list(subset, &["ports"]);
            let shown: Vec<String> = if ports.is_empty() {
                vec![ip.to_owned()]
            } else {
                ports.iter().map(|p| format!("{ip}:{}", int(p, &["port"]))).collect()
            };
            for one in shown {
                if out.len() < 3 { out.push(one) } else { more += 1 }
            }
        }
    }
    match (out.is_empty(), more) {
        (true, _) => "<none>".into(),
        (false, 0) => out.join(",").into(),
        (false, more) => format!("{} + {more} more...", out.join(",")).into(),
    }
}
pub(super) static ENDPOINTS: &[Column] = &[NAME, col("Endpoints", endpoints), AGE];
pub(super) static CONFIG_MAP: &[Column] =
    &[NAME, num("Data", |o| (size(o, &["data"]) + size(o, &["binaryData"])).into()), AGE];
pub(super) static SECRET: &[Column] =
    &[NAME, col("Type", |o| text(o, &["type"], "Opaque")), num("Data", |o| size(o, &["data"]).into()), AGE];

fn event_seen(o: &Value) -> Value {
    for path in [&["series", "lastObservedTime"][..], &["lastTimestamp"], &["deprecatedLastTimestamp"], &["eventTime"]]
    {
        let at = o.str_at(path);
        if !at.is_empty() {
            return since(at).into();
        }
    }
    age(o)
}
fn object_of(o: &Value, key: &str) -> Value {
    let (kind, name) = (o.str_at(&[key, "kind"]), o.str_at(&[key, "name"]));
    let path = o.str_at(&[key, "fieldPath"]);
    let _ = path;
    format!("{}/{name}", kind.to_lowercase()).into()
}
pub(super) static EVENT: &[Column] = &[
    col("Last Seen", event_seen),
    col("Type", |o| text(o, &["type"], "")),
    col("Reason", |o| text(o, &["reason"], "")),
    col("Object", |o| object_of(o, "involvedObject")),
    wide("Subobject", |o| text(o, &["involvedObject", "fieldPath"], "")),
    wide("Source", |o| match o.str_at(&["source", "component"]) {
        "" => text(o, &["reportingComponent"], ""),
        component => match o.str_at(&["source", "host"]) {
            "" => component.into(),
            host => format!("{component}, {host}").into(),
        },
    }),
    col("Message", |o| o.str_at(&["message"]).trim().into()),
    wide("First Seen", |o| match o.str_at(&["firstTimestamp"]) {
        "" => event_seen(o),
        at => since(at).into(),
    }),
    wide("Count", |o| int(o, &["count"]).max(1).to_string().into()),
    wide("Name", name),
];
pub(super) static EVENT_NEW: &[Column] = &[
    col("Last Seen", event_seen),
    col("Type", |o| text(o, &["type"], "")),
    col("Reason", |o| text(o, &["reason"], "")),
    col("Object", |o| object_of(o, "regarding")),
    col("Message", |o| o.str_at(&["note"]).trim().into()),
    wide("Name", name),
];
pub(super) static QUOTA: &[Column] =
    &[NAME, col("Request", |o| quota(o, false)), col("Limit", |o| quota(o, true)), AGE];

/// Use and limit of what begins with `limits.`, or of everything else.
fn quota(o: &Value, limits: bool) -> Value {
    let mut names: Vec<&String> =
        o.at(&["status", "hard"]).and_then(Value::as_object).into_iter().flat_map(|m| m.keys()).collect();
    names.retain(|name| name.starts_with("limits.") == limits);
    names.sort_unstable();
    let amount = |part: &str, name: &str| text(o, &["status", part, name], "0").as_str().unwrap_or("0").to_owned();
    let texts = names.into_iter().map(|name| format!("{name}: {}/{}", amount("used", name), amount("hard", name)));
    texts.collect::<Vec<_>>().join(", ").into()
}
