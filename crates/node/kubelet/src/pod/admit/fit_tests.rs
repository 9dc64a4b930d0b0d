//! Tables: what fits, in upstream's words.

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::claim::Claim;
use super::fit::{Reason, Room, reasons};
use super::placement::{Misfit, misfits};
use super::preempt::victims;
use crate::pod::ledger::Ledger;
use crate::resources::Asked;

fn pod(container: Value, more: Value) -> Pod {
    let mut spec = json!({"containers": [{"name": "c"}]});
    for (k, v) in container.as_object().unwrap() {
        spec["containers"][0][k] = v.clone();
    }
    for (k, v) in more.as_object().unwrap() {
        spec[k] = v.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).unwrap()
}

fn asks(requests: Value) -> Claim {
    Claim::of(&pod(json!({"resources": {"requests": requests}}), json!({})))
}

fn port(port: Value) -> Claim {
    Claim::of(&pod(json!({"ports": [port]}), json!({})))
}

fn room() -> Room {
    let others = [("ephemeral-storage", 1000), ("hugepages-2Mi", 0), ("example.com/x", 2)];
    Room {
        asked: Asked { cpu: 2000, memory: 1 << 30 },
        pods: 3,
        others: others.map(|(name, n)| (name.to_owned(), n)).into(),
    }
}

fn words(claim: &Claim, others: &[Claim], misfits: &[Misfit]) -> Vec<(String, String)> {
    reasons(claim, others.iter(), &room(), misfits).iter().map(Reason::words).collect()
}

#[test]
fn resources_in_upstreams_words() {
    let taken = [asks(json!({"cpu": "1500m", "memory": "512Mi", "example.com/x": "1"}))];
    for (requests, reason, message) in [
        (json!({"cpu": "501m"}), "OutOfcpu", "cpu, requested: 501, used: 1500, capacity: 2000"),
        (
            json!({"memory": "513Mi"}),
            "OutOfmemory",
            "memory, requested: 537919488, used: 536870912, capacity: 1073741824",
        ),
        (
            json!({"ephemeral-storage": "1001"}),
            "OutOfephemeral-storage",
            "ephemeral-storage, requested: 1001, used: 0, capacity: 1000",
        ),
        (
            json!({"hugepages-2Mi": "2Mi"}),
            "OutOfhugepages-2Mi",
            "hugepages-2Mi, requested: 2097152, used: 0, capacity: 0",
        ),
        (json!({"example.com/x": "2"}), "OutOfexample.com/x", "example.com/x, requested: 2, used: 1, capacity: 2"),
    ] {
        let expected = (reason.to_owned(), format!("Node didn't have enough resource: {message}"));
        assert_eq!(words(&asks(requests.clone()), &taken, &[]), [expected], "{requests}");
    }
    for requests in [json!({}), json!({"cpu": "500m", "memory": "512Mi"}), json!({"example.com/unknown": "9"})] {
        assert!(words(&asks(requests.clone()), &taken, &[]).is_empty(), "{requests}");
    }
    let three = [asks(json!({})), asks(json!({})), asks(json!({}))];
    let expected = "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
    assert_eq!(words(&asks(json!({})), &three, &[]), [("OutOfpods".to_owned(), expected.to_owned())]);
}

#[test]
fn host_ports_are_had_once() {
    let taken = [port(json!({"containerPort": 80, "hostPort": 8080, "hostIP": "10.0.0.1"}))];
    for (other, free) in [
        (json!({"containerPort": 80}), true),
        (json!({"containerPort": 80, "hostPort": 8081}), true),
        (json!({"containerPort": 80, "hostPort": 8080, "protocol": "UDP"}), true),
        (json!({"containerPort": 80, "hostPort": 8080, "hostIP": "10.0.0.2"}), true),
        (json!({"containerPort": 80, "hostPort": 8080, "hostIP": "10.0.0.1"}), false),
        (json!({"containerPort": 80, "hostPort": 8080}), false),
        (json!({"containerPort": 80, "hostPort": 8080, "hostIP": ""}), false),
    ] {
        let found = words(&port(other.clone()), &taken, &[]);
        let clash = (
            "NodePorts".to_owned(),
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".to_owned(),
        );
        assert_eq!(found, if free { vec![] } else { vec![clash] }, "{other}");
    }
    let on_host = Claim::of(&pod(json!({"ports": [{"containerPort": 8080}]}), json!({"hostNetwork": true})));
    assert_eq!(words(&on_host, &taken, &[]).len(), 1, "a pod on the host's network has the port it names");
}

