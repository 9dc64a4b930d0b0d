//! InterPodAffinity: with whom a pod must, must not, would rather and would rather not share a place.

use std::collections::HashMap;

use super::{Plugin, Rejection};
use crate::node_info::NodeInfo;
use crate::pod_info::{NamespaceLabels, PodInfo, Term};

/// (topology key, value) to how many pods, or to a weight.
type Places = HashMap<(String, String), i64>;

/// Weight of other pods' required affinity in scores (`hardPodAffinityWeight`).
const HARD: i64 = 1;

/// What was counted.
pub struct State {
    /// Places where pods are that do not want this one.
    unwelcome: Places,
    /// For all required terms together: places where pods matching all of them are.
    wanted: Places,
    /// For each required anti-affinity term: places where matching pods are.
    unwanted: Places,
    /// The pod satisfies its own affinity terms: the first of its kind may go anywhere.
    first_of_kind: bool,
    scores: Places,
}

/// Counts over all nodes.
pub fn prepare(pod: &PodInfo, nodes: &[&NodeInfo], labels: NamespaceLabels<'_>) -> State {
    let matches_all =
        |other: &PodInfo| !pod.affinity.is_empty() && pod.affinity.iter().all(|t| t.matches(&other.pod, labels));
    let mut state = State {
        unwelcome: Places::new(),
        wanted: Places::new(),
        unwanted: Places::new(),
        first_of_kind: matches_all(pod),
        scores: Places::new(),
    };
    let picky = !pod.affinity.is_empty() || !pod.anti_affinity.is_empty();
    let choosy = !pod.preferred.is_empty() || !pod.avoided.is_empty();
    for node in nodes {
        for other in node.pods.values() {
            for term in other.anti_affinity.iter().filter(|t| t.matches(&pod.pod, labels)) {
                count(&mut state.unwelcome, node, term, 1);
            }
            if picky && other.pod.metadata.deletion_timestamp.is_none() {
                if matches_all(other) {
                    pod.affinity.iter().for_each(|t| count(&mut state.wanted, node, t, 1));
                }
                for term in pod.anti_affinity.iter().filter(|t| t.matches(&other.pod, labels)) {
                    count(&mut state.unwanted, node, term, 1);
                }
            } else if picky {
                // A pod on its way out is no company, but is in the way until it is gone.
                for term in pod.anti_affinity.iter().filter(|t| t.matches(&other.pod, labels)) {
                    count(&mut state.unwanted, node, term, 1);
                }
            }
            if choosy || other.has_affinity() {
                weigh(&mut state.scores, pod, other, node, labels);
            }
        }
    }
    state
}

fn weigh(scores: &mut Places, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, labels: NamespaceLabels<'_>) {
    let mut add = |terms: &[Term], subject: &PodInfo, weight: &dyn Fn(&Term) -> i64| {
        for term in terms.iter().filter(|t| t.matches(&subject.pod, labels)) {
            count(scores, node, term, weight(term));
        }
    };
    add(&pod.preferred, other, &|t| t.weight);
    add(&pod.avoided, other, &|t| -t.weight);
    add(&other.preferred, pod, &|t| t.weight);
    add(&other.avoided, pod, &|t| -t.weight);
    add(&other.affinity, pod, &|_| HARD);
}

fn place(node: &NodeInfo, key: &str) -> Option<(String, String)> {
    Some((key.to_owned(), node.label(key)?.to_owned()))
}

fn count(places: &mut Places, node: &NodeInfo, term: &Term, weight: i64) {
    if let Some(place) = place(node, &term.key) {
        *places.entry(place).or_default() += weight;
    }
}

fn at(places: &Places, node: &NodeInfo, key: &str) -> i64 {
    place(node, key).and_then(|p| places.get(&p).copied()).unwrap_or(0)
}

impl State {
    /// Says no where the company is wrong.
    pub fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let no = |reason: &str| Err(Rejection::one(Plugin::InterPodAffinity, reason));
        let has_keys = pod.affinity.iter().all(|t| node.label(&t.key).is_some());
        let in_company = pod.affinity.iter().all(|t| at(&self.wanted, node, &t.key) > 0);
        let alone = self.first_of_kind && self.wanted.is_empty();
        if !pod.affinity.is_empty() && !(has_keys && (in_company || alone)) {
            return no("node(s) didn't match pod affinity rules");
        }
        if pod.anti_affinity.iter().any(|t| at(&self.unwanted, node, &t.key) > 0) {
            return no("node(s) didn't match pod anti-affinity rules");
        }
        if self.unwelcome.iter().any(|((key, value), n)| *n > 0 && node.label(key) == Some(value)) {
            return no("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        Ok(())
    }

    /// From the least to the most liked place, 0 to 100.
    pub fn score(&self, nodes: &[&NodeInfo]) -> Vec<i64> {
        if self.scores.is_empty() {
            return vec![0; nodes.len()];
        }
        let sum = |node: &NodeInfo| -> i64 {
            self.scores.iter().filter(|((key, value), _)| node.label(key) == Some(value)).map(|(_, n)| n).sum()
        };
        let sums: Vec<i64> = nodes.iter().map(|n| sum(n)).collect();
        let (least, most) = (sums.iter().min().copied().unwrap_or(0), sums.iter().max().copied().unwrap_or(0));
        sums.iter().map(|s| if most == least { 0 } else { 100 * (s - least) / (most - least) }).collect()
    }
}
