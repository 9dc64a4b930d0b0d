//! APIServices of what this server has itself, and what may be done with APIServices.

use reqwest::Method;
use serde_json::{Value, json};

use crate::extension::Manner;
use crate::{METRICS, NODES, SERVICES, World, available, reason};

const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_registered() {
    let world = World::start().await;
    let (_, list) = world.get(SERVICES).await;
    let items = list["items"].as_array().unwrap();
    assert!(items.len() > 15, "{}", items.len());
    for object in items {
        assert_eq!((reason(object).as_str(), &object["metadata"]["labels"][LABEL]), ("Local", &json!("onstart")));
    }
    let (_, core) = world.get(&format!("{SERVICES}/v1.")).await;
    assert_eq!(core["spec"], json!({"version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1}));
    assert_eq!(available(&core)["message"], "Local APIServices are always available");
    assert_eq!(world.get(&format!("{SERVICES}/v1.apiregistration.k8s.io")).await.0, 404);
    // Those of definitions come and go with them.
    let names = json!({"plural": "widgets", "kind": "Widget"});
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    let definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": names, "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema},
            {"name": "v2", "served": false, "storage": false, "schema": schema}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(world.send(Method::POST, definitions, &definition).await.0, 201);
    let path = format!("{SERVICES}/v1.example.com");
    let object = world.until(&path, |o| reason(o) == "Local").await;
    assert_eq!(object["metadata"]["labels"][LABEL], "true");
    assert_eq!(object["spec"]["groupPriorityMinimum"], 1000);
    assert_eq!(world.get(&format!("{SERVICES}/v2.example.com")).await.0, 404);
    // One that is deleted comes back, as long as it is wanted.
    world.send(Method::DELETE, &path, &Value::Null).await;
    let uid = object["metadata"]["uid"].clone();
    world.until(&path, |o| reason(o) == "Local" && o["metadata"]["uid"] != uid).await;
    world.send(Method::DELETE, &format!("{definitions}/widgets.example.com"), &Value::Null).await;
    world.until(&path, |o| o["code"] == 404).await;
}

/// The steps of the conformance test "Sample API Server" that concern APIServices.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_service_lives() {
    let (world, _extension) = World::with_extension(Manner::Good).await;
    let status = format!("{METRICS}/status");
    assert_eq!(available(&world.get(&status).await.1)["status"], "True");
    let merge = "application/merge-patch+json";
    let patch = json!({"metadata": {"labels": {"sample": "patched"}}, "spec": {"versionPriority": 400}});
    let (code, answer) = world.send_as(Method::PATCH, METRICS, merge, &patch).await;
    assert_eq!((code, &answer["spec"]["versionPriority"]), (200, &json!(400)), "{answer}");
    let (_, mut object) = world.get(&status).await;
    object["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "StatusUpdated", "status": "True",
        "reason": "E2E", "message": "Set by e2e test", "lastTransitionTime": "2026-01-01T00:00:00Z"}));
    let (code, answer) = world.send(Method::PUT, &status, &object).await;
    assert_eq!(code, 200, "{answer}");
    let patch = json!({"status": {"conditions": [{"type": "StatusPatched", "status": "True"}]}});
    let (code, answer) = world.send_as(Method::PATCH, &status, "application/strategic-merge-patch+json", &patch).await;
    let conditions = answer["status"]["conditions"].as_array().unwrap();
    let types: Vec<&str> = conditions.iter().map(|c| c["type"].as_str().unwrap()).collect();
    assert_eq!((code, types.len()), (200, 3), "{answer}");
    assert!(["StatusPatched", "StatusUpdated", "Available"].iter().all(|t| types.contains(t)));
    let (code, mut object) = world.get(METRICS).await;
    assert_eq!(code, 200);
    object["metadata"]["labels"] = json!({"sample": "updated"});
    let (code, answer) = world.send(Method::PUT, METRICS, &object).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(world.get(NODES).await.0, 200);
    let (code, list) = world.get(&format!("{SERVICES}?labelSelector=sample%3Dupdated")).await;
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 1));
    let path = format!("{SERVICES}?labelSelector=sample%3Dupdated");
    assert_eq!(world.send(Method::DELETE, &path, &Value::Null).await.0, 200);
    assert_eq!(world.get(METRICS).await.0, 404);
    assert_eq!(world.get(&format!("{SERVICES}/v1.apps")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn extension_servers_can_know_us() {
    let world = World::start().await;
    let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let (_, map) = world.get(path).await;
    let data = &map["data"];
    for (key, want) in [
        ("client-ca-file", std::fs::read_to_string(world.api.pki.file("ca.crt")).unwrap()),
        ("requestheader-client-ca-file", std::fs::read_to_string(world.api.pki.file("front-proxy-ca.crt")).unwrap()),
        ("requestheader-allowed-names", "[\"front-proxy-client\"]".into()),
        ("requestheader-username-headers", "[\"X-Remote-User\"]".into()),
        ("requestheader-group-headers", "[\"X-Remote-Group\"]".into()),
        ("requestheader-extra-headers-prefix", "[\"X-Remote-Extra-\"]".into()),
    ] {
        assert_eq!(data[key], want, "{key}");
    }
    let path =
        "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles/extension-apiserver-authentication-reader";
    assert_eq!(world.get(path).await.1["rules"][0]["resourceNames"], json!(["extension-apiserver-authentication"]));
    assert_eq!(world.get("/apis/rbac.authorization.k8s.io/v1/clusterroles/system:auth-delegator").await.0, 200);
}