#[test]
fn nodes_that_do_not_suit() {
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": "a", "labels": {"disk": "ssd", "cores": "8"}},
        "spec": {"taints": [{"key": "gone", "effect": "NoExecute"}, {"key": "x", "effect": "NoSchedule"}]}
    }))
    .unwrap();
    let tolerant = json!([{"operator": "Exists"}]);
    let required = |term: Value| {
        let selector = json!({"nodeSelectorTerms": [term]});
        json!({"tolerations": [{"operator": "Exists"}],
               "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": selector}}})
    };
    let expression = |key: &str, operator: &str, values: &[&str]| {
        required(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
    };
    for (spec, expected) in [
        (json!({"tolerations": tolerant}), vec![]),
        (json!({}), vec![Misfit::Taint]),
        (json!({"tolerations": [{"key": "gone", "operator": "Exists", "effect": "NoExecute"}]}), vec![]),
        (json!({"tolerations": [{"key": "gone", "value": "other"}]}), vec![Misfit::Taint]),
        (json!({"tolerations": tolerant, "nodeSelector": {"disk": "ssd"}}), vec![]),
        (json!({"tolerations": tolerant, "nodeSelector": {"disk": "hdd"}}), vec![Misfit::Affinity]),
        (json!({"tolerations": tolerant, "nodeName": "b"}), vec![Misfit::Name]),
        (expression("disk", "In", &["ssd", "nvme"]), vec![]),
        (expression("disk", "NotIn", &["ssd"]), vec![Misfit::Affinity]),
        (expression("cores", "Gt", &["4"]), vec![]),
        (expression("cores", "Lt", &["4"]), vec![Misfit::Affinity]),
        (expression("gpu", "DoesNotExist", &[]), vec![]),
        (expression("gpu", "Exists", &[]), vec![Misfit::Affinity]),
        (required(json!({})), vec![Misfit::Affinity]),
        (required(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]})), vec![]),
        (
            required(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]})),
            vec![Misfit::Affinity],
        ),
    ] {
        assert_eq!(misfits(&pod(json!({}), spec.clone()), &node, false, false), expected, "{spec}");
    }
    let wants = pod(json!({}), json!({"nodeSelector": {"disk": "hdd"}}));
    assert_eq!(misfits(&wants, &node, false, false), [Misfit::Affinity, Misfit::Taint]);
    assert!(misfits(&wants, &node, true, false).is_empty(), "what started stays");
    assert_eq!(misfits(&wants, &node, false, true), [Misfit::Affinity], "pods from files tolerate taints");
    let reported = words(&Claim::of(&wants), &[], &[Misfit::Taint, Misfit::Affinity]);
    assert_eq!(reported[0].0, "NodeAffinity");
    assert_eq!(reported[0].1, "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector");
    assert_eq!(reported[1].1, "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate");
}

#[test]
fn admission_is_one_after_the_other() {
    let ledger = Ledger::new(room().asked);
    let one = asks(json!({"cpu": "1500m"}));
    assert_eq!(ledger.admit("a", &one, &room(), &[]), Ok(()));
    let refused = ledger.admit("b", &one, &room(), &[]).unwrap_err();
    assert_eq!(refused[0].words().0, "OutOfcpu");
    assert_eq!(ledger.admit("a", &one, &room(), &[]), Ok(()), "a pod is not in its own way");
    ledger.leave("a");
    assert_eq!(ledger.admit("b", &one, &room(), &[]), Ok(()));
    assert!(ledger.admit("c", &one, &room(), &[]).is_err());
    ledger.removed("b");
    assert_eq!(ledger.admit("c", &one, &room(), &[]), Ok(()), "a pod that was deleted by force is in nobody's way");
}

#[test]
fn critical_pods_take_from_the_least() {
    let critical = |requests: Value| {
        Claim::of(&pod(json!({"resources": {"requests": requests}}), json!({"priority": 2_000_001_000})))
    };
    let guaranteed = |cpu: &str| {
        Claim::of(&pod(json!({"resources": {"limits": {"cpu": cpu, "memory": "1Mi"}}}), json!({"priority": 0})))
    };
    let others =
        [("be", asks(json!({}))), ("small", asks(json!({"cpu": "400m"}))), ("big", asks(json!({"cpu": "900m"})))];
    let choose = |wanted: &Claim, others: &[(&str, Claim)]| {
        let mut room = room();
        room.pods = 100;
        let reasons = reasons(wanted, others.iter().map(|(_, c)| c), &room, &[]);
        victims(wanted, others.iter().map(|(uid, c)| (*uid, c)), &reasons)
    };
    // 1300 of 2000 are taken.
    assert_eq!(choose(&critical(json!({"cpu": "1"})), &others), Ok(vec!["small".to_owned()]));
    assert_eq!(choose(&critical(json!({"cpu": "1500m"})), &others), Ok(vec!["big".to_owned()]));
    let all = choose(&critical(json!({"cpu": "2"})), &others).unwrap();
    assert_eq!(all.len(), 2, "{all:?}");
    let mixed = [("g", guaranteed("1")), ("b", asks(json!({"cpu": "1"})))];
    assert_eq!(choose(&critical(json!({"cpu": "500m"})), &mixed), Ok(vec!["b".to_owned()]));
    let equals = [("c", critical(json!({"cpu": "2"})))];
    let error = choose(&critical(json!({"cpu": "1"})), &equals).unwrap_err();
    assert!(error.contains("(res: cpu, q: 1000)"), "{error}");
}
