//! What Go writes although it is empty, in answers.

use reqwest::Method;
use serde_json::{Value, json};

use crate::Api;

/// A template of pods, as small as it can be.
fn template() -> Value {
    json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

/// Path, object, and what is read back of it: JSON pointers with their values.
type Row = (&'static str, Value, Vec<(&'static str, Value)>);

/// Minimal objects.
fn table() -> Vec<Row> {
    let selector = json!({"matchLabels": {"a": "b"}});
    vec![
        (
            "/apis/apps/v1/namespaces/default/daemonsets",
            json!({"metadata": {"name": "x"}, "spec": {"selector": selector, "template": template()}}),
            vec![
                ("/status/numberReady", json!(0)),
                ("/status/desiredNumberScheduled", json!(0)),
                ("/status/currentNumberScheduled", json!(0)),
                ("/status/numberMisscheduled", json!(0)),
                ("/spec/template/spec/containers/0/resources", json!({})),
            ],
        ),
        (
            "/api/v1/namespaces/default/replicationcontrollers",
            json!({"metadata": {"name": "x"}, "spec": {"selector": {"a": "b"}, "template": template()}}),
            vec![("/status/replicas", json!(0))],
        ),
        (
            "/apis/apps/v1/namespaces/default/deployments",
            json!({"metadata": {"name": "x"}, "spec": {"selector": selector, "template": template()}}),
            vec![("/status", json!({}))],
        ),
        (
            "/apis/apps/v1/namespaces/default/statefulsets",
            json!({"metadata": {"name": "x"}, "spec": {"selector": selector, "serviceName": "", "template": template()}}),
            vec![("/status/replicas", json!(0)), ("/spec/serviceName", json!(""))],
        ),
        (
            "/api/v1/namespaces/default/events",
            json!({"metadata": {"name": "x", "namespace": "default"}, "involvedObject": {"namespace": "default"}, "type": "Normal"}),
            vec![
                ("/lastTimestamp", Value::Null),
                ("/firstTimestamp", Value::Null),
                ("/eventTime", Value::Null),
                ("/source", json!({})),
                ("/reportingComponent", json!("")),
                ("/reportingInstance", json!("")),
            ],
        ),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            json!({"metadata": {"name": "x"}}),
            vec![("/rules", Value::Null)],
        ),
        (
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
            json!({"metadata": {"name": "x"}, "spec": {"selector": selector, "minAvailable": 1}}),
            vec![("/status/currentHealthy", json!(0)), ("/status/expectedPods", json!(0))],
        ),
        (
            "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers",
            json!({"metadata": {"name": "x"}, "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "x"}}}),
            vec![("/status/currentReplicas", json!(0)), ("/status/desiredReplicas", json!(0))],
        ),
        (
            "/api/v1/nodes",
            json!({"metadata": {"name": "x"}}),
            vec![
                ("/status/nodeInfo/kernelVersion", json!("")),
                ("/status/daemonEndpoints/kubeletEndpoint/Port", json!(0)),
            ],
        ),
        (
            "/api/v1/namespaces/default/services",
            json!({"metadata": {"name": "x"}, "spec": {"ports": [{"port": 80}]}}),
            vec![("/status/loadBalancer", json!({})), ("/spec/ports/0/targetPort", json!(80))],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn minimal_objects_have_gos_zeros() {
    let api = Api::start().await;
    for (path, object, wanted) in table() {
        let created = api.create(path, object).await;
        let (_, read) = api.get(&format!("{path}/x")).await;
        assert_eq!(read, created, "the answer of a create is what is stored");
        for (pointer, value) in wanted {
            assert_eq!(read.pointer(pointer), Some(&value), "{path} {pointer}: {read}");
        }
        // Sent back as it is, it changes nothing.
        let (code, same) = api.send(Method::PUT, &format!("{path}/x"), crate::JSON, &read).await;
        assert_eq!((code, &same), (200, &read), "{path}");
    }
    let (_, event) = api.get("/apis/events.k8s.io/v1/namespaces/default/events/x").await;
    assert_eq!(event.get("deprecatedLastTimestamp"), Some(&Value::Null), "{event}");
    assert_eq!(event["deprecatedSource"], json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_and_scales_too() {
    let api = Api::start().await;
    let (path, object, _) = table().swap_remove(2);
    api.create(path, object).await;
    let (_, scale) = api.get(&format!("{path}/x/scale")).await;
    assert_eq!(scale["status"]["replicas"], 0, "{scale}");
    let review = json!({"spec": {"nonResourceAttributes": {"path": "/x", "verb": "get"}, "user": "nobody"}});
    let answer = api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review).await;
    assert_eq!(answer["status"]["allowed"], false, "{answer}");
}

/// Field selectors compare with zero values, too.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_schedulable_are_selected() {
    let api = Api::start().await;
    api.create("/api/v1/nodes", json!({"metadata": {"name": "a"}})).await;
    api.create("/api/v1/nodes", json!({"metadata": {"name": "b"}, "spec": {"unschedulable": true}})).await;
    for (selector, wanted) in
        [("spec.unschedulable%3Dfalse", "a"), ("spec.unschedulable%3Dtrue", "b"), ("spec.unschedulable!%3Dtrue", "a")]
    {
        let (_, list) = api.get(&format!("/api/v1/nodes?fieldSelector={selector}")).await;
        let items = list["items"].as_array().unwrap();
        assert!(items.len() == 1 && items[0]["metadata"]["name"] == wanted, "{selector}: {list}");
    }
    assert_eq!(api.get("/api/v1/nodes?fieldSelector=spec.nodeName%3D").await.0, 400);
}
