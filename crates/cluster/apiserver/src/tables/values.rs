//! Small values of cells.

use jiff::Timestamp;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::time;
use serde_json::Value;

pub fn name(o: &Value) -> Value {
    o.name().into()
}

/// The age in kubectl's short form.
pub fn age(o: &Value) -> Value {
    since(o.str_at(&["metadata", "creationTimestamp"])).into()
}

/// How long ago, or `<unknown>`.
pub fn since(text: &str) -> String {
    match time::parse(text) {
        Some(at) => human(Timestamp::now().as_second() - at.as_second()),
        None => "<unknown>".into(),
    }
}

/// `k8s.io/apimachinery/pkg/util/duration.HumanDuration`.
pub fn human(seconds: i64) -> String {
    let (s, m, h, d) = (seconds, seconds / 60, seconds / 3600, seconds / 86400);
    match s {
        ..-1 => "<invalid>".into(),
        -1..0 => "0s".into(),
        0..120 => format!("{s}s"),
        120..600 => two(m, "m", s % 60, "s"),
        600..10_800 => format!("{m}m"),
        10_800..28_800 => two(h, "h", m % 60, "m"),
        28_800..172_800 => format!("{h}h"),
        172_800..691_200 => two(d, "d", h % 24, "h"),
        691_200..63_072_000 => format!("{d}d"),
        63_072_000..252_288_000 => two(d / 365, "y", d % 365, "d"),
        _ => format!("{}y", d / 365),
    }
}

fn two(a: i64, unit_a: &str, b: i64, unit_b: &str) -> String {
    if b == 0 { format!("{a}{unit_a}") } else { format!("{a}{unit_a}{b}{unit_b}") }
}

pub fn text(o: &Value, path: &[&str], absent: &str) -> Value {
    match o.str_at(path) {
        "" => absent.into(),
        s => s.into(),
    }
}

pub fn int(o: &Value, path: &[&str]) -> i64 {
    o.at(path).and_then(Value::as_i64).unwrap_or(0)
}

pub fn list<'a>(o: &'a Value, path: &[&str]) -> &'a [Value] {
    o.at(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub fn size(o: &Value, path: &[&str]) -> i64 {
    match o.at(path) {
        Some(Value::Object(m)) => m.len() as i64,
        Some(Value::Array(a)) => a.len() as i64,
        _ => 0,
    }
}

pub fn joined(items: &[Value], pick: impl Fn(&Value) -> &str) -> String {
    items.iter().map(pick).filter(|s| !s.is_empty()).collect::<Vec<_>>().join(",")
}

pub fn labels(map: Option<&Value>) -> String {
    let mut parts: Vec<String> = map
        .and_then(Value::as_object)
        .map(|m| m.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect())
        .unwrap_or_default();
    parts.sort();
    if parts.is_empty() { "<none>".into() } else { parts.join(",") }
}

pub fn selector(o: Option<&Value>) -> String {
    let Some(o) = o else { return "<none>".into() };
    let mut parts = Vec::new();
    let labels = labels(o.get("matchLabels"));
    if labels != "<none>" {
        parts.push(labels);
    }
    for term in o.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let values = kinit_apimachinery::meta::strings(term.get("values")).join(",");
        let key = term.str_at(&["key"]);
        parts.push(match term.str_at(&["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    if parts.is_empty() { "<none>".into() } else { parts.join(",") }
}

pub fn condition<'a>(o: &'a Value, kind: &str) -> Option<&'a Value> {
    list(o, &["status", "conditions"]).iter().find(|c| c.str_at(&["type"]) == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn human_durations() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (185, "3m5s"),
            (700, "11m"),
            (10_800, "3h"),
            (12_000, "3h20m"),
            (100_000, "27h"),
            (200_000, "2d7h"),
            (800_000, "9d"),
        ] {
            assert_eq!(human(seconds), text, "{seconds}");
        }
    }
}
