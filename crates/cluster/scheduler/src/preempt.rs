//! Whom to end so that a more important pod fits (`pkg/scheduler/framework/preemption`). No IO, no clock.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};

use crate::cache::Snapshot;
use crate::node_info::NodeInfo;
use crate::plugins::{Plugin, Surroundings, prepare};
use crate::pod_info::PodInfo;

/// At most so many nodes are looked at: the best of a hundred is good enough.
const CANDIDATES: usize = 100;

/// A node and the keys of the pods on it that have to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preemption {
    /// Where the pod will fit.
    pub node: String,
    /// Who goes.
    pub victims: Vec<String>,
}

/// What a PodDisruptionBudget still allows.
#[derive(Debug, Clone)]
pub struct Budget {
    namespace: String,
    selector: Selector,
    allowed: i32,
    /// Evictions that were granted and count already.
    granted: BTreeSet<String>,
}

impl Budget {
    /// `None` for one that selects nothing.
    pub fn of(budget: &PodDisruptionBudget) -> Option<Self> {
        let selector = budget.spec.as_ref()?.selector.clone()?;
        let status = budget.status.as_ref();
        let granted = status.and_then(|s| s.disrupted_pods.as_ref()).into_iter().flatten();
        Some(Self {
            namespace: budget.namespace().unwrap_or_default(),
            selector: Selector::try_from(selector).ok()?,
            allowed: status.and_then(|s| s.disruptions_allowed).unwrap_or(0),
            granted: granted.map(|(name, _)| name.clone()).collect(),
        })
    }

    fn covers(&self, pod: &PodInfo) -> bool {
        let meta = &pod.pod.metadata;
        let granted = meta.name.as_ref().is_some_and(|name| self.granted.contains(name));
        meta.namespace.as_deref() == Some(&self.namespace) && !granted && self.selector.matches(pod.pod.labels())
    }
}

/// A pod's priority, 0 when it has none.
pub fn priority(pod: &PodInfo) -> i32 {
    pod.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
}

/// The node where ending pods of lower priority hurts least, if there is one.
///
/// Budgets are kept where a choice allows it: they do not protect from a more important pod that fits nowhere else.
pub fn preempt(
    pod: &PodInfo,
    snapshot: &Snapshot,
    around: &Surroundings<'_>,
    budgets: &[Budget],
) -> Option<Preemption> {
    let spec = pod.pod.spec.as_ref()?;
    if spec.preemption_policy.as_deref() == Some("Never") || already_waits(pod, snapshot) {
        return None;
    }
    let nodes: Vec<&NodeInfo> = snapshot.iter().map(Arc::as_ref).collect();
    let prepared = prepare(pod, &nodes, around);
    let hopeful = |node: &NodeInfo| {
        prepared.filter(node).is_err_and(|r| {
            matches!(
                r.plugin,
                Plugin::NodeResourcesFit
                    | Plugin::NodePorts
                    | Plugin::InterPodAffinity
                    | Plugin::PodTopologySpread
                    | Plugin::VolumeRestrictions
            )
        })
    };
    let candidates = (0..nodes.len()).filter(|i| nodes.get(*i).is_some_and(|n| hopeful(n))).take(CANDIDATES);
    candidates.filter_map(|i| on_node(pod, snapshot, i, around, budgets)).min_by_key(|(cost, _)| *cost).map(|(_, p)| p)
}

/// Its victims of an earlier pass are still on their way out.
fn already_waits(pod: &PodInfo, snapshot: &Snapshot) -> bool {
    let nominated = pod.pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref());
    let Some(node) = nominated.and_then(|name| snapshot.iter().find(|n| n.name() == name)) else { return false };
    node.pods.values().any(|p| p.pod.metadata.deletion_timestamp.is_some() && priority(p) < priority(pod))
}

/// A pod and its key.
type Placed = (String, Arc<PodInfo>);

/// What is compared: how many victims a budget would keep, the most important victim, the sum of their importance,
/// their number, and last how long they ran.
type Cost = (usize, i32, i64, usize, Reverse<Option<jiff::Timestamp>>);

