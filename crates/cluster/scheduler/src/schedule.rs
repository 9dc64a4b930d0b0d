//! One decision: a pod, a snapshot, a node. No IO, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cache::Snapshot;
use crate::node_info::NodeInfo;
use crate::plugins::{Plugin, Surroundings, prepare};
use crate::pod_info::PodInfo;

/// Why no node does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoFit {
    /// `0/3 nodes are available: ...` as upstream words it.
    pub message: String,
    /// Who said no.
    pub plugins: BTreeSet<Plugin>,
}

/// The best node's name. Of equally good ones `pick` chooses (an index below its argument).
pub fn schedule(
    pod: &PodInfo,
    snapshot: &Snapshot,
    around: &Surroundings<'_>,
    pick: &mut dyn FnMut(usize) -> usize,
) -> Result<String, NoFit> {
    if snapshot.is_empty() {
        let plugins = BTreeSet::from([Plugin::NodeName]);
        return Err(NoFit { message: "no nodes available to schedule pods".to_owned(), plugins });
    }
    let nodes: Vec<&NodeInfo> = snapshot.iter().map(Arc::as_ref).collect();
    let prepared = prepare(pod, &nodes, around);
    if let Some(rejection) = prepared.problem() {
        let message = format!("0/{} nodes are available: {}.", nodes.len(), rejection.reasons.join(", "));
        return Err(NoFit { message, plugins: BTreeSet::from([rejection.plugin]) });
    }
    let mut fitting = Vec::new();
    let (mut reasons, mut plugins) = (BTreeMap::<String, usize>::new(), BTreeSet::new());
    for node in &nodes {
        match prepared.filter(node) {
            Ok(()) => fitting.push(*node),
            Err(rejection) => {
                plugins.insert(rejection.plugin);
                for reason in rejection.reasons {
                    *reasons.entry(reason).or_default() += 1;
                }
            }
        }
    }
    if fitting.is_empty() {
        return Err(NoFit { message: message(nodes.len(), &reasons), plugins });
    }
    let scores = prepared.score(&fitting);
    let best = scores.iter().max().copied().unwrap_or(0);
    let tied: Vec<&NodeInfo> =
        fitting.iter().zip(&scores).filter(|(_, score)| **score == best).map(|(node, _)| *node).collect();
    let chosen = tied.get(pick(tied.len())).or(tied.first()).map(|n| n.name());
    Ok(chosen.unwrap_or_default())
}

