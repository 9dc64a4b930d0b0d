//! Priority and fairness.

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::{AGE, NAME, col};
use crate::tables::Column;
use crate::tables::values::{condition, int, text};

pub(super) static SCHEMA: &[Column] = &[
    NAME,
    col("PriorityLevel", |o| text(o, &["spec", "priorityLevelConfiguration", "name"], "")),
    col("MatchingPrecedence", |o| int(o, &["spec", "matchingPrecedence"]).into()),
    col("DistinguisherMethod", |o| text(o, &["spec", "distinguisherMethod", "type"], "<none>")),
    AGE,
    col("MissingPL", |o| match condition(o, "Dangling") {
        None => "?".into(),
        Some(c) => c.str_at(&["status"]).into(),
    }),
];

fn number(o: &Value, path: &[&str]) -> Value {
    match o.at(path).filter(|v| v.is_i64()) {
        Some(value) => value.clone(),
        None => "<none>".into(),
    }
}

pub(super) static LEVEL: &[Column] = &[
    NAME,
    col("Type", |o| text(o, &["spec", "type"], "")),
    col("NominalConcurrencyShares", |o| number(o, &["spec", "limited", "nominalConcurrencyShares"])),
    col("Queues", |o| number(o, &["spec", "limited", "limitResponse", "queuing", "queues"])),
    col("HandSize", |o| number(o, &["spec", "limited", "limitResponse", "queuing", "handSize"])),
    col("QueueLengthLimit", |o| number(o, &["spec", "limited", "limitResponse", "queuing", "queueLengthLimit"])),
    AGE,
];
