//! `/stats/summary` and `/metrics/resource`, from the runtime's figures and /proc.

use std::collections::BTreeMap;
use std::fmt::Write;

use hyper::{Response, StatusCode};
use k8s_openapi::jiff::Timestamp;
use kinit_cri::v1::{ContainerStats, ListContainerStatsRequest};
use serde_json::{Value, json};

use super::{Body, Server, text, typed};
use crate::names;
use crate::node::facts;

/// CPU and memory of something.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    /// CPU time in nanoseconds.
    cpu: u64,
    /// CPU in use now, in billionths of a core.
    nano_cores: Option<u64>,
    /// Memory that is not easily given back, in bytes.
    working_set: u64,
    /// All memory.
    memory: u64,
    /// Resident set.
    rss: u64,
}

impl Usage {
    fn add(&mut self, other: Self) {
        self.cpu += other.cpu;
        self.nano_cores = match (self.nano_cores, other.nano_cores) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        self.working_set += other.working_set;
        self.memory += other.memory;
        self.rss += other.rss;
    }

    fn json(&self, now: &str) -> (Value, Value) {
        (
            json!({"time": now, "usageNanoCores": self.nano_cores, "usageCoreNanoSeconds": self.cpu}),
            json!({"time": now, "usageBytes": self.memory, "workingSetBytes": self.working_set, "rssBytes": self.rss}),
        )
    }
}

fn usage(stats: &ContainerStats) -> Usage {
    let value = |v: Option<&kinit_cri::v1::UInt64Value>| v.map(|v| v.value);
    let (cpu, memory) = (stats.cpu.as_ref(), stats.memory.as_ref());
    Usage {
        cpu: value(cpu.and_then(|c| c.usage_core_nano_seconds.as_ref())).unwrap_or(0),
        nano_cores: value(cpu.and_then(|c| c.usage_nano_cores.as_ref())),
        working_set: value(memory.and_then(|m| m.working_set_bytes.as_ref())).unwrap_or(0),
        memory: value(memory.and_then(|m| m.usage_bytes.as_ref())).unwrap_or(0),
        rss: value(memory.and_then(|m| m.rss_bytes.as_ref())).unwrap_or(0),
    }
}

/// The whole machine: /proc/stat and /proc/meminfo.
fn node() -> Usage {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<u64> =
        stat.lines().next().unwrap_or("").split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user, nice, system, irq, softirq, steal; not idle and iowait.
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|i| ticks.get(*i)).sum();
    let bytes = |field: &str| facts::meminfo(field).and_then(|b| u64::try_from(b).ok()).unwrap_or(0);
    let used = bytes("MemTotal").saturating_sub(bytes("MemAvailable"));
    Usage {
        cpu: busy * 10_000_000,
        nano_cores: None,
        working_set: used,
        memory: bytes("MemTotal").saturating_sub(bytes("MemFree")),
        rss: bytes("AnonPages"),
    }
}

type Pods = BTreeMap<(String, String, String), BTreeMap<String, Usage>>;

async fn pods(server: &Server) -> Result<Pods, String> {
    let answer = server
        .kubelet
        .runtime
        .list_container_stats(ListContainerStatsRequest::default())
        .await
        .map_err(|e| e.to_string())?;
    let mut out = Pods::new();
    for stats in &answer.stats {
        let Some(attributes) = &stats.attributes else { continue };
        let label = |name: &str| attributes.labels.get(name).cloned().unwrap_or_default();
        let pod = (label(names::POD_NAMESPACE), label(names::POD_NAME), label(names::POD_UID));
        out.entry(pod).or_default().insert(label(names::CONTAINER_NAME), usage(stats));
    }
    Ok(out)
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
                .map(|(name, usage)| {
                    total.add(usage);
                    let (cpu, memory) = usage.json(&now);
                    json!({"name": name, "startTime": now, "cpu": cpu, "memory": memory})
                })
                .collect();
            let (cpu, memory) = total.json(&now);
            json!({"podRef": {"name": name, "namespace": namespace, "uid": uid}, "startTime": now, "containers": list, "cpu": cpu, "memory": memory})
        })
        .collect();
    let (cpu, memory) = node().json(&now);
    let fs = facts::disk(&server.kubelet.paths.root).map_or(Value::Null, |(total, free, inodes, inodes_free)| {
        json!({"time": now, "capacityBytes": total, "availableBytes": free, "usedBytes": total - free, "inodes": inodes, "inodesFree": inodes_free})
    });
    let body = json!({"node": {"nodeName": server.kubelet.node_name, "startTime": now, "cpu": cpu, "memory": memory, "fs": fs}, "pods": pods});
    typed(StatusCode::OK, "application/json", body.to_string())
}

/// `/metrics/resource`, what metrics-server scrapes.
pub async fn resource(server: &Server) -> Response<Body> {
    let (pods, failed) = match pods(server).await {
        Ok(pods) => (pods, 0),
        Err(error) => {
            tracing::warn!(error, "read container statistics");
            (Pods::new(), 1)
        }
    };
    let now = Timestamp::now().as_millisecond();
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, lines: Vec<(String, f64)>| {
        let _ = writeln!(out, "# TYPE {name} {kind}");
        for (labels, value) in lines {
            let _ = writeln!(out, "{name}{labels} {value} {now}");
        }
    };
    let seconds = |u: &Usage| u.cpu as f64 / 1e9;
    let each = |f: &dyn Fn(&Usage) -> f64| -> Vec<(String, f64)> {
        pods.iter()
            .flat_map(|((ns, pod, _), list)| {
                list.iter().map(move |(c, u)| (format!("{{container=\"{c}\",namespace=\"{ns}\",pod=\"{pod}\"}}"), f(u)))
            })
            .collect()
    };
    let sums = |f: &dyn Fn(&Usage) -> f64| -> Vec<(String, f64)> {
        pods.iter()
            .map(|((ns, pod, _), list)| (format!("{{namespace=\"{ns}\",pod=\"{pod}\"}}"), list.values().map(f).sum()))
            .collect()
    };
    let memory = |u: &Usage| u.working_set as f64;
    family("container_cpu_usage_seconds_total", "counter", each(&seconds));
    family("container_memory_working_set_bytes", "gauge", each(&memory));
    family("node_cpu_usage_seconds_total", "counter", vec![(String::new(), seconds(&node()))]);
    family("node_memory_working_set_bytes", "gauge", vec![(String::new(), memory(&node()))]);
    family("pod_cpu_usage_seconds_total", "counter", sums(&seconds));
    family("pod_memory_working_set_bytes", "gauge", sums(&memory));
    let _ = writeln!(out, "# TYPE resource_scrape_error gauge\nresource_scrape_error {failed}");
    typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", out)
}
