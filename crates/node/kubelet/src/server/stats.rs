//! `/stats/summary` and `/metrics/resource`, from the runtime's figures and /proc.

use hyper::{Response, StatusCode};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::exposition::{Text, labels};
use super::usage::{Pods, Usage, node, pods};
use super::{Body, Server, text, typed};
use crate::node::facts;

fn described(usage: &Usage, now: &str) -> (Value, Value) {
    (
        json!({"time": now, "usageNanoCores": usage.nano_cores, "usageCoreNanoSeconds": usage.cpu}),
        json!({"time": now, "usageBytes": usage.memory, "workingSetBytes": usage.working_set, "rssBytes": usage.rss,
            "pageFaults": usage.faults.0, "majorPageFaults": usage.faults.1}),
    )
}

/// When something was made, or now where nobody knows.
fn start(usage: &Usage, now: &str) -> String {
    let made = Timestamp::from_nanosecond(i128::from(usage.made)).ok().filter(|_| usage.made > 0);
    made.map_or_else(|| now.to_owned(), |at| at.to_string())
}

/// `/stats/summary`.
pub async fn summary(server: &Server) -> Response<Body> {
    let pods = match pods(server).await {
        Ok(pods) => pods,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error),
    };
    let now = Timestamp::now().to_string();
    let pods: Vec<Value> = pods
        .into_iter()
        .map(|((namespace, name, uid), containers)| {
            let mut total = Usage::default();
            let list: Vec<Value> = containers
                .into_iter()
                .map(|(name, measured)| {
                    total.add(measured.usage);
                    let (cpu, memory) = described(&measured.usage, &now);
                    json!({"name": name, "startTime": start(&measured.usage, &now), "cpu": cpu, "memory": memory})
                })
                .collect();
            let (cpu, memory) = described(&total, &now);
            json!({"podRef": {"name": name, "namespace": namespace, "uid": uid}, "startTime": now, "containers": list, "cpu": cpu, "memory": memory})
        })
        .collect();
    let (cpu, memory) = described(&node(), &now);
    let fs = facts::disk(&server.kubelet.paths.root).map_or(Value::Null, |(total, free, inodes, inodes_free)| {
        json!({"time": now, "capacityBytes": total, "availableBytes": free, "usedBytes": total - free, "inodes": inodes, "inodesFree": inodes_free})
    });
    let body = json!({"node": {"nodeName": server.kubelet.node_name, "startTime": now, "cpu": cpu, "memory": memory, "fs": fs}, "pods": pods});
    typed(StatusCode::OK, "application/json", body.to_string())
}

/// `/metrics/resource`, what metrics-server scrapes (`pkg/kubelet/metrics/collectors/resource_metrics.go`).
pub async fn resource(server: &Server) -> Response<Body> {
    let (pods, failed) = match pods(server).await {
        Ok(pods) => (pods, false),
        Err(error) => {
            tracing::warn!(error, "read container statistics");
            (Pods::new(), true)
        }
    };
    let mut out = Text::at(Timestamp::now().as_millisecond());
    resource_families(&mut out, &pods, &node());
    out.single("resource_scrape_error", "gauge", f64::from(u8::from(failed)));
    out.answer()
}

fn seconds(usage: &Usage) -> f64 {
    usage.cpu as f64 / 1e9
}

fn memory(usage: &Usage) -> f64 {
    usage.working_set as f64
}

fn resource_families(out: &mut Text, pods: &Pods, node: &Usage) {
    let mut containers: Vec<(String, Usage)> = Vec::new();
    let mut totals: Vec<(String, Usage)> = Vec::new();
    for ((namespace, pod, _), list) in pods {
        let mut total = Usage::default();
        for (container, measured) in list {
            total.add(measured.usage);
            let of = [("container", container.as_str()), ("namespace", namespace), ("pod", pod)];
            containers.push((labels(&of), measured.usage));
        }
        totals.push((labels(&[("namespace", namespace), ("pod", pod)]), total));
    }
    let each = |list: &[(String, Usage)], of: fn(&Usage) -> f64| -> Vec<(String, f64)> {
        list.iter().map(|(labels, usage)| (labels.clone(), of(usage))).collect()
    };
    let mut family = |name: &str, kind: &str, samples: Vec<(String, f64)>| {
        out.family(name, kind, samples.iter().map(|(labels, value)| (labels.as_str(), *value)));
    };
    family("container_cpu_usage_seconds_total", "counter", each(&containers, seconds));
    family("container_memory_working_set_bytes", "gauge", each(&containers, memory));
    let started = containers.iter().filter(|(_, usage)| usage.made > 0);
    let started = started.map(|(labels, usage)| (labels.clone(), usage.made as f64 / 1e9)).collect();
    family("container_start_time_seconds", "gauge", started);
    family("node_cpu_usage_seconds_total", "counter", vec![(String::new(), seconds(node))]);
    family("node_memory_working_set_bytes", "gauge", vec![(String::new(), memory(node))]);
    family("pod_cpu_usage_seconds_total", "counter", each(&totals, seconds));
    family("pod_memory_working_set_bytes", "gauge", each(&totals, memory));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::usage::Measured;

    #[test]
    fn families_as_upstream() {
        let usage = |cpu: u64, made| Usage { cpu, working_set: 10, made, ..Usage::default() };
        let of = |usage| Measured { usage, ..Measured::default() };
        let list =
            [("a".to_owned(), of(usage(1_500_000_000, 2_000_000_000))), ("b".to_owned(), of(usage(500_000_000, 0)))];
        let pods: Pods = [(("ns".to_owned(), "p".to_owned(), "u".to_owned()), list.into())].into();
        let mut out = Text::at(9);
        resource_families(&mut out, &pods, &usage(3_000_000_000, 0));
        let text = out.text();
        for line in [
            "container_cpu_usage_seconds_total{container=\"a\",namespace=\"ns\",pod=\"p\"} 1.5 9",
            "container_start_time_seconds{container=\"a\",namespace=\"ns\",pod=\"p\"} 2 9",
            "pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"p\"} 2 9",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"p\"} 20 9",
            "node_cpu_usage_seconds_total 3 9",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert_eq!(text.matches("container_start_time_seconds{").count(), 1, "b's start is unknown");
    }
}
