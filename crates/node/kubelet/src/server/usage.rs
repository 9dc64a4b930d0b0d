//! What containers, pods and the machine use: the runtime's figures and /proc.

use std::collections::{BTreeMap, HashMap};

use kinit_cri::v1::{Container, ContainerStats, ListContainerStatsRequest, ListContainersRequest, UInt64Value};

use super::Server;
use crate::names;
use crate::node::facts;

/// CPU and memory of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in nanoseconds.
    pub cpu: u64,
    /// CPU in use now, in billionths of a core.
    pub nano_cores: Option<u64>,
    /// Memory that is not easily given back, in bytes.
    pub working_set: u64,
    /// All memory.
    pub memory: u64,
    /// Resident set.
    pub rss: u64,
    /// Page faults, and those of them that were read from disk.
    pub faults: (u64, u64),
    /// What it has written to its own layer: bytes and inodes.
    pub layer: (u64, u64),
    /// When it was made, in nanoseconds since 1970; 0 where that is unknown.
    pub made: i64,
}

impl Usage {
    /// Adds what another uses.
    pub fn add(&mut self, other: Self) {
        self.cpu += other.cpu;
        self.nano_cores = match (self.nano_cores, other.nano_cores) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        self.working_set += other.working_set;
        self.memory += other.memory;
        self.rss += other.rss;
        self.faults = (self.faults.0 + other.faults.0, self.faults.1 + other.faults.1);
        self.layer = (self.layer.0 + other.layer.0, self.layer.1 + other.layer.1);
    }
}

fn number(value: Option<&UInt64Value>) -> u64 {
    value.map_or(0, |v| v.value)
}

fn usage(stats: &ContainerStats, made: i64) -> Usage {
    let (cpu, memory, layer) = (stats.cpu.as_ref(), stats.memory.as_ref(), stats.writable_layer.as_ref());
    Usage {
        cpu: number(cpu.and_then(|c| c.usage_core_nano_seconds.as_ref())),
        nano_cores: cpu.and_then(|c| c.usage_nano_cores.as_ref()).map(|v| v.value),
        working_set: number(memory.and_then(|m| m.working_set_bytes.as_ref())),
        memory: number(memory.and_then(|m| m.usage_bytes.as_ref())),
        rss: number(memory.and_then(|m| m.rss_bytes.as_ref())),
        faults: (
            number(memory.and_then(|m| m.page_faults.as_ref())),
            number(memory.and_then(|m| m.major_page_faults.as_ref())),
        ),
        layer: (number(layer.and_then(|l| l.used_bytes.as_ref())), number(layer.and_then(|l| l.inodes_used.as_ref()))),
        made,
    }
}

/// The whole machine: /proc/stat, /proc/meminfo and /proc/vmstat.
pub fn node() -> Usage {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let stat = read("/proc/stat");
    let ticks: Vec<u64> =
        stat.lines().next().unwrap_or("").split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user, nice, system, irq, softirq, steal; not idle and iowait.
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|i| ticks.get(*i)).sum();
    let bytes = |field: &str| facts::meminfo(field).and_then(|b| u64::try_from(b).ok()).unwrap_or(0);
    let used = bytes("MemTotal").saturating_sub(bytes("MemAvailable"));
    let vmstat = read("/proc/vmstat");
    let count = |name: &str| {
        let line = vmstat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    Usage {
        cpu: busy * 10_000_000,
        working_set: used,
        memory: bytes("MemTotal").saturating_sub(bytes("MemFree")),
        rss: bytes("AnonPages"),
        faults: (count("pgfault"), count("pgmajfault")),
        ..Usage::default()
    }
}

/// One container of a pod.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// What it uses.
    pub usage: Usage,
    /// Its id.
    pub id: String,
    /// Its image, as the runtime names it.
    pub image: String,
}

/// A pod: namespace, name and uid.
pub type PodKey = (String, String, String);
/// Pods' containers by name.
pub type Pods = BTreeMap<PodKey, BTreeMap<String, Measured>>;

/// The pod that labels of the runtime name.
pub fn pod_of(labels: &BTreeMap<String, String>) -> PodKey {
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    (label(names::POD_NAMESPACE), label(names::POD_NAME), label(names::POD_UID))
}

/// What containers use. Of several lives of a container the last one counts, and none that is over.
pub async fn pods(server: &Server) -> Result<Pods, String> {
    let runtime = &server.kubelet.runtime;
    let stats = runtime.list_container_stats(ListContainerStatsRequest::default()).await.map_err(|e| e.to_string())?;
    let known = runtime.list_containers(ListContainersRequest::default()).await.map_err(|e| e.to_string())?;
    Ok(sorted(&stats.stats, &known.containers))
}

fn sorted(stats: &[ContainerStats], known: &[Container]) -> Pods {
    let known: HashMap<&str, &Container> = known.iter().map(|c| (c.id.as_str(), c)).collect();
    let mut out = Pods::new();
    let mut attempts: HashMap<(PodKey, String), u32> = HashMap::new();
    for stats in stats {
        let Some(attributes) = &stats.attributes else { continue };
        // One that is over has no figures.
        if stats.cpu.is_none() && stats.memory.is_none() {
            continue;
        }
        let pod = pod_of(&attributes.labels);
        let name = attributes.labels.get(names::CONTAINER_NAME).cloned().unwrap_or_default();
        let attempt = attributes.metadata.as_ref().map_or(0, |m| m.attempt);
        let seen = attempts.entry((pod.clone(), name.clone())).or_insert(attempt);
        if *seen > attempt {
            continue;
        }
        *seen = attempt;
        let found = known.get(attributes.id.as_str());
        let measured = Measured {
            usage: usage(stats, found.map_or(0, |c| c.created_at)),
            id: attributes.id.clone(),
            image: found.and_then(|c| c.image.as_ref()).map(|i| i.image.clone()).unwrap_or_default(),
        };
        out.entry(pod).or_default().insert(name, measured);
    }
    out
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use kinit_cri::v1::{ContainerAttributes, ContainerMetadata, CpuUsage};

    fn stats(id: &str, attempt: u32, cpu: Option<u64>) -> ContainerStats {
        let labels = [(names::POD_NAMESPACE, "n"), (names::POD_NAME, "p"), (names::CONTAINER_NAME, "c")];
        let attributes = ContainerAttributes {
            id: id.to_owned(),
            metadata: Some(ContainerMetadata { name: "c".to_owned(), attempt }),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..Default::default()
        };
        let cpu =
            cpu.map(|value| CpuUsage { usage_core_nano_seconds: Some(UInt64Value { value }), ..Default::default() });
        ContainerStats { attributes: Some(attributes), cpu, ..Default::default() }
    }

    #[test]
    fn the_last_life_counts() {
        let known = [Container { id: "b".to_owned(), created_at: 7, ..Default::default() }];
        for list in [
            vec![stats("a", 0, None), stats("b", 1, Some(5))],
            vec![stats("b", 1, Some(5)), stats("a", 0, None)],
            vec![stats("b", 1, Some(5)), stats("a", 0, Some(9))],
            vec![stats("a", 0, Some(9)), stats("b", 1, Some(5))],
        ] {
            let pods = sorted(&list, &known);
            let measured = &pods[&("n".to_owned(), "p".to_owned(), String::new())]["c"];
            assert_eq!((measured.usage.cpu, measured.usage.made, measured.id.as_str()), (5, 7, "b"));
        }
        assert!(sorted(&[stats("a", 0, None)], &known).is_empty());
    }
}
