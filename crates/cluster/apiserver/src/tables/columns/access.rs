//! Leases, certificates, roles and their bindings.

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::{AGE, NAME, col, wide};
use crate::tables::Column;
use crate::tables::values::{condition, human, int, list, text};

pub(super) static LEASE: &[Column] = &[NAME, col("Holder", |o| text(o, &["spec", "holderIdentity"], "")), AGE];
fn csr_condition(o: &Value) -> Value {
    let has = |kind: &str| condition(o, kind).is_some();
    let mut out = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        out.push_str(",Failed");
    }
    if !o.str_at(&["status", "certificate"]).is_empty() {
        out.push_str(",Issued");
    }
    out.into()
}
pub(super) static CSR: &[Column] = &[
    NAME,
    AGE,
    col("SignerName", |o| text(o, &["spec", "signerName"], "<none>")),
    col("Requestor", |o| text(o, &["spec", "username"], "")),
    col("RequestedDuration", |o| match int(o, &["spec", "expirationSeconds"]) {
        0 => "<none>".into(),
        seconds => human(seconds).into(),
    }),
    col("Condition", csr_condition),
];
pub(super) static ROLE: &[Column] = &[NAME, col("Created At", |o| text(o, &["metadata", "creationTimestamp"], ""))];
fn subjects(o: &Value, kind: &str) -> Value {
    list(o, &["subjects"])
        .iter()
        .filter(|s| s.str_at(&["kind"]) == kind)
        .map(|s| match kind {
            "ServiceAccount" => format!("{}/{}", s.str_at(&["namespace"]), s.str_at(&["name"])),
            _ => s.str_at(&["name"]).to_owned(),
        })
        .collect::<Vec<_>>()
        .join(", ")
        .into()
}
pub(super) static BINDING: &[Column] = &[
    NAME,
    col("Role", |o| format!("{}/{}", o.str_at(&["roleRef", "kind"]), o.str_at(&["roleRef", "name"])).into()),
    AGE,
    wide("Users", |o| subjects(o, "User")),
    wide("Groups", |o| subjects(o, "Group")),
    wide("ServiceAccounts", |o| subjects(o, "ServiceAccount")),
];

pub(super) static CRD: &[Column] = &[NAME, col("Created At", |o| text(o, &["metadata", "creationTimestamp"], ""))];

/// The columns of `pkg/registry/apiservice`'s `ConvertToTable`.
pub(super) static API_SERVICE: &[Column] = &[
    NAME,
    col("Service", |o| match o.at(&["spec", "service"]).filter(|s| s.is_object()) {
        None => "Local".into(),
        Some(service) => format!("{}/{}", service.str_at(&["namespace"]), service.str_at(&["name"])).into(),
    }),
    col("Available", |o| match condition(o, "Available") {
        None => "Unknown".into(),
        Some(c) if c.str_at(&["status"]) == "True" => "True".into(),
        Some(c) => format!("{} ({})", c.str_at(&["status"]), c.str_at(&["reason"])).into(),
    }),
    AGE,
];
