//! Endpoint slices, ingresses, policies and addresses.

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::{AGE, NAME, col, num};
use crate::tables::Column;
use crate::tables::values::{int, joined, list, selector, text};

fn slice_ports(o: &Value) -> Value {
    let ports = joined_numbers(list(o, &["ports"]));
    if ports.is_empty() { "<unset>".into() } else { ports.into() }
}
fn joined_numbers(ports: &[Value]) -> String {
    ports
        .iter()
        .map(|p| p.get("port").and_then(Value::as_i64).map_or("*".to_owned(), |n| n.to_string()))
        .collect::<Vec<_>>()
        .join(",")
}
fn slice_endpoints(o: &Value) -> Value {
    let all: Vec<&str> =
        list(o, &["endpoints"]).iter().flat_map(|e| list(e, &["addresses"]).iter().filter_map(Value::as_str)).collect();
    match all.len() {
        0 => "<unset>".into(),
        1..=3 => all.join(",").into(),
        n => format!("{} + {} more...", all[..3].join(","), n - 3).into(),
    }
}
pub(super) static SLICE: &[Column] = &[
    NAME,
    col("AddressType", |o| text(o, &["addressType"], "")),
    col("Ports", slice_ports),
    col("Endpoints", slice_endpoints),
    AGE,
];

pub(super) static INGRESS: &[Column] = &[
    NAME,
    col("Class", |o| text(o, &["spec", "ingressClassName"], "<none>")),
    col("Hosts", |o| {
        let hosts = joined(list(o, &["spec", "rules"]), |r| r.str_at(&["host"]));
        if hosts.is_empty() { "*".into() } else { hosts.into() }
    }),
    col("Address", |o| {
        joined(list(o, &["status", "loadBalancer", "ingress"]), |i| match i.str_at(&["ip"]) {
            "" => i.str_at(&["hostname"]),
            ip => ip,
        })
        .into()
    }),
    col("Ports", |o| if list(o, &["spec", "tls"]).is_empty() { "80" } else { "80, 443" }.into()),
    AGE,
];
pub(super) static INGRESS_CLASS: &[Column] = &[
    NAME,
    col("Controller", |o| text(o, &["spec", "controller"], "")),
    col("Parameters", |o| match o.str_at(&["spec", "parameters", "name"]) {
        "" => "<none>".into(),
        name => format!("{}/{name}", o.str_at(&["spec", "parameters", "kind"])).into(),
    }),
    AGE,
];
pub(super) static NETPOL: &[Column] =
    &[NAME, col("Pod-Selector", |o| selector(o.at(&["spec", "podSelector"])).into()), AGE];
pub(super) static IP_ADDRESS: &[Column] = &[
    NAME,
    col("ParentRef", |o| {
        let r = |k: &str| o.str_at(&["spec", "parentRef", k]).to_owned();
        [r("resource"), r("namespace"), r("name")]
            .into_iter()
            .filter(|p| !p.is_empty())
            .collect::<Vec<_>>()
            .join("/")
            .into()
    }),
    AGE,
];
pub(super) static SERVICE_CIDR: &[Column] =
    &[NAME, col("CIDRs", |o| kinit_apimachinery::meta::strings(o.at(&["spec", "cidrs"])).join(",").into()), AGE];
pub(super) static PRIORITY: &[Column] = &[
    NAME,
    num("Value", |o| int(o, &["value"]).into()),
    col("Global-Default", |o| (o.get("globalDefault") == Some(&Value::Bool(true))).into()),
    AGE,
    col("PreemptionPolicy", |o| text(o, &["preemptionPolicy"], "")),
];
