//! NodeMetrics, PodMetrics, their lists and Tables as JSON. Lists are written item by item: what ten thousand pods use
//! is never held as a tree.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kinit_apimachinery::quantity::Quantity;
use kinit_apimachinery::time;
use serde_json::{Map, Value, json};

use super::request::Kind;
use crate::known::Known;
use crate::storage::{Usage, When};

const API_VERSION: &str = "metrics.k8s.io/v1beta1";

/// Something of which the use is known.
pub struct Measured<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its name and labels.
    pub known: Arc<Known>,
    /// What its containers use; of a node one entry.
    pub containers: Vec<(&'a str, Usage)>,
    /// When that was.
    pub when: When,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Plain,
    /// As a Table of this version of `meta.k8s.io`.
    Table(&'static str, Include),
}

/// What of the object stands in a Table's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

/// The first acceptable form (`NegotiateMediaTypeOptions`).
pub fn form(accept: &str, include: &str) -> Option<Form> {
    if accept.trim().is_empty() {
        return Some(Form::Plain);
    }
    let include = match include {
        "None" => Include::None,
        "Object" => Include::Object,
        _ => Include::Metadata,
    };
    accept.split(',').find_map(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
            return None;
        }
        let (mut kind, mut group, mut version) = ("", "", "");
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match key.trim() {
                "as" => kind = value.trim(),
                "g" => group = value.trim(),
                "v" => version = value.trim(),
                _ => {}
            }
        }
        match (kind, group, version) {
            ("", _, _) => Some(Form::Plain),
            ("Table", "meta.k8s.io", "v1") => Some(Form::Table("meta.k8s.io/v1", include)),
            ("Table", "meta.k8s.io", "v1beta1") => Some(Form::Table("meta.k8s.io/v1beta1", include)),
            _ => None,
        }
    })
}

/// One object.
pub fn one(measured: &Measured<'_>, form: Form, now: Timestamp) -> String {
    match form {
        Form::Plain => object(measured, now).to_string(),
        Form::Table(version, include) => table(version, std::iter::once(row(measured, include, now))),
    }
}

/// A list.
pub fn list<'a>(kind: Kind, all: impl Iterator<Item = Measured<'a>>, form: Form, now: Timestamp) -> String {
    match form {
        Form::Plain => {
            let start =
                json!({"kind": format!("{}List", kind.name()), "apiVersion": API_VERSION, "metadata": {}, "items": []});
            filled(&start, all.map(|measured| object(&measured, now)))
        }
        Form::Table(version, include) => table(version, all.map(|measured| row(&measured, include, now))),
    }
}

/// A document that ends with an empty list, with these in it.
fn filled(document: &Value, items: impl Iterator<Item = Value>) -> String {
    let mut out = document.to_string();
    out.truncate(out.len() - 2);
    for (index, item) in items.enumerate() {
        // Writing to a String does not fail.
        let _ = write!(out, "{}{item}", if index > 0 { "," } else { "" });
    }
    out.push_str("]}");
    out
}

/// The columns that metrics-server has.
fn table(version: &str, rows: impl Iterator<Item = Value>) -> String {
    let column = |name: &str, format: &str, text: &str| json!({"name": name, "type": "string", "format": format, "description": text, "priority": 0});
    let columns = [
        column("Name", "name", "Name of the resource"),
        column("cpu", "quantity", ""),
        column("memory", "quantity", ""),
        column("Window", "duration", ""),
    ];
    let start =
        json!({"kind": "Table", "apiVersion": version, "metadata": {}, "columnDefinitions": columns, "rows": []});
    filled(&start, rows)
}

fn row(measured: &Measured<'_>, include: Include, now: Timestamp) -> Value {
    let total = measured.containers.iter().fold(Usage { nano_cores: 0, memory: 0 }, |sum, (_, usage)| Usage {
        nano_cores: sum.nano_cores.saturating_add(usage.nano_cores),
        memory: sum.memory.saturating_add(usage.memory),
    });
    let cells =
        [measured.known.name.clone(), cpu(total.nano_cores), memory(total.memory), duration(measured.when.window)];
    let object = match include {
        Include::None => Value::Null,
        Include::Object => object(measured, now),
        Include::Metadata => {
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta(measured, now)})
        }
    };
    json!({"cells": cells, "object": object})
}

fn object(measured: &Measured<'_>, now: Timestamp) -> Value {
    let mut out = json!({"kind": measured.kind.name(), "apiVersion": API_VERSION, "metadata": meta(measured, now),
        "timestamp": time::format(Timestamp::from_millisecond(measured.when.time).unwrap_or(now)),
        "window": duration(measured.when.window)});
    let usage = |usage: &Usage| json!({"cpu": cpu(usage.nano_cores), "memory": memory(usage.memory)});
    match measured.kind {
        Kind::Node => out["usage"] = measured.containers.first().map(|(_, u)| usage(u)).unwrap_or_default(),
        Kind::Pod => {
            let containers = measured.containers.iter().map(|(name, u)| json!({"name": name, "usage": usage(u)}));
            out["containers"] = containers.collect();
        }
    }
    out
}

