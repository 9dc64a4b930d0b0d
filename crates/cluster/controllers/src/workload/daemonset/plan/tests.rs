//! Tables of nodes, their pods, and what follows.

use super::super::place::bind_to;
use super::super::place::tests::{node, set};
use super::*;
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::json;

fn pod(name: &str, node: &str, hash: &str, phase: &str, ready: bool) -> Arc<Pod> {
    let mut spec = PodSpec::default();
    bind_to(&mut spec, node);
    let status =
        json!({"phase": phase, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]});
    let mut pod: Pod =
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {HASH: hash}}, "status": status})).unwrap();
    pod.spec = Some(spec);
    Arc::new(pod)
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
    let both =
        by_node(&[old("a", true), new("a", false), old("b", false), new("b", false), old("c", true), new("c", true)]);
    let plan = manage(&d, &nodes, &both, "new", Timestamp::now());
    assert_eq!(plan.delete, ["b-old", "c-old"], "two stay only while the old one serves and the new one does not yet");
}
