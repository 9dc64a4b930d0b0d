//! PodTopologySpread: pods of a kind in all zones and on all nodes alike.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use kube::ResourceExt;
use kube::core::{Expression, Selector, SelectorExt};

use super::{Plugin, Rejection, basic, node_affinity};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

const MISSING: &str = "node(s) didn't match pod topology spread constraints (missing required label)";
const UNEVEN: &str = "node(s) didn't match pod topology spread constraints";
const ZONE: &str = "topology.kubernetes.io/zone";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// A constraint and the pods counted for it.
struct Constraint {
    key: String,
    max_skew: i64,
    min_domains: i64,
    selector: Selector,
    honor_affinity: bool,
    honor_taints: bool,
    /// Matching pods by the key's value.
    domains: BTreeMap<String, i64>,
}

/// What was counted.
pub struct State {
    hard: Vec<Constraint>,
    soft: Vec<Constraint>,
    /// The soft ones are the cluster's defaults: nodes without the labels are scored too.
    defaults: bool,
}

/// Counts over all nodes.
pub fn prepare(pod: &PodInfo, nodes: &[&NodeInfo], workload: Option<&Selector>) -> State {
    let given = pod.pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.clone()).unwrap_or_default();
    let defaults = given.is_empty();
    let (mut hard, mut soft) = (Vec::new(), Vec::new());
    for constraint in &given {
        let list = if constraint.when_unsatisfiable == "ScheduleAnyway" { &mut soft } else { &mut hard };
        list.push(Constraint::given(constraint, pod));
    }
    if let (true, Some(selector)) = (defaults, workload) {
        soft.push(Constraint::default_for(HOSTNAME, 3, selector));
        soft.push(Constraint::default_for(ZONE, 5, selector));
    }
    for (list, lenient) in [(&mut hard, false), (&mut soft, defaults)] {
        let keys: Vec<String> = list.iter().map(|c| c.key.clone()).collect();
        for node in nodes {
            // A node without all of a pod's keys is outside of its world.
            if !lenient && keys.iter().any(|k| node.label(k).is_none()) {
                continue;
            }
            list.iter_mut().for_each(|c| c.count(pod, node));
        }
    }
    State { hard, soft, defaults }
}

impl Constraint {
    fn given(constraint: &TopologySpreadConstraint, pod: &PodInfo) -> Self {
        let mut selector =
            constraint.label_selector.clone().and_then(|s| Selector::try_from(s).ok()).unwrap_or_default();
        let keys = constraint.match_label_keys.iter().flatten();
        let same = keys.filter_map(|k| pod.pod.labels().get(k).map(|v| Expression::In(k.clone(), [v.clone()].into())));
        selector.extend(same);
        Self {
            key: constraint.topology_key.clone(),
            max_skew: i64::from(constraint.max_skew),
            min_domains: constraint.min_domains.map_or(1, i64::from),
            selector,
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
            domains: BTreeMap::new(),
        }
    }

    fn default_for(key: &str, max_skew: i64, selector: &Selector) -> Self {
        Self {
            key: key.into(),
            max_skew,
            min_domains: 1,
            selector: selector.clone(),
            honor_affinity: true,
            honor_taints: false,
            domains: BTreeMap::new(),
        }
    }

    fn count(&mut self, pod: &PodInfo, node: &NodeInfo) {
        let Some(value) = node.label(&self.key) else { return };
        if self.honor_affinity && !node_affinity::selects(pod, node)
            || self.honor_taints && !basic::tolerates_all(pod, node)
        {
            return;
        }
        let namespace = pod.pod.metadata.namespace.as_deref();
        let matching = node.pods.values().filter(|other| {
            other.pod.metadata.deletion_timestamp.is_none()
                && other.pod.metadata.namespace.as_deref() == namespace
                && self.selector.matches(other.pod.labels())
        });
        *self.domains.entry(value.to_owned()).or_default() += i64::try_from(matching.count()).unwrap_or(i64::MAX);
    }

    /// The smallest domain; 0 while there are fewer domains than asked for.
    fn least(&self) -> i64 {
        let too_few = i64::try_from(self.domains.len()).unwrap_or(i64::MAX) < self.min_domains;
        if too_few { 0 } else { self.domains.values().copied().min().unwrap_or(0) }
    }
}

impl State {
    /// Says no where the pod would make the spread too uneven.
    pub fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        for constraint in &self.hard {
            let Some(value) = node.label(&constraint.key) else {
                return Err(Rejection::one(Plugin::PodTopologySpread, MISSING));
            };
            let own = i64::from(constraint.selector.matches(pod.pod.labels()));
            let here = constraint.domains.get(value).copied().unwrap_or(0);
            if here + own - constraint.least() > constraint.max_skew {
                return Err(Rejection::one(Plugin::PodTopologySpread, UNEVEN));
            }
        }
        Ok(())
    }

    /// Fewer matching pods in the node's domains are better, 0 to 100; small domains' counts weigh less.
    pub fn score(&self, _pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
        if self.soft.is_empty() {
            return vec![0; nodes.len()];
        }
        let mut sizes: HashMap<&str, usize> = HashMap::new();
        for constraint in &self.soft {
            let values: std::collections::BTreeSet<_> = nodes.iter().filter_map(|n| n.label(&constraint.key)).collect();
            sizes.insert(&constraint.key, values.len());
        }
        let raw: Vec<Option<i64>> = nodes.iter().map(|node| self.raw(node, &sizes)).collect();
        let known = raw.iter().flatten();
        let (least, most) = (known.clone().min().copied().unwrap_or(0), known.max().copied().unwrap_or(0));
        raw.iter()
            .map(|score| match score {
                None => 0,
                Some(_) if most == 0 => 100,
                Some(score) => 100 * (most + least - score) / most,
            })
            .collect()
    }

    fn raw(&self, node: &NodeInfo, sizes: &HashMap<&str, usize>) -> Option<i64> {
        let mut sum = 0.0;
        for constraint in &self.soft {
            let Some(value) = node.label(&constraint.key) else {
                if self.defaults {
                    continue;
                }
                return None;
            };
            let count = constraint.domains.get(value).copied().unwrap_or(0);
            let size = sizes.get(constraint.key.as_str()).copied().unwrap_or(0);
            #[allow(clippy::cast_precision_loss)]
            {
                sum += count as f64 * ((size + 2) as f64).ln() + (constraint.max_skew - 1) as f64;
            }
        }
        #[allow(clippy::cast_possible_truncation)]
        Some(sum.round() as i64)
    }
}
