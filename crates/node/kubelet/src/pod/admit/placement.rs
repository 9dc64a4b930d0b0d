//! Whether a node is one that a pod may be on: labels, name, taints (`component-helpers/scheduling/corev1`). Pure.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};

/// What does not fit, in the order in which upstream tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Misfit {
    /// `nodeSelector` or the required node affinity.
    Affinity,
    /// `nodeName` is another's.
    Name,
    /// A host port is taken.
    Ports,
    /// A taint `NoExecute` is not tolerated.
    Taint,
}

impl Misfit {
    /// The plugin's name and its reason.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Affinity => ("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"),
            Self::Name => ("NodeName", "node(s) didn't match the requested node name"),
            Self::Ports => ("NodePorts", "node(s) didn't have free ports for the requested pod ports"),
            Self::Taint => ("TaintToleration", "node(s) had taints that the pod didn't tolerate"),
        }
    }
}

/// What of the node does not suit the pod. `known` pods were admitted before and have started: labels and taints that
/// changed since do not end them. Pods from files tolerate every taint.
pub fn misfits(pod: &Pod, node: &Node, known: bool, from_file: bool) -> Vec<Misfit> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut out = Vec::new();
    if !known && !likes(pod, node) {
        out.push(Misfit::Affinity);
    }
    let name = spec.node_name.as_deref().filter(|n| !n.is_empty());
    if name.is_some_and(|n| node.metadata.name.as_deref() != Some(n)) {
        out.push(Misfit::Name);
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten()).filter(|t| t.effect == "NoExecute");
    let tolerated = |taint: &Taint| tolerations.iter().any(|t| tolerates(t, taint));
    if !known && !from_file && !taints.into_iter().all(tolerated) {
        out.push(Misfit::Taint);
    }
    out
}

/// `nodeaffinity.GetRequiredNodeAffinity(pod).Match(node)`.
fn likes(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key)).map(String::as_str);
    if spec.node_selector.iter().flatten().any(|(key, value)| label(key) != Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| matches(term, node)))
}

/// An empty term matches nothing.
fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key)).map(String::as_str);
    // The only field there is; an unknown one reads as empty.
    let field = |key: &str| Some(if key == "metadata.name" { node.metadata.name.as_deref().unwrap_or("") } else { "" });
    !(labels.is_empty() && fields.is_empty())
        && labels.iter().all(|r| holds(r, label(&r.key)))
        && fields.iter().all(|r| matches!(r.operator.as_str(), "In" | "NotIn") && holds(r, field(&r.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |text: &str| text.parse::<i64>().ok();
    let compared = || Some((number(value?)?, number(values.first().filter(|_| values.len() == 1)?)?));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|v| values.iter().any(|o| o == v)),
        "NotIn" => value.is_none_or(|v| values.iter().all(|o| o != v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared().is_some_and(|(v, limit)| v > limit),
        "Lt" => compared().is_some_and(|(v, limit)| v < limit),
        _ => false,
    }
}

/// `Toleration.ToleratesTaint`, with the comparisons of v1.35 (`Lt`, `Gt`).
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    let (wanted, has) = (text(&toleration.value), text(&taint.value));
    let compared = || Some((has.parse::<i64>().ok()?, wanted.parse::<i64>().ok()?));
    match text(&toleration.operator).as_str() {
        "" | "Equal" => wanted == has,
        "Exists" => true,
        "Lt" => compared().is_some_and(|(has, limit)| has < limit),
        "Gt" => compared().is_some_and(|(has, limit)| has > limit),
        _ => false,
    }
}
