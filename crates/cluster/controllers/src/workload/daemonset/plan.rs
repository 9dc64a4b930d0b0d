//! Which nodes need a pod and which pods go. No IO.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::object::placement::{selects, tolerates_node};
use crate::object::pod::{is_available, is_ready, is_terminal, node_name};
use crate::workload::revisions::HASH;

/// What a daemon puts up with, unasked: it has to run where others cannot (`util.AddOrUpdateDaemonPodTolerations`).
pub fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let mut add = |key: &str, effect: &str| {
        let exists = Toleration {
            key: Some(format!("node.kubernetes.io/{key}")),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Default::default()
        };
        if !all.contains(&exists) {
            all.push(exists);
        }
    };
    for (key, effect) in [
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    ] {
        add(key, effect);
    }
    if spec.host_network == Some(true) {
        add("network-unavailable", "NoSchedule");
    }
    all
}

/// The affinity that binds a pod to a node, in the place of the template's required one.
pub fn bind_to(spec: &mut PodSpec, node: &str) {
    let field = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_with(|| NodeSelector { node_selector_terms: Vec::new() });
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![field.clone()]);
    }
}

/// The node a daemon pod is, or will be, on.
pub fn target(pod: &Pod) -> Option<&str> {
    if let Some(name) = node_name(pod) {
        return Some(name);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    let mut names = fields.filter(|f| f.key == "metadata.name" && f.operator == "In");
    names.next()?.values.as_ref()?.first().map(String::as_str)
}

/// (a pod belongs here, a pod that is here may stay)
pub fn belongs(set: &DaemonSet, node: &Node) -> (bool, bool) {
    let Some(spec) = set.spec.as_ref().and_then(|s| s.template.spec.as_ref()) else { return (false, false) };
    if !selects(spec, node) {
        return (false, false);
    }
    let tolerations = tolerations(spec);
    let stay = tolerates_node(&tolerations, node, &["NoExecute"]);
    (stay && tolerates_node(&tolerations, node, &["NoSchedule"]), stay)
}

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

/// The next step of a rolling update (`daemon.rollingUpdate`): old pods to delete, or nodes that get a new pod beside the old one.
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
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(spec: Value) -> DaemonSet {
        let mut template = json!({"containers": []});
        for (key, value) in spec.as_object().unwrap() {
            template[key] = value.clone();
        }
        serde_json::from_value(
            json!({"metadata": {"name": "d"}, "spec": {"selector": {}, "template": {"spec": template}}}),
        )
        .unwrap()
    }

    fn node(name: &str, taints: &[(&str, &str)]) -> Arc<Node> {
        let taints: Vec<_> = taints.iter().map(|(k, e)| json!({"key": k, "effect": e})).collect();
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": name, "labels": {"disk": "ssd"}}, "spec": {"taints": taints}}),
            )
            .unwrap(),
        )
    }

    fn pod(name: &str, node: &str, hash: &str, phase: &str, ready: bool) -> Arc<Pod> {
        let mut spec = PodSpec::default();
        bind_to(&mut spec, node);
        let status =
            json!({"phase": phase, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]});
        let mut pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {HASH: hash}}, "status": status}))
                .unwrap();
        pod.spec = Some(spec);
        Arc::new(pod)
    }

    #[test]
    fn where_daemons_belong() {
        let cp = ("node-role.kubernetes.io/control-plane", "NoSchedule");
        for (spec, taints, expected) in [
            (json!({}), &[][..], (true, true)),
            (json!({}), &[cp], (false, true)),
            (json!({"tolerations": [{"operator": "Exists"}]}), &[cp], (true, true)),
            (
                json!({}),
                &[("node.kubernetes.io/unschedulable", "NoSchedule"), ("node.kubernetes.io/unreachable", "NoExecute")],
                (true, true),
            ),
            (json!({}), &[("node.kubernetes.io/network-unavailable", "NoSchedule")], (false, true)),
            (json!({"hostNetwork": true}), &[("node.kubernetes.io/network-unavailable", "NoSchedule")], (true, true)),
            (json!({}), &[("mine", "NoExecute")], (false, false)),
            (json!({"nodeSelector": {"disk": "hdd"}}), &[], (false, false)),
        ] {
            assert_eq!(belongs(&set(spec.clone()), &node("a", taints)), expected, "{spec} {taints:?}");
        }
    }

    #[test]
    fn plans() {
        let d = set(json!({}));
        let nodes = [node("a", &[]), node("b", &[]), node("c", &[("mine", "NoExecute")])];
        let pods = by_node(&[
            pod("b1", "b", "h", "Failed", false),
            pod("b2", "b", "h", "Running", true),
            pod("c1", "c", "h", "Running", true),
        ]);
        let plan = manage(&d, &nodes, &pods, "h", Timestamp::now());
        assert_eq!(
            plan,
            Plan { create: vec!["a".into()], delete: vec!["b1".into(), "c1".into()], failed: vec!["b1".into()] }
        );
        let counts = count(&d, &nodes, &by_node(&[pod("b2", "b", "h", "Running", true)]), "h", Timestamp::now());
        assert_eq!((counts.desired, counts.current, counts.ready, counts.updated), (2, 1, 1, 1));
    }

    #[test]
    fn rolls_one_at_a_time() {
        let d = set(json!({}));
        let nodes = [node("a", &[]), node("b", &[]), node("c", &[])];
        for (pods, expected) in [
            (
                vec![
                    pod("a", "a", "old", "Running", true),
                    pod("b", "b", "old", "Running", true),
                    pod("c", "c", "old", "Running", true),
                ],
                vec!["a"],
            ),
            (
                vec![
                    pod("a", "a", "new", "Running", false),
                    pod("b", "b", "old", "Running", true),
                    pod("c", "c", "old", "Running", true),
                ],
                vec![],
            ),
            (
                vec![
                    pod("a", "a", "new", "Running", true),
                    pod("b", "b", "old", "Running", false),
                    pod("c", "c", "old", "Running", true),
                ],
                vec!["b"],
            ),
        ] {
            assert_eq!(roll(&d, &nodes, &by_node(&pods), "new", Timestamp::now()).delete, expected, "{}", pods.len());
        }
    }

    #[test]
    fn surges_before_it_deletes() {
        let mut d = set(json!({}));
        let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "34%", "maxUnavailable": 0}});
        d.spec.as_mut().unwrap().update_strategy = serde_json::from_value(strategy).unwrap();
        let nodes = [node("a", &[]), node("b", &[]), node("c", &[])];
        let old = |name: &str, ready| pod(&format!("{name}-old"), name, "old", "Running", ready);
        let new = |name: &str, ready| pod(&format!("{name}-new"), name, "new", "Running", ready);
        for (pods, create, delete) in [
            (vec![old("a", true), old("b", true), old("c", true)], vec!["a", "b"], vec![]),
            (vec![old("a", true), new("a", false), old("b", true), old("c", true)], vec!["b"], vec![]),
            (vec![old("a", true), new("a", true), old("b", true), old("c", true)], vec!["b", "c"], vec!["a-old"]),
            (vec![old("a", false), old("b", true), old("c", false)], vec!["a", "c", "b"], vec![]),
            (vec![new("a", true), new("b", false), new("c", true)], vec![], vec![]),
        ] {
            let placed = by_node(&pods);
            let plan = roll(&d, &nodes, &placed, "new", Timestamp::now());
            assert_eq!(
                (plan.create, plan.delete),
                (create.iter().map(|s| (*s).to_owned()).collect(), delete.iter().map(|s| (*s).to_owned()).collect()),
                "{}",
                pods.len()
            );
        }
        let both = by_node(&[
            old("a", true),
            new("a", false),
            old("b", false),
            new("b", false),
            old("c", true),
            new("c", true),
        ]);
        let plan = manage(&d, &nodes, &both, "new", Timestamp::now());
        assert_eq!(
            plan.delete,
            ["b-old", "c-old"],
            "two stay only while the old one serves and the new one does not yet"
        );
    }
}