fn on_node(
    pod: &PodInfo,
    snapshot: &Snapshot,
    index: usize,
    around: &Surroundings<'_>,
    budgets: &[Budget],
) -> Option<(Cost, Preemption)> {
    let mut node = snapshot.get(index)?.as_ref().clone();
    let mut lower: Vec<Placed> =
        node.pods.iter().filter(|(_, p)| priority(p) < priority(pod)).map(|(k, p)| (k.clone(), p.clone())).collect();
    if lower.is_empty() {
        return None;
    }
    lower.iter().for_each(|(key, _)| node.remove(key));
    if !fits(pod, snapshot, index, &node, around) {
        return None;
    }
    // The most important and the longest running are spared first.
    lower.sort_by_key(|(_, p)| (Reverse(priority(p)), started(p)));
    let (kept, free) = by_budget(lower, budgets);
    let mut spare = |candidates: Vec<Placed>| {
        let mut victims = Vec::new();
        for (key, other) in candidates {
            node.add(&key, other.clone());
            if !fits(pod, snapshot, index, &node, around) {
                node.remove(&key);
                victims.push((key, other));
            }
        }
        victims
    };
    // Those that a budget would keep are spared first.
    let mut victims = spare(kept);
    let violations = victims.len();
    victims.extend(spare(free));
    let highest = victims.iter().map(|(_, p)| priority(p)).max()?;
    // As upstream: each victim counts, even one of negative priority.
    let sum = victims.iter().map(|(_, p)| i64::from(priority(p)) + i64::from(i32::MAX) + 1).sum();
    let latest = victims.iter().filter(|(_, p)| priority(p) == highest).map(|(_, p)| started(p)).min().flatten();
    let cost = (violations, highest, sum, victims.len(), Reverse(latest));
    let victims = victims.into_iter().map(|(key, _)| key).collect();
    Some((cost, Preemption { node: node.name(), victims }))
}

/// Splits pods, in their order, into those whose end would be more than a budget allows and the others
/// (`filterPodsWithPDBViolation`).
fn by_budget(pods: Vec<Placed>, budgets: &[Budget]) -> (Vec<Placed>, Vec<Placed>) {
    let mut left: Vec<i32> = budgets.iter().map(|b| b.allowed).collect();
    pods.into_iter().partition(|(_, pod)| {
        let mut violates = false;
        for (_, left) in budgets.iter().zip(&mut left).filter(|(b, _)| b.covers(pod)) {
            *left -= 1;
            violates |= *left < 0;
        }
        violates
    })
}

fn started(pod: &PodInfo) -> Option<jiff::Timestamp> {
    let status = pod.pod.status.as_ref().and_then(|s| s.start_time.as_ref());
    status.or(pod.pod.metadata.creation_timestamp.as_ref()).map(|t| t.0)
}

