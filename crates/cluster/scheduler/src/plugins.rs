//! The plugins: each looks at a pod and nodes, and says no, or how good.
//!
//! Names, messages and weights are upstream's (`pkg/scheduler/framework/plugins`, the default profile).

mod affinity;
mod basic;
mod node_affinity;
mod resources;
mod spread;
pub mod volumes;

use std::collections::BTreeMap;

use kube::core::Selector;

use crate::node_info::NodeInfo;
use crate::pod_info::{NamespaceLabels, PodInfo};
use volumes::PodVolumes;

/// Who says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Plugin {
    /// Cordoned nodes.
    NodeUnschedulable,
    /// `spec.nodeName`.
    NodeName,
    /// Taints.
    TaintToleration,
    /// Node selectors.
    NodeAffinity,
    /// Host ports.
    NodePorts,
    /// Resources.
    NodeResourcesFit,
    /// Spread over places.
    PodTopologySpread,
    /// Company of other pods.
    InterPodAffinity,
    /// Claims that one pod has to itself.
    VolumeRestrictions,
    /// Where volumes are or can be.
    VolumeBinding,
    /// Where volumes are, by older labels.
    VolumeZone,
}

/// Why a node does not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Who says so.
    pub plugin: Plugin,
    /// Reasons, as they appear in the pod's condition.
    pub reasons: Vec<String>,
}

impl Rejection {
    fn one(plugin: Plugin, reason: impl Into<String>) -> Self {
        Self { plugin, reasons: vec![reason.into()] }
    }
}

/// What plugins need beyond the pod and the nodes.
pub struct Surroundings<'a> {
    /// Labels of namespaces.
    pub namespace_labels: NamespaceLabels<'a>,
    /// The selector of the workload the pod belongs to, for the default spread; `None` when it belongs to none.
    pub workload: Option<Selector>,
    /// The pod's claims and volumes.
    pub volumes: &'a PodVolumes,
}

/// What the plugins worked out about one pod and all nodes.
pub struct Prepared<'a> {
    pod: &'a PodInfo,
    affinity: affinity::State,
    spread: spread::State,
    images: BTreeMap<String, usize>,
    nodes: usize,
    volumes: &'a PodVolumes,
    /// Another pod uses a claim that is for one.
    taken: bool,
}

/// Looks at all nodes once.
pub fn prepare<'a>(pod: &'a PodInfo, nodes: &[&NodeInfo], around: &Surroundings<'a>) -> Prepared<'a> {
    let mut images: BTreeMap<String, usize> = BTreeMap::new();
    for name in basic::image_names(pod) {
        let holders = nodes.iter().filter(|n| n.images.contains_key(&name)).count();
        images.insert(name, holders);
    }
    Prepared {
        pod,
        affinity: affinity::prepare(pod, nodes, around.namespace_labels),
        spread: spread::prepare(pod, nodes, around.workload.as_ref()),
        images,
        nodes: nodes.len(),
        volumes: around.volumes,
        taken: volumes::is_taken(pod, nodes, around.volumes),
    }
}

impl Prepared<'_> {
    /// Why no node will do, whatever it is like (a plugin's `PreFilter`).
    pub fn problem(&self) -> Option<Rejection> {
        self.volumes.problem.as_ref().map(|problem| Rejection::one(Plugin::VolumeBinding, problem))
    }

    /// The first plugin's no, in upstream's order.
    pub fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        self.problem().map_or(Ok(()), Err)?;
        basic::unschedulable(self.pod, node)?;
        basic::node_name(self.pod, node)?;
        basic::taints(self.pod, node)?;
        node_affinity::filter(self.pod, node)?;
        basic::ports(self.pod, node)?;
        resources::fit(self.pod, node)?;
        if self.taken {
            let reason = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
            return Err(Rejection::one(Plugin::VolumeRestrictions, reason));
        }
        volumes::binding(self.volumes, node)?;
        volumes::zone(self.volumes, node)?;
        self.spread.filter(self.pod, node)?;
        self.affinity.filter(self.pod, node)
    }

    /// A score for each node that fits; more is better.
    pub fn score(&self, fitting: &[&NodeInfo]) -> Vec<i64> {
        let each = |f: &dyn Fn(&NodeInfo) -> i64| fitting.iter().map(|n| f(n)).collect::<Vec<i64>>();
        let weighted = [
            (3, normalized(each(&|n| basic::untolerated_preferences(self.pod, n)), true)),
            (2, normalized(each(&|n| node_affinity::score(self.pod, n)), false)),
            (1, each(&|n| resources::least_allocated(self.pod, n))),
            (1, each(&|n| resources::balanced(self.pod, n))),
            (2, self.spread.score(self.pod, fitting)),
            (2, self.affinity.score(fitting)),
            (1, each(&|n| basic::image_locality(self.pod, n, &self.images, self.nodes))),
        ];
        (0..fitting.len())
            .map(|i| weighted.iter().map(|(weight, scores)| weight * scores.get(i).copied().unwrap_or(0)).sum())
            .collect()
    }
}

/// Scales to 0..100 by the largest; `reverse` turns it round (`helper.DefaultNormalizeScore`).
fn normalized(mut scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let most = scores.iter().copied().max().unwrap_or(0);
    for score in &mut scores {
        let scaled = if most == 0 { 0 } else { *score * 100 / most };
        *score = if reverse { 100 - scaled } else { scaled };
    }
    scores
}
