//! A pod with what the plugins ask of it worked out once.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, WeightedPodAffinityTerm};
use kinit_component_helpers::storage::claims_of;
use kube::ResourceExt;
use kube::core::{Expression, Selector, SelectorExt};

use crate::resources::{Request, request};

/// Labels of a namespace, for terms that select namespaces.
pub type NamespaceLabels<'a> = &'a dyn Fn(&str) -> Option<BTreeMap<String, String>>;

/// A pod affinity term, ready to be matched.
#[derive(Debug, Clone)]
pub struct Term {
    selector: Option<Selector>,
    namespaces: Vec<String>,
    namespace_selector: Option<Selector>,
    /// The label that makes nodes one place.
    pub key: String,
    /// For preferred terms.
    pub weight: i64,
}

/// A host port: address (0.0.0.0 for all), protocol, number.
pub type HostPort = (String, String, i32);

/// See the module.
#[derive(Debug, Clone)]
pub struct PodInfo {
    /// The object.
    pub pod: Arc<Pod>,
    /// What it asks for.
    pub request: Request,
    /// Host ports it wants.
    pub ports: Vec<HostPort>,
    /// Names of the claims of its volumes.
    pub claims: Vec<String>,
    /// Must be with such pods.
    pub affinity: Vec<Term>,
    /// Must not be with such pods.
    pub anti_affinity: Vec<Term>,
    /// Would rather be with such pods.
    pub preferred: Vec<Term>,
    /// Would rather not be with such pods.
    pub avoided: Vec<Term>,
}

impl PodInfo {
    /// Works it out.
    pub fn new(pod: Arc<Pod>) -> Arc<Self> {
        let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
        let (with, without) =
            (affinity.and_then(|a| a.pod_affinity.as_ref()), affinity.and_then(|a| a.pod_anti_affinity.as_ref()));
        let required = |terms: Option<&Vec<PodAffinityTerm>>| {
            terms.into_iter().flatten().map(|t| Term::new(t, &pod, 0)).collect::<Vec<_>>()
        };
        let weighted = |terms: Option<&Vec<WeightedPodAffinityTerm>>| {
            terms.into_iter().flatten().map(|t| Term::new(&t.pod_affinity_term, &pod, i64::from(t.weight))).collect()
        };
        Arc::new(Self {
            request: request(&pod),
            ports: host_ports(&pod),
            claims: claims_of(&pod).map(|c| c.claim).collect(),
            affinity: required(with.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
            anti_affinity: required(
                without.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred: weighted(with.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())),
            avoided: weighted(without.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())),
            pod: pod.clone(),
        })
    }

    /// Whether other pods matter to it, or it to them, by (anti-)affinity.
    pub fn has_affinity(&self) -> bool {
        let lists = [&self.affinity, &self.anti_affinity, &self.preferred, &self.avoided];
        lists.iter().any(|terms| !terms.is_empty())
    }
}

impl Term {
    fn new(term: &PodAffinityTerm, owner: &Pod, weight: i64) -> Self {
        let mut selector = term.label_selector.clone().and_then(|s| Selector::try_from(s).ok());
        let same = |key: &String| owner.labels().get(key).cloned().map(|value| (key.clone(), value));
        if let Some(selector) = &mut selector {
            let equal = term.match_label_keys.iter().flatten().filter_map(same);
            selector.extend(equal.map(|(k, v)| Expression::In(k, [v].into())));
            let other = term.mismatch_label_keys.iter().flatten().filter_map(same);
            selector.extend(other.map(|(k, v)| Expression::NotIn(k, [v].into())));
        }
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.extend(owner.namespace());
        }
        let namespace_selector = term.namespace_selector.clone().and_then(|s| Selector::try_from(s).ok());
        Self { selector, namespaces, namespace_selector, key: term.topology_key.clone(), weight }
    }

    /// Whether the term speaks of this pod. A term without a selector speaks of none.
    pub fn matches(&self, pod: &Pod, labels_of: NamespaceLabels<'_>) -> bool {
        let Some(selector) = &self.selector else { return false };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let here = self.namespaces.iter().any(|n| n == namespace)
            || self
                .namespace_selector
                .as_ref()
                .is_some_and(|s| s.selects_all() || labels_of(namespace).is_some_and(|labels| s.matches(&labels)));
        here && selector.matches(pod.labels())
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let number = p.host_port.filter(|n| *n > 0)?;
            let ip = p.host_ip.clone().filter(|ip| !ip.is_empty() && ip != "::").unwrap_or_else(|| "0.0.0.0".into());
            Some((ip, p.protocol.clone().unwrap_or_else(|| "TCP".into()), number))
        })
        .collect()
}
