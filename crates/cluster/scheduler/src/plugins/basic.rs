//! The plugins that fit on a page: NodeUnschedulable, NodeName, TaintToleration, NodePorts, ImageLocality.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Taint, Toleration};
use kinit_component_helpers::taints::{KEEP_OFF, is_tolerated, untolerated};

use super::{Plugin, Rejection};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

fn tolerations(pod: &PodInfo) -> &[Toleration] {
    pod.pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
}

/// NodeUnschedulable.
pub fn unschedulable(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let cordoned = node.node.iter().flat_map(|n| n.spec.iter()).any(|s| s.unschedulable == Some(true));
    let taint = Taint { key: UNSCHEDULABLE.into(), effect: "NoSchedule".into(), ..Default::default() };
    if cordoned && !is_tolerated(&taint, tolerations(pod)) {
        return Err(Rejection::one(Plugin::NodeUnschedulable, "node(s) were unschedulable"));
    }
    Ok(())
}

/// NodeName.
pub fn node_name(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let wanted = pod.pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("");
    if !wanted.is_empty() && wanted != node.name() {
        return Err(Rejection::one(Plugin::NodeName, "node(s) didn't match the requested node name"));
    }
    Ok(())
}

/// TaintToleration.
pub fn taints(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let untolerated = node.node.as_ref().and_then(|n| untolerated(n, tolerations(pod), KEEP_OFF));
    let Some(taint) = untolerated else { return Ok(()) };
    let value = taint.value.as_deref().unwrap_or("");
    let reason = format!("node(s) had untolerated taint {{{}: {value}}}", taint.key);
    Err(Rejection::one(Plugin::TaintToleration, reason))
}

/// Whether the pod tolerates all taints that keep pods off (used by the spread's `nodeTaintsPolicy: Honor`).
pub fn tolerates_all(pod: &PodInfo, node: &NodeInfo) -> bool {
    taints(pod, node).is_ok()
}

/// TaintToleration's score: how many `PreferNoSchedule` taints it does not tolerate; fewer is better.
pub fn untolerated_preferences(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let soft = node.taints().filter(|t| t.effect == "PreferNoSchedule");
    let count = soft.filter(|taint| !is_tolerated(taint, tolerations(pod))).count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// NodePorts.
pub fn ports(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let clash = pod.ports.iter().any(|(ip, protocol, port)| {
        node.ports.iter().any(|(other_ip, other_protocol, other_port)| {
            let same_address = ip == other_ip || ip == "0.0.0.0" || other_ip == "0.0.0.0";
            port == other_port && protocol == other_protocol && same_address
        })
    });
    if clash {
        let reason = "node(s) didn't have free ports for the requested pod ports";
        return Err(Rejection::one(Plugin::NodePorts, reason));
    }
    Ok(())
}

/// The pod's images, as nodes report them: with a tag.
pub fn image_names(pod: &PodInfo) -> BTreeSet<String> {
    let Some(spec) = &pod.pod.spec else { return BTreeSet::new() };
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    all.filter_map(|c| c.image.as_deref()).map(tagged).collect()
}

fn tagged(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains(':') || image.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

/// ImageLocality: how much of the pod's images is there already, less where few nodes have them (so that not all pods
/// go there).
pub fn image_locality(pod: &PodInfo, node: &NodeInfo, holders: &BTreeMap<String, usize>, nodes: usize) -> i64 {
    const MB: i64 = 1024 * 1024;
    let containers =
        pod.pod.spec.as_ref().map_or(1, |s| s.containers.len() + s.init_containers.iter().flatten().count());
    let (least, most) = (23 * MB, 1000 * MB * i64::try_from(containers.max(1)).unwrap_or(1));
    let all = i64::try_from(nodes.max(1)).unwrap_or(1);
    let sum: i64 = image_names(pod)
        .iter()
        .filter_map(|name| Some((node.images.get(name)?, *holders.get(name)?)))
        .map(|(size, held)| size / all * i64::try_from(held).unwrap_or(1))
        .sum();
    100 * (sum.clamp(least, most) - least) / (most - least)
}