fn message(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    let mut parts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::volumes::PodVolumes;
    use k8s_openapi::api::core::v1::{Node, Pod};
    use serde_json::{Value, json};

    fn node(name: &str, labels: Value, taints: Value, cpu: &str) -> NodeInfo {
        let mut labels = labels;
        labels["kubernetes.io/hostname"] = json!(name);
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": labels}, "spec": {"taints": taints},
            "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "110"}}
        }))
        .unwrap();
        let mut info = NodeInfo::default();
        info.set_node(Arc::new(node));
        info
    }

    fn pod(name: &str, spec: Value) -> Arc<PodInfo> {
        let mut whole = json!({"containers": [{"name": "c", "image": "i"}]});
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": name, "namespace": "n", "labels": {"app": "x"}}, "spec": whole}),
        )
        .unwrap();
        PodInfo::new(Arc::new(pod))
    }

    fn with(mut node: NodeInfo, pods: &[Arc<PodInfo>]) -> NodeInfo {
        for (i, pod) in pods.iter().enumerate() {
            node.add(&format!("n/{i}"), pod.clone());
        }
        node
    }

    fn run(pod: &PodInfo, nodes: Vec<NodeInfo>) -> Result<String, String> {
        let snapshot = nodes.into_iter().map(Arc::new).collect();
        let around = Surroundings { namespace_labels: &|_| None, workload: None, volumes: &PodVolumes::default() };
        schedule(pod, &snapshot, &around, &mut |_| 0).map_err(|e| e.message)
    }

    fn request(cpu: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }

    #[test]
    fn the_message_counts_reasons_as_upstream() {
        let taint = json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]);
        let nodes = || {
            vec![
                node("a", json!({}), taint.clone(), "4"),
                node("b", json!({}), json!([]), "1"),
                node("c", json!({}), json!([]), "1"),
            ]
        };
        assert_eq!(
            run(&pod("p", request("2")), nodes()).unwrap_err(),
            "0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2 Insufficient cpu."
        );
        let tolerant = json!({"tolerations": [{"operator": "Exists"}], "containers": request("2")["containers"]});
        assert_eq!(run(&pod("p", tolerant), nodes()), Ok("a".into()));
        assert_eq!(run(&pod("p", json!({})), vec![]).unwrap_err(), "no nodes available to schedule pods");
    }

    #[test]
    fn filters() {
        let free = || node("a", json!({"disk": "ssd", "n": "5"}), json!([]), "4");
        let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
        let affinity = |op: &str, values: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "n", "operator": op, "values": values}]}]}}}})
        };
        for (what, spec, node, fits) in [
            ("selector", json!({"nodeSelector": {"disk": "ssd"}}), free(), true),
            ("selector", json!({"nodeSelector": {"disk": "hdd"}}), free(), false),
            ("gt", affinity("Gt", json!(["4"])), free(), true),
            ("lt", affinity("Lt", json!(["4"])), free(), false),
            ("port", port.clone(), free(), true),
            ("port", port.clone(), with(free(), &[pod("q", port)]), false),
            ("cpu", request("1"), with(free(), &[pod("q", request("3500m"))]), false),
            ("cpu", request("500m"), with(free(), &[pod("q", request("3500m"))]), true),
        ] {
            assert_eq!(run(&pod("p", spec.clone()), vec![node]).is_ok(), fits, "{what} {spec}");
        }
    }

    #[test]
    fn company() {
        let term = |key: &str| json!([{"topologyKey": key, "labelSelector": {"matchLabels": {"app": "x"}}}]);
        let hard = |kind: &str, key: &str| json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": term(key)}}});
        let (zone, host) = ("zone", "kubernetes.io/hostname");
        let nodes = |pods: &[Arc<PodInfo>]| {
            vec![
                with(node("a", json!({"zone": "1"}), json!([]), "4"), pods),
                node("b", json!({"zone": "1"}), json!([]), "4"),
                node("c", json!({"zone": "2"}), json!([]), "4"),
            ]
        };
        let plain = [pod("q", json!({}))];
        let shy = [pod("q", hard("podAntiAffinity", zone))];
        assert_eq!(run(&pod("p", hard("podAntiAffinity", zone)), nodes(&plain)), Ok("c".into()));
        assert_eq!(run(&pod("p", json!({})), nodes(&shy)), Ok("c".into()), "others' wishes count");
        assert!(["a", "b"].contains(&run(&pod("p", hard("podAffinity", zone)), nodes(&plain)).unwrap().as_str()));
        assert_eq!(run(&pod("p", hard("podAffinity", host)), nodes(&plain)), Ok("a".into()));
        assert!(run(&pod("p", hard("podAffinity", zone)), nodes(&[])).is_ok(), "the first of its kind");
        assert!(run(&pod("p", hard("podAffinity", "rack")), nodes(&[])).is_err(), "no node has that label");
    }

    #[test]
    fn spread() {
        let constraint = |min: Option<i32>| {
            json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "x"}}, "minDomains": min}]})
        };
        let nodes = || {
            vec![
                with(node("a", json!({"zone": "1"}), json!([]), "4"), &[pod("q", json!({}))]),
                node("b", json!({"zone": "2"}), json!([]), "1"),
                node("c", json!({}), json!([]), "4"),
            ]
        };
        assert_eq!(run(&pod("p", constraint(None)), nodes()), Ok("b".into()));
        let message = run(&pod("p", constraint(Some(3))), vec![nodes().remove(0)]).unwrap_err();
        assert_eq!(message, "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints.");
    }

    #[test]
    fn emptier_nodes_are_better() {
        let busy = with(node("a", json!({}), json!([]), "4"), &[pod("q", request("3"))]);
        assert_eq!(run(&pod("p", request("100m")), vec![busy, node("b", json!({}), json!([]), "4")]), Ok("b".into()));
        let soft = json!([{"key": "k", "effect": "PreferNoSchedule"}]);
        let nodes = vec![node("a", json!({}), soft, "4"), node("b", json!({}), json!([]), "4")];
        assert_eq!(run(&pod("p", json!({})), nodes), Ok("b".into()));
    }

    #[test]
    fn replicas_share_equal_nodes() {
        let selector: kube::core::Selector =
            [kube::core::Expression::Equal("app".into(), "x".into())].into_iter().collect();
        for images in [json!([]), json!([{"names": ["i:latest"], "sizeBytes": 800_000_000}])] {
            let mut nodes = [node("a", json!({}), json!([]), "4"), node("b", json!({}), json!([]), "4")];
            // The first node has the image already: even so it does not get all.
            let mut with_image = (**nodes[0].node.as_ref().unwrap()).clone();
            with_image.status.as_mut().unwrap().images = serde_json::from_value(images.clone()).unwrap();
            nodes[0].set_node(Arc::new(with_image));
            let mut counts = [0, 0];
            for i in 0..6 {
                let replica = pod(&format!("p{i}"), json!({}));
                let snapshot = nodes.iter().cloned().map(Arc::new).collect();
                let around = Surroundings {
                    namespace_labels: &|_| None,
                    workload: Some(selector.clone()),
                    volumes: &PodVolumes::default(),
                };
                let chosen = schedule(&replica, &snapshot, &around, &mut |_| 0).unwrap();
                let index = nodes.iter().position(|n| n.name() == chosen).unwrap();
                nodes[index].add(&format!("n/p{i}"), replica);
                counts[index] += 1;
            }
            assert_eq!(counts, [3, 3], "{images}");
        }
    }
}
