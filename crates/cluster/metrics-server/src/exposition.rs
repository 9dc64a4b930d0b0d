//! A kubelet's `/metrics/resource` becomes points (metrics-server's `pkg/scraper/client/resource`).

use std::collections::BTreeMap;

use crate::storage::{Batch, PodPoints, Point};

/// The text is no exposition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the kubelet's metrics cannot be read: {text:?}")]
pub struct Unreadable {
    line: usize,
    text: String,
}

/// What a point is made of, one line each.
#[derive(Clone, Copy)]
enum Part {
    Cpu,
    Memory,
    Start,
}

/// Reads what `node` says; `now` (milliseconds) is the time of what has none. A node, or a pod with a container, of
/// which CPU or memory are unknown or zero is left out, as upstream does.
pub fn read(node: &str, text: &str, now: i64) -> Result<Batch, Unreadable> {
    let mut own = Point::default();
    let mut pods: BTreeMap<(String, String), BTreeMap<String, Point>> = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let unreadable = || Unreadable { line: index + 1, text: line.chars().take(120).collect() };
        let sample = Sample::parse(line, now).ok_or_else(unreadable)?;
        let part = match sample.name {
            "node_cpu_usage_seconds_total" | "container_cpu_usage_seconds_total" => Part::Cpu,
            "node_memory_working_set_bytes" | "container_memory_working_set_bytes" => Part::Memory,
            "container_start_time_seconds" => Part::Start,
            _ => continue,
        };
        if sample.name.starts_with("node_") {
            sample.put(part, &mut own);
            continue;
        }
        let (mut container, mut pod, mut namespace) = (None, None, None);
        for (key, value) in labels(sample.labels).ok_or_else(unreadable)? {
            match key {
                "container" => container = Some(value),
                "pod" => pod = Some(value),
                "namespace" => namespace = Some(value),
                _ => {}
            }
        }
        let (Some(container), Some(pod), Some(namespace)) = (container, pod, namespace) else { continue };
        sample.put(part, pods.entry((namespace, pod)).or_default().entry(container).or_default());
    }
    let whole = |point: &Point| point.cpu != 0 && point.memory != 0;
    let mut batch = Batch::default();
    if whole(&own) {
        batch.nodes.push((node.into(), own));
    }
    for ((namespace, name), containers) in pods {
        if containers.values().all(whole) {
            let containers: PodPoints = containers.into_iter().map(|(name, point)| (name.into(), point)).collect();
            batch.pods.push((format!("{namespace}/{name}").into(), containers));
        }
    }
    Ok(batch)
}

/// One line: `NAME{LABELS} VALUE [MILLISECONDS]`.
struct Sample<'a> {
    name: &'a str,
    labels: &'a str,
    value: f64,
    time: i64,
}

impl<'a> Sample<'a> {
    fn parse(line: &'a str, now: i64) -> Option<Self> {
        let (name, labels, rest) = match line.find(['{', ' ']) {
            Some(at) if line.as_bytes()[at] == b'{' => {
                let end = end_of_labels(&line[at..])?;
                (&line[..at], &line[at + 1..at + end], &line[at + end + 1..])
            }
            Some(at) => (&line[..at], "", &line[at..]),
            None => return None,
        };
        let mut numbers = rest.split_ascii_whitespace();
        let value = numbers.next()?.parse().ok()?;
        let time = match numbers.next() {
            Some(time) => time.parse().ok()?,
            None => now,
        };
        Some(Self { name, labels, value, time })
    }

    fn put(&self, part: Part, point: &mut Point) {
        match part {
            Part::Cpu => (point.cpu, point.time) = (whole(self.value * 1e9), self.time),
            Part::Memory => (point.memory, point.time) = (whole(self.value), self.time),
            Part::Start => point.start = i64::try_from(whole(self.value * 1e3)).unwrap_or(i64::MAX),
        }
    }
}

/// Below zero and what is no number is nothing; `as` saturates at the other end.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(value: f64) -> u64 {
    if value.is_finite() { value.max(0.0) as u64 } else { 0 }
}

/// Where the closing brace is: not within a quoted value.
fn end_of_labels(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

fn labels(mut text: &str) -> Option<Vec<(&str, String)>> {
    let mut out = Vec::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if text.is_empty() {
            return Some(out);
        }
        let (key, rest) = text.split_once("=\"")?;
        let (mut value, mut escaped, mut end) = (String::new(), false, None);
        for (at, c) in rest.char_indices() {
            match c {
                _ if escaped => {
                    value.push(if c == 'n' { '\n' } else { c });
                    escaped = false;
                }
                '\\' => escaped = true,
                '"' => {
                    end = Some(at);
                    break;
                }
                c => value.push(c),
            }
        }
        out.push((key.trim(), value));
        text = &rest[end? + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(cpu: u64, memory: u64, time: i64, start: i64) -> Point {
        Point { start, time, cpu, memory }
    }

    #[test]
    fn lines_become_points() {
        let text = "# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total 12.5 1000\n\
            node_memory_working_set_bytes 4096 1000\n\
            container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 1e-3 2000\n\
            container_memory_working_set_bytes{pod=\"p\",namespace=\"n\",container=\"c\"} 5\n\
            container_start_time_seconds{container=\"c\",namespace=\"n\",pod=\"p\"} 0.5 2000\n\
            container_cpu_usage_seconds_total{container=\"a}\\\"\",namespace=\"n\",pod=\"q\"} 1 2000\n\
            pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\"} 1 2000\nresource_scrape_error 0\n";
        let batch = read("n1", text, 7000).unwrap();
        assert_eq!(batch.nodes, [("n1".into(), point(12_500_000_000, 4096, 1000, 0))]);
        let expected: PodPoints = vec![("c".into(), point(1_000_000, 5, 7000, 500))];
        assert_eq!(batch.pods, [("n/p".into(), expected)], "q has no memory");
    }

    #[test]
    fn what_is_no_exposition() {
        for text in ["<html>", "a{b=\"c} 1", "a 1x", "a 1 2x", "a{b=\"c\"}", "container_cpu_usage_seconds_total{b} 1"] {
            assert!(read("n", text, 0).is_err(), "{text}");
        }
        for text in ["", "a NaN", "node_cpu_usage_seconds_total -1\nnode_memory_working_set_bytes +Inf", "a{} 1"] {
            assert_eq!(read("n", text, 0).unwrap().nodes, [], "{text}");
        }
    }
}