fn meta(measured: &Measured<'_>, now: Timestamp) -> Value {
    let known = &measured.known;
    let mut out = json!({"name": known.name});
    if !known.namespace.is_empty() {
        out["namespace"] = known.namespace.as_str().into();
    }
    out["creationTimestamp"] = time::format(now).into();
    if !known.labels.is_empty() {
        let labels: Map<String, Value> = known.labels.iter().map(|(k, v)| (k.to_string(), (**v).into())).collect();
        out["labels"] = labels.into();
    }
    out
}

fn cpu(nano_cores: u64) -> String {
    canonical(format!("{nano_cores}n"))
}

/// In powers of 1024 where it is one's multiple.
fn memory(bytes: u64) -> String {
    match bytes % 1024 {
        0 if bytes > 0 => canonical(format!("{}Ki", bytes / 1024)),
        _ => bytes.to_string(),
    }
}

fn canonical(text: String) -> String {
    match text.parse::<Quantity>() {
        Ok(quantity) => quantity.to_string(),
        Err(_) => text,
    }
}

/// As Go writes a duration.
fn duration(duration: Duration) -> String {
    let nanos = i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    kinit_apimachinery::duration::format(jiff::SignedDuration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::known::tests::known;

    fn measured(kind: Kind, containers: Vec<(&str, Usage)>) -> Measured<'_> {
        let namespace = if kind == Kind::Pod { "ns" } else { "" };
        let when = When { time: 1_767_225_600_500, window: Duration::from_millis(15_012) };
        Measured { kind, known: Arc::new(known(namespace, "x", &[("a", "b")])), containers, when }
    }

    fn usage(nano_cores: u64, memory: u64) -> Usage {
        Usage { nano_cores, memory }
    }

    #[test]
    fn amounts_are_canonical() {
        for (nano, bytes, c, m) in [
            (0, 0, "0", "0"),
            (1_000_000, 1024, "1m", "1Ki"),
            (1_234_567, 1_048_576, "1234567n", "1Mi"),
            (2_000_000_000, 1000, "2", "1000"),
        ] {
            assert_eq!((cpu(nano), memory(bytes)), (c.to_owned(), m.to_owned()));
        }
        for (millis, text) in
            [(0, "0s"), (15_000, "15s"), (15_012, "15.012s"), (61_500, "1m1.5s"), (3_600_000, "1h0m0s"), (250, "250ms")]
        {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn forms() {
        let table = |v| Some(Form::Table(v, Include::Metadata));
        for (accept, expected) in [
            ("", Some(Form::Plain)),
            ("*/*", Some(Form::Plain)),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Form::Plain)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", table("meta.k8s.io/v1")),
            (
                "application/json;as=Table;v=v9;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io",
                table("meta.k8s.io/v1beta1"),
            ),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/html", None),
        ] {
            assert_eq!(form(accept, ""), expected, "{accept}");
        }
        assert_eq!(
            form("application/json;as=Table;v=v1;g=meta.k8s.io", "Object"),
            Some(Form::Table("meta.k8s.io/v1", Include::Object))
        );
    }

    #[test]
    fn objects_and_tables() {
        let now: Timestamp = "2026-01-01T00:00:05Z".parse().unwrap();
        let pod = || measured(Kind::Pod, vec![("c", usage(1_500_000, 2048)), ("d", usage(500_000, 1024))]);
        let expected = json!({"kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
            "metadata": {"name": "x", "namespace": "ns", "creationTimestamp": "2026-01-01T00:00:05Z", "labels": {"a": "b"}},
            "timestamp": "2026-01-01T00:00:00Z", "window": "15.012s",
            "containers": [{"name": "c", "usage": {"cpu": "1500u", "memory": "2Ki"}}, {"name": "d", "usage": {"cpu": "500u", "memory": "1Ki"}}]});
        let parsed = |text: String| serde_json::from_str::<Value>(&text).unwrap();
        assert_eq!(parsed(one(&pod(), Form::Plain, now)), expected);
        let listed = parsed(list(Kind::Pod, [pod(), pod()].into_iter(), Form::Plain, now));
        assert_eq!((&listed["kind"], &listed["items"]), (&json!("PodMetricsList"), &json!([expected, expected])));
        let table = parsed(list(Kind::Pod, [pod()].into_iter(), Form::Table("meta.k8s.io/v1", Include::None), now));
        assert_eq!(table["rows"], json!([{"cells": ["x", "2m", "3Ki", "15.012s"], "object": null}]));
        let empty = parsed(list(Kind::Node, std::iter::empty(), Form::Plain, now));
        assert_eq!(empty["items"], json!([]));
        let node = parsed(one(&measured(Kind::Node, vec![("", usage(1, 1))]), Form::Plain, now));
        assert_eq!((&node["usage"]["cpu"], &node["metadata"]["namespace"]), (&json!("1n"), &Value::Null));
    }
}