fn fits(pod: &PodInfo, snapshot: &Snapshot, index: usize, changed: &NodeInfo, around: &Surroundings<'_>) -> bool {
    let nodes: Vec<&NodeInfo> =
        snapshot.iter().enumerate().map(|(i, n)| if i == index { changed } else { n.as_ref() }).collect();
    prepare(pod, &nodes, around).filter(changed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::volumes::PodVolumes;
    use k8s_openapi::api::core::v1::{Node, Pod};
    use serde_json::json;

    fn pod(name: &str, priority: i32, cpu: &str, policy: &str) -> Arc<PodInfo> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n"},
            "spec": {"priority": priority, "preemptionPolicy": policy,
                     "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}
        }))
        .unwrap();
        PodInfo::new(Arc::new(pod))
    }

    fn node(name: &str, pods: &[Arc<PodInfo>]) -> Arc<NodeInfo> {
        let node: Node = serde_json::from_value(
            json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "4", "pods": "10"}}}),
        )
        .unwrap();
        let mut info = NodeInfo::default();
        info.set_node(Arc::new(node));
        pods.iter().for_each(|p| info.add(p.pod.metadata.name.as_deref().unwrap(), p.clone()));
        Arc::new(info)
    }

    #[test]
    fn the_least_harm() {
        let low = "PreemptLowerPriority";
        let p = |name: &str, priority, cpu: &str| pod(name, priority, cpu, low);
        let around = Surroundings { namespace_labels: &|_| None, workload: None, volumes: &PodVolumes::default() };
        for (what, snapshot, incoming, expected) in [
            (
                "one of two is enough",
                vec![node("a", &[p("x", 1, "2"), p("y", 2, "2")])],
                p("in", 9, "2"),
                Some(("a", vec!["x"])),
            ),
            (
                "the less important",
                vec![node("a", &[p("x", 5, "4")]), node("b", &[p("y", 1, "4")])],
                p("in", 9, "2"),
                Some(("b", vec!["y"])),
            ),
            (
                "the fewer",
                vec![node("a", &[p("x", 1, "2"), p("y", 1, "2")]), node("b", &[p("z", 1, "4")])],
                p("in", 9, "4"),
                Some(("b", vec!["z"])),
            ),
            ("equals stay", vec![node("a", &[p("x", 9, "4")])], p("in", 9, "2"), None),
            ("too large anyway", vec![node("a", &[p("x", 1, "4")])], p("in", 9, "5"), None),
            ("polite", vec![node("a", &[p("x", 1, "4")])], pod("in", 9, "2", "Never"), None),
        ] {
            let got = preempt(&incoming, &snapshot, &around, &[]);
            let expected = expected.map(|(node, victims)| Preemption {
                node: node.into(),
                victims: victims.into_iter().map(str::to_owned).collect(),
            });
            assert_eq!(got, expected, "{what}");
        }
    }

    #[test]
    fn budgets_are_kept_where_there_is_a_choice() {
        let labelled = |name: &str, priority: i32, cpu: &str, app: &str| {
            let mut pod = (*pod(name, priority, cpu, "PreemptLowerPriority").pod).clone();
            pod.metadata.labels = Some([("app".to_owned(), app.to_owned())].into());
            PodInfo::new(Arc::new(pod))
        };
        let budget = |app: &str, allowed: i32, granted: &[&str]| {
            let granted: serde_json::Map<_, _> =
                granted.iter().map(|n| ((*n).to_owned(), json!("2026-01-01T00:00:00Z"))).collect();
            let budget: PodDisruptionBudget = serde_json::from_value(json!({
                "metadata": {"name": "b", "namespace": "n"}, "spec": {"selector": {"matchLabels": {"app": app}}},
                "status": {"currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1, "disruptionsAllowed": allowed, "disruptedPods": granted}
            }))
            .unwrap();
            Budget::of(&budget).unwrap()
        };
        let around = Surroundings { namespace_labels: &|_| None, workload: None, volumes: &PodVolumes::default() };
        let two = || vec![node("a", &[labelled("x", 1, "4", "db")]), node("b", &[labelled("y", 5, "4", "web")])];
        let one = || vec![node("a", &[labelled("x", 1, "2", "db"), labelled("y", 5, "2", "web")])];
        for (what, snapshot, budgets, expected) in [
            ("none", two(), vec![], "x"),
            ("the budget outweighs the priority", two(), vec![budget("db", 0, &[])], "y"),
            ("there is room in it", two(), vec![budget("db", 1, &[])], "x"),
            ("granted already", two(), vec![budget("db", 0, &["x"])], "x"),
            ("both are kept: the less important goes", two(), vec![budget("db", 0, &[]), budget("web", 0, &[])], "x"),
            ("spared first", one(), vec![budget("db", 0, &[])], "y"),
        ] {
            let cpu = if snapshot.len() == 1 { "2" } else { "4" };
            let incoming = pod("in", 9, cpu, "PreemptLowerPriority");
            let got = preempt(&incoming, &snapshot, &around, &budgets).unwrap();
            assert_eq!(got.victims, [expected], "{what}");
        }
    }
}
