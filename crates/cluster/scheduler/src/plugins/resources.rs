//! NodeResourcesFit and NodeResourcesBalancedAllocation.

use super::{Plugin, Rejection};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::resources::Amounts;

const SCORED: [&str; 2] = ["cpu", "memory"];

/// Says no to nodes that lack something the pod asks for, and names all of it.
pub fn fit(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let mut reasons = Vec::new();
    let most = node.allocatable.get("pods");
    if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= most {
        reasons.push("Too many pods".to_owned());
    }
    for (name, amount) in &pod.request.exact.0 {
        let free = node.allocatable.get(name).saturating_sub(node.requested.get(name));
        if *amount > 0 && *amount > free {
            reasons.push(format!("Insufficient {name}"));
        }
    }
    if reasons.is_empty() { Ok(()) } else { Err(Rejection { plugin: Plugin::NodeResourcesFit, reasons }) }
}

fn used(of: &Amounts, pod: &Amounts, name: &str) -> i64 {
    of.get(name).saturating_add(pod.get(name))
}

/// The share that would stay free, on average (`LeastAllocated`).
pub fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let (mut sum, mut count) = (0, 0);
    for name in SCORED {
        let all = node.allocatable.get(name);
        if all > 0 {
            let free = all.saturating_sub(used(&node.scored, &pod.request.scored, name)).max(0);
            sum += i64::try_from(i128::from(free) * 100 / i128::from(all)).unwrap_or(0);
            count += 1;
        }
    }
    if count == 0 { 0 } else { sum / count }
}

/// How alike the shares in use would be: 100 when CPU and memory are used in equal parts. A pod that asks for neither
/// changes no balance and is not scored.
pub fn balanced(pod: &PodInfo, node: &NodeInfo) -> i64 {
    if SCORED.iter().all(|name| pod.request.exact.get(name) == 0) {
        return 0;
    }
    let fraction = |name: &str| {
        let all = node.allocatable.get(name);
        // Shares of a whole; what a float cannot hold exactly does not matter.
        #[allow(clippy::cast_precision_loss)]
        (all > 0).then(|| (used(&node.requested, &pod.request.exact, name) as f64 / all as f64).min(1.0))
    };
    let deviation = match (fraction("cpu"), fraction("memory")) {
        (Some(cpu), Some(memory)) => (cpu - memory).abs() / 2.0,
        _ => 0.0,
    };
    #[allow(clippy::cast_possible_truncation)]
    let score = ((1.0 - deviation) * 100.0) as i64;
    score
}
