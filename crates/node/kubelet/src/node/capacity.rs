//! What the node has and what of it pods may have. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeStatus;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::facts::Machine;
use crate::config::KubeletConfig;
use crate::pod::admit::fit::{Room, is_extended};
use crate::quantity;
use crate::resources::Asked;

/// Amounts by resource.
pub type Amounts = BTreeMap<String, Quantity>;

const EVICTION_SIGNALS: [(&str, &str); 3] =
    [("cpu", ""), ("memory", "memory.available"), ("ephemeral-storage", "nodefs.available")];

/// All there is; `disk` is the size of the file system of the kubelet's directory in bytes.
pub fn capacity(config: &KubeletConfig, machine: &Machine, disk: u64) -> Amounts {
    [
        ("cpu", machine.cpus.to_string()),
        ("memory", format!("{}Ki", machine.memory / 1024)),
        ("pods", config.max_pods.to_string()),
        ("ephemeral-storage", format!("{}Ki", disk / 1024)),
        ("hugepages-1Gi", "0".to_owned()),
        ("hugepages-2Mi", "0".to_owned()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), Quantity(v)))
    .collect()
}

/// Capacity less what is reserved, and less the eviction thresholds.
pub fn allocatable(config: &KubeletConfig, capacity: &Amounts) -> Amounts {
    let mut out = capacity.clone();
    for (resource, signal) in EVICTION_SIGNALS {
        let Some(total) = capacity.get(resource).and_then(|q| quantity::milli(&q.0)) else { continue };
        let left = left(config, resource, signal, total);
        let text = match resource {
            "cpu" if left % 1000 == 0 => (left / 1000).to_string(),
            "cpu" => format!("{left}m"),
            "memory" => format!("{}Ki", left / 1000 / 1024),
            _ => (left / 1000).to_string(),
        };
        out.insert(resource.to_owned(), Quantity(text));
    }
    out
}

/// Extended resources in the API's capacity that nobody on the node speaks for (`nodestatus.MachineInfo`): all of them
/// may be had.
pub fn extended(known: &NodeStatus, own: &Amounts) -> Amounts {
    let foreign = known.capacity.iter().flatten().filter(|(name, _)| is_extended(name) && !own.contains_key(*name));
    foreign.map(|(name, amount)| (name.clone(), amount.clone())).collect()
}

/// What pods have room in; `known` is the node's status as the API has it.
pub fn room(config: &KubeletConfig, machine: &Machine, disk: u64, known: Option<&NodeStatus>) -> Room {
    let mut amounts = allocatable(config, &capacity(config, machine, disk));
    let others = known.into_iter().flat_map(|s| s.allocatable.iter().flatten()).filter(|(name, _)| is_extended(name));
    amounts.extend(others.map(|(name, amount)| (name.clone(), amount.clone())));
    let units = |q: &Quantity| quantity::units(&q.0).map_or(0, i128::from);
    let of = |name: &str| amounts.get(name).map_or(0, units);
    let pods = of("pods");
    let asked = allocatable_of(config, machine);
    let others = amounts.iter().filter(|(name, _)| !matches!(name.as_str(), "cpu" | "memory" | "pods"));
    Room { asked, pods, others: others.map(|(name, amount)| (name.clone(), units(amount))).collect() }
}

/// CPU and memory that pods may have in all.
pub fn allocatable_of(config: &KubeletConfig, machine: &Machine) -> Asked {
    Asked {
        cpu: left(config, "cpu", "", i128::from(machine.cpus) * 1000),
        memory: left(config, "memory", "memory.available", i128::from(machine.memory) * 1000) / 1000,
    }
}

/// Bytes of the node's file system that pods may have; `disk` is its size.
pub fn allocatable_storage(config: &KubeletConfig, disk: u64) -> i128 {
    left(config, "ephemeral-storage", "nodefs.available", i128::from(disk) * 1000) / 1000
}

/// CPU and memory less what is reserved: what the cgroup of all pods gets. Eviction thresholds are not taken off, so
/// that the kubelet can act before the kernel does (`getNodeAllocatableInternalAbsolute`).
pub fn unreserved(config: &KubeletConfig, machine: &Machine) -> Asked {
    let less = |resource: &str, total: i128| (total - reserved(config, resource)).max(0);
    Asked {
        cpu: less("cpu", i128::from(machine.cpus) * 1000),
        memory: less("memory", i128::from(machine.memory) * 1000) / 1000,
    }
}

/// In thousandths.
fn reserved(config: &KubeletConfig, resource: &str) -> i128 {
    let lists = [&config.system_reserved, &config.kube_reserved];
    lists.iter().filter_map(|list| list.get(resource).and_then(|q| quantity::milli(q))).sum()
}

/// What is left of a resource for pods, in thousandths.
fn left(config: &KubeletConfig, resource: &str, signal: &str, total: i128) -> i128 {
    let threshold = match config.eviction_hard.get(signal) {
        Some(t) => match t.strip_suffix('%').and_then(|p| p.parse::<i128>().ok()) {
            Some(percent) => total * percent / 100,
            None => quantity::milli(t).unwrap_or(0),
        },
        None => 0,
    };
    (total - reserved(config, resource) - threshold).max(0)
}

/// Refuses reservations that are no amounts, or leave less than nothing (`validateNodeAllocatable`).
pub fn check(config: &KubeletConfig, machine: &Machine) -> Result<(), String> {
    let totals = [("cpu", i128::from(machine.cpus) * 1000), ("memory", i128::from(machine.memory) * 1000)];
    for (resource, total) in totals {
        let reserved = reserved(config, resource);
        if reserved > total {
            return Err(format!(
                "invalid Node Allocatable configuration: {resource}: reserved {reserved}m of {total}m in all"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> (KubeletConfig, Machine) {
        let mut config = KubeletConfig::defaults();
        config.kube_reserved = [("cpu".to_owned(), "500m".to_owned())].into();
        config.system_reserved = [("memory".to_owned(), "1Gi".to_owned())].into();
        (config, Machine { cpus: 4, memory: 8 << 30, ..Machine::default() })
    }

    #[test]
    fn what_pods_may_have() {
        let (config, machine) = node();
        let mib = |n: i128| n << 20;
        assert_eq!(allocatable_of(&config, &machine), Asked { cpu: 3500, memory: mib(7 * 1024 - 100) });
        assert_eq!(unreserved(&config, &machine), Asked { cpu: 3500, memory: mib(7 * 1024) });
        assert_eq!(allocatable_storage(&config, 1000), 900);
        let shown = allocatable(&config, &capacity(&config, &machine, 1 << 30));
        assert_eq!((shown["cpu"].0.as_str(), shown["pods"].0.as_str()), ("3500m", "110"));
        let mut greedy = config.clone();
        greedy.kube_reserved.insert("cpu".into(), "5".into());
        assert!(check(&config, &machine).is_ok() && check(&greedy, &machine).is_err());
    }

    #[test]
    fn extended_resources_come_from_the_api() {
        let (config, machine) = node();
        let one = |name: &str| -> Amounts { [(name.to_owned(), Quantity("3".into()))].into() };
        let status = |capacity, allocatable| NodeStatus { capacity, allocatable, ..NodeStatus::default() };
        let own = capacity(&config, &machine, 0);
        assert_eq!(extended(&status(Some(one("example.com/x")), None), &own), one("example.com/x"));
        assert!(extended(&status(Some(one("cpu")), None), &own).is_empty());
        let known = status(None, Some(one("example.com/x")));
        assert_eq!(room(&config, &machine, 0, Some(&known)).others["example.com/x"], 3);
    }
}
