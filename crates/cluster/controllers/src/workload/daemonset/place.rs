//! Where a daemon belongs.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};
use kinit_component_helpers::pod::node_name;
use kinit_component_helpers::{node_affinity, taints};

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
    let named = spec.node_name.as_deref().filter(|name| !name.is_empty());
    if named.is_some_and(|name| node.metadata.name.as_deref() != Some(name)) || !node_affinity::selects(spec, node) {
        return (false, false);
    }
    let tolerations = tolerations(spec);
    let stay = taints::untolerated(node, &tolerations, &["NoExecute"]).is_none();
    (stay && taints::untolerated(node, &tolerations, &["NoSchedule"]).is_none(), stay)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use serde_json::{Value, json};

    pub fn set(spec: Value) -> DaemonSet {
        let mut template = json!({"containers": []});
        for (key, value) in spec.as_object().unwrap() {
            template[key] = value.clone();
        }
        serde_json::from_value(
            json!({"metadata": {"name": "d"}, "spec": {"selector": {}, "template": {"spec": template}}}),
        )
        .unwrap()
    }

    pub fn node(name: &str, taints: &[(&str, &str)]) -> Arc<Node> {
        let taints: Vec<_> = taints.iter().map(|(k, e)| json!({"key": k, "effect": e})).collect();
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": name, "labels": {"disk": "ssd"}}, "spec": {"taints": taints}}),
            )
            .unwrap(),
        )
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
}
