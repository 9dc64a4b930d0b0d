//! Admission plugins that are off by default, and RuntimeClasses.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{Api, JSON, MERGE};

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [
        {"name": "c", "image": "registry.test/i:1", "imagePullPolicy": "IfNotPresent"}]}});
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    pod
}

/// A server with the account that pods run as.
async fn start(flags: &[&str]) -> Api {
    let api = Api::start_with(flags).await;
    api.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    api
}

#[tokio::test(flavor = "multi_thread")]
async fn on_request_only() {
    let api = start(&[]).await;
    let plain = api.create(PODS, pod("plain", json!({}))).await;
    assert_eq!(plain["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "externalIPs": ["192.0.2.1"]}});
    api.create(SERVICES, service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_always_pulled_and_external_addresses_refused() {
    let api = start(&["--enable-admission-plugins=NodeRestriction,AlwaysPullImages,DenyServiceExternalIPs"]).await;
    let spec = json!({"initContainers": [{"name": "i", "image": "registry.test/i:1", "imagePullPolicy": "Never"}]});
    let made = api.create(PODS, pod("a", spec)).await;
    for list in ["containers", "initContainers"] {
        assert_eq!(made["spec"][list][0]["imagePullPolicy"], "Always", "{list}");
    }

    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    api.create(SERVICES, service).await;
    let wanted = json!({"spec": {"externalIPs": ["192.0.2.1"]}});
    let (code, answer) = api.send(Method::PATCH, &format!("{SERVICES}/s"), MERGE, &wanted).await;
    assert_eq!(code, 403, "{answer}");
    assert_eq!(answer["message"], "services \"s\" is forbidden: Use of external IPs is denied by admission control");
    let (code, _) =
        api.send(Method::PATCH, &format!("{SERVICES}/s"), MERGE, &json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(code, 200, "other changes are nothing to it");
}

#[tokio::test(flavor = "multi_thread")]
async fn overhead_is_the_runtime_classs() {
    let api = start(&[]).await;
    let class = |name: &str, overhead: Value| json!({"metadata": {"name": name}, "handler": "h", "overhead": overhead});
    let classes = "/apis/node.k8s.io/v1/runtimeclasses";
    api.create(classes, class("heavy", json!({"podFixed": {"memory": "100Mi"}}))).await;
    api.create(classes, json!({"metadata": {"name": "light"}, "handler": "h"})).await;
    let made = api.create(PODS, pod("a", json!({"runtimeClassName": "heavy"}))).await;
    assert_eq!(made["spec"]["overhead"], json!({"memory": "100Mi"}));
    api.create(PODS, pod("b", json!({"runtimeClassName": "heavy", "overhead": {"memory": "102400Ki"}}))).await;
    for (spec, cause) in [
        (
            json!({"runtimeClassName": "heavy", "overhead": {"memory": "1Mi"}}),
            "doesn't match RuntimeClass's defined Overhead",
        ),
        (json!({"runtimeClassName": "light", "overhead": {"memory": "1Mi"}}), "set without corresponding RuntimeClass"),
        (json!({"overhead": {"memory": "1Mi"}}), "set without corresponding RuntimeClass"),
        (json!({"runtimeClassName": "none"}), "RuntimeClass \"none\" not found"),
    ] {
        let (code, answer) = api.send(Method::POST, PODS, JSON, &pod("c", spec.clone())).await;
        assert!(code == 403 && answer["message"].as_str().unwrap().contains(cause), "{spec}: {answer}");
    }
}
