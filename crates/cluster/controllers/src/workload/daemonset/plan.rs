//! What a set's nodes need: pods to create, pods to delete. No IO.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kinit_component_helpers::pod::{is_available, is_ready, is_terminal};
use kube::ResourceExt;

use super::place::{belongs, target};
use crate::workload::revisions::HASH;

/// What to do.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Nodes to create a pod for.
    pub create: Vec<String>,
    /// Pods to delete.
    pub delete: Vec<String>,
    /// Of these, pods that failed and are deleted to be made anew.
    pub failed: Vec<String>,
}

/// Counts for the status.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub struct Counts {
    /// Nodes that should have a pod.
    pub desired: i32,
    /// Of these, nodes that have one.
    pub current: i32,
    /// Nodes that have one and should not.
    pub misscheduled: i32,
    /// Nodes whose pod is ready.
    pub ready: i32,
    /// Nodes whose pod has been ready long enough.
    pub available: i32,
    /// Nodes whose pod is of the present template.
    pub updated: i32,
}

/// The pods of a set by the node they are meant for.
pub fn by_node(pods: &[Arc<Pod>]) -> BTreeMap<String, Vec<Arc<Pod>>> {
    let mut map: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = target(pod) {
            map.entry(node.to_owned()).or_default().push(pod.clone());
        }
    }
    map
}

/// Whether the pod is of this template.
fn is_updated(pod: &Pod, hash: &str) -> bool {
    pod.labels().get(HASH).map(String::as_str) == Some(hash)
}

/// What has to be created and deleted so that each node has what belongs there (`daemon.podsShouldBeOnNode`).
pub fn manage(
    set: &DaemonSet,
    nodes: &[Arc<Node>],
    pods: &BTreeMap<String, Vec<Arc<Pod>>>,
    hash: &str,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let surges = max_surge(set, nodes) > 0;
    for node in nodes {
        let name = node.name_any();
        let here = pods.get(&name).map(Vec::as_slice).unwrap_or_default();
        let (should, may_stay) = belongs(set, node);
        let alive: Vec<&Arc<Pod>> = here.iter().filter(|p| p.metadata.deletion_timestamp.is_none()).collect();
        if should && here.is_empty() {
            plan.create.push(name);
        } else if !may_stay {
            plan.delete.extend(alive.iter().map(|p| p.name_any()));
        } else {
            let (over, mut running): (Vec<_>, Vec<_>) = alive.into_iter().partition(|p| is_terminal(p));
            for pod in over {
                plan.delete.push(pod.name_any());
                plan.failed.push(pod.name_any());
            }
            running.sort_by_key(|p| (p.metadata.creation_timestamp.as_ref().map(|t| t.0), p.name_any()));
            if surges {
                plan.delete.extend(beyond_surge(set, &running, hash, now));
            } else {
                // Of several, the oldest stays.
                plan.delete.extend(running.iter().skip(1).map(|p| p.name_any()));
            }
        }
    }
    plan
}

/// While a set surges a node may have two pods: an old one that is ready, and a new one that is not yet available.
fn beyond_surge(set: &DaemonSet, running: &[&Arc<Pod>], hash: &str, now: Timestamp) -> Vec<String> {
    let min_ready = set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
    let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = running.iter().copied().partition(|p| is_updated(p, hash));
    let mut beyond: Vec<String> = new.iter().skip(1).chain(old.iter().skip(1)).map(|p| p.name_any()).collect();
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (!is_ready(old) || is_available(new, min_ready, now))
    {
        beyond.push(old.name_any());
    }
    beyond
}

/// The next step of a rolling update (`daemon.rollingUpdate`): old pods to delete, or nodes that get a new pod beside
/// the old one.
pub fn roll(
    set: &DaemonSet,
    nodes: &[Arc<Node>],
    pods: &BTreeMap<String, Vec<Arc<Pod>>>,
    hash: &str,
    now: Timestamp,
) -> Plan {
    let Some(spec) = &set.spec else { return Plan::default() };
    let strategy = spec.update_strategy.as_ref();
    if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
        return Plan::default();
    }
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let available = |pod: &Pod| is_available(pod, min_ready, now);
    let wanting: Vec<&Arc<Node>> = nodes.iter().filter(|n| belongs(set, n).0).collect();
    let surge = max_surge(set, nodes);
    let limit = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.max_unavailable.as_ref());
    let most = if surge > 0 { surge } else { limit.map_or(1, |l| share(l, wanting.len())).max(1) };
    // Nodes in the middle of their change; pods (or nodes, when surging) whose change costs nothing; and the rest.
    let (mut busy, mut free, mut candidates, mut done) = (0, Vec::new(), Vec::new(), Vec::new());
    for node in wanting {
        let name = node.name_any();
        let here = pods.get(&name).map(Vec::as_slice).unwrap_or_default();
        let alive = here.iter().filter(|p| p.metadata.deletion_timestamp.is_none());
        let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = alive.partition(|p| is_updated(p, hash));
        match (new.as_slice(), old.as_slice()) {
            ([], [old]) => {
                let target = if surge > 0 { name } else { old.name_any() };
                if available(old) {
                    candidates.push(target);
                } else {
                    // It serves nobody: replacing it costs nothing, but it is not there either.
                    busy += usize::from(surge == 0);
                    free.push(target);
                }
            }
            ([new], []) => busy += usize::from(surge == 0 && !available(new)),
            ([new], [old]) if surge > 0 => {
                if available(new) {
                    done.push(old.name_any());
                } else {
                    busy += 1;
                }
            }
            ([], []) => busy += usize::from(surge == 0),
            // The next look at what belongs where cleans up.
            _ => busy += 1,
        }
    }
    candidates.truncate(most.saturating_sub(busy));
    free.extend(candidates);
    if surge > 0 {
        Plan { create: free, delete: done, failed: Vec::new() }
    } else {
        Plan { delete: free, ..Plan::default() }
    }
}

/// How many nodes may have two pods during an update.
fn max_surge(set: &DaemonSet, nodes: &[Arc<Node>]) -> usize {
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    let surge = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.max_surge.as_ref());
    surge.map_or(0, |surge| share(surge, nodes.iter().filter(|n| belongs(set, n).0).count()))
}

/// A number or percentage (rounded up) of nodes.
fn share(value: &IntOrString, total: usize) -> usize {
    match value {
        IntOrString::Int(n) => usize::try_from(*n).unwrap_or(0),
        IntOrString::String(text) => {
            let percent: usize = text.trim_end_matches('%').parse().unwrap_or(0);
            (percent * total).div_ceil(100)
        }
    }
}

/// The status' counts.
pub fn count(
    set: &DaemonSet,
    nodes: &[Arc<Node>],
    pods: &BTreeMap<String, Vec<Arc<Pod>>>,
    hash: &str,
    now: Timestamp,
) -> Counts {
    let min_ready = set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
    let mut counts = Counts::default();
    for node in nodes {
        let here = pods.get(&node.name_any()).map(Vec::as_slice).unwrap_or_default();
        if !belongs(set, node).0 {
            counts.misscheduled += i32::from(!here.is_empty());
            continue;
        }
        counts.desired += 1;
        let Some(pod) = here.iter().min_by_key(|p| p.metadata.creation_timestamp.as_ref().map(|t| t.0)) else {
            continue;
        };
        counts.current += 1;
        if is_ready(pod) && pod.metadata.deletion_timestamp.is_none() {
            counts.ready += 1;
            counts.available += i32::from(is_available(pod, min_ready, now));
        }
        counts.updated += i32::from(is_updated(pod, hash));
    }
    counts
}

#[cfg(test)]
mod tests;
