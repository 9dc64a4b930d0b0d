//! What may change of an object, through the whole chain.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{Api, JSON, MERGE, STRATEGIC};

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn pod(api: &Api, name: &str) -> String {
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    if api.get(&format!("{accounts}/default")).await.0 == 404 {
        api.create(accounts, json!({"metadata": {"name": "default"}})).await;
    }
    let spec = json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}],
        "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]});
    api.create(PODS, json!({"metadata": {"name": name}, "spec": spec})).await;
    format!("{PODS}/{name}")
}

#[tokio::test(flavor = "multi_thread")]
async fn pods() {
    let api = Api::start().await;
    let path = pod(&api, "p").await;
    let (_, mut read) = api.get(&path).await;
    for toleration in read["spec"]["tolerations"].as_array_mut().unwrap() {
        toleration["tolerationSeconds"] = 5.into();
    }
    let (code, answer) = api.send(Method::PUT, &path, JSON, &read).await;
    assert_eq!(code, 200, "tolerationSeconds may change: {answer}");
    for (sub, patch, code) in [
        ("", json!({"spec": {"terminationGracePeriodSeconds": 5}}), 422),
        ("", json!({"spec": {"nodeName": "n"}}), 422),
        ("/status", json!({"status": {"qosClass": "Guaranteed"}}), 422),
        ("/status", json!({"status": {"podIPs": [{"ip": "nonsense"}]}}), 422),
        ("/status", json!({"status": {"phase": "Running"}}), 200),
        ("/resize", json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}}), 200),
        ("/resize", json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": null}}}]}}), 422),
        ("/ephemeralcontainers", json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "i"}]}}), 200),
        ("/ephemeralcontainers", json!({"spec": {"ephemeralContainers": [{"name": "c", "image": "i"}]}}), 422),
    ] {
        let (got, answer) = api.send(Method::PATCH, &format!("{path}{sub}"), STRATEGIC, &patch).await;
        assert_eq!(got, code, "{sub} {patch}: {answer}");
    }
    let debugged = json!({"metadata": {"name": "q"}, "spec": {"containers": [{"name": "c", "image": "i"}],
        "ephemeralContainers": [{"name": "d", "image": "i"}]}});
    let (code, answer) = api.send(Method::POST, PODS, JSON, &debugged).await;
    assert!(code == 422 && answer["message"].as_str().unwrap().contains("cannot be set on create"), "{answer}");
    let sysctl = json!({"metadata": {"name": "q"}, "spec": {"containers": [{"name": "c", "image": "i"}],
        "securityContext": {"sysctls": [{"name": "foo-", "value": "x"}]}}});
    let (code, answer) = api.send(Method::POST, PODS, JSON, &sysctl).await;
    assert!(
        code == 422 && answer["message"].as_str().unwrap().contains("must have at most 253 characters"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_requests_keep_annotations() {
    let api = Api::start().await;
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, request);
    let spec = json!({"request": encoded, "signerName": "example.com/x", "usages": ["digital signature"]});
    api.create(path, json!({"metadata": {"name": "r"}, "spec": spec})).await;
    for (sub, kind) in [("approval", "ApprovalPatch"), ("status", "StatusPatch")] {
        let condition = json!({"type": kind, "status": "True", "reason": "x", "message": "y"});
        let patch = json!({"metadata": {"annotations": {sub: "patched"}}, "spec": {"signerName": "other/x"}, "status": {"conditions": [condition]}});
        let (code, answer) = api.send(Method::PATCH, &format!("{path}/r/{sub}"), MERGE, &patch).await;
        assert_eq!(code, 200, "{answer}");
        assert_eq!(answer["metadata"]["annotations"][sub], "patched", "{answer}");
        assert_eq!(answer["spec"]["signerName"], "example.com/x");
        assert!(answer["status"]["conditions"].to_string().contains(kind), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn autoscalers_round_trip_through_v1() {
    let api = Api::start().await;
    let v2 = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let v1 = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let metric = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
    let behavior = json!({"scaleDown": {"stabilizationWindowSeconds": 60}});
    let spec = json!({"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "x", "apiVersion": "apps/v1"},
        "metrics": [metric], "behavior": behavior});
    let created = api.create(v2, json!({"metadata": {"name": "h"}, "spec": spec})).await;
    let condition = json!({"type": "AbleToScale", "status": "True"});
    let patch = json!({"status": {"conditions": [condition]}});
    api.send(Method::PATCH, &format!("{v2}/h/status"), MERGE, &patch).await;
    let (_, mut old) = api.get(&format!("{v1}/h")).await;
    old["spec"]["maxReplicas"] = 5.into();
    let (code, answer) = api.send(Method::PUT, &format!("{v1}/h"), JSON, &old).await;
    assert_eq!(code, 200, "{answer}");
    let (_, read) = api.get(&format!("{v2}/h")).await;
    assert_eq!(read["spec"]["maxReplicas"], 5);
    assert_eq!(read["spec"]["metrics"], created["spec"]["metrics"], "{read}");
    assert_eq!(read["spec"]["behavior"], created["spec"]["behavior"]);
    assert_eq!(read["status"]["conditions"][0]["type"], "AbleToScale");
    assert!(read["metadata"].get("annotations").is_none(), "{read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn small_rules_of_single_kinds() {
    let api = Api::start().await;
    // Address objects are named by addresses.
    let addresses = "/apis/networking.k8s.io/v1/ipaddresses";
    let reference = json!({"resource": "services", "namespace": "default", "name": "x"});
    api.create(addresses, json!({"metadata": {"name": "2001:db8::1"}, "spec": {"parentRef": reference}})).await;
    let (code, _) = api
        .send(Method::POST, addresses, JSON, &json!({"metadata": {"name": "x"}, "spec": {"parentRef": reference}}))
        .await;
    assert_eq!(code, 422);
    // A node's ranges come together.
    api.create("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    let patch = json!({"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]}});
    assert_eq!(api.send(Method::PATCH, "/api/v1/nodes/n", MERGE, &patch).await.0, 200);
    // A claim never shrinks below what it has.
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
    let mut object = claim("10Gi");
    object["metadata"] = json!({"name": "c"});
    object["spec"]["accessModes"] = json!(["ReadWriteOnce"]);
    object["spec"]["storageClassName"] = "grows".into();
    let class = json!({"metadata": {"name": "grows"}, "provisioner": "example.com/p", "allowVolumeExpansion": true});
    api.create("/apis/storage.k8s.io/v1/storageclasses", class).await;
    api.create(claims, object).await;
    assert_eq!(api.send(Method::PATCH, &format!("{claims}/c"), MERGE, &claim("20Gi")).await.0, 422, "not bound");
    let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "10Gi"}}});
    assert_eq!(api.send(Method::PATCH, &format!("{claims}/c/status"), MERGE, &bound).await.0, 200);
    for (size, code) in [("20Gi", 200), ("15Gi", 200), ("5Gi", 422)] {
        let (got, answer) = api.send(Method::PATCH, &format!("{claims}/c"), MERGE, &claim(size)).await;
        assert_eq!(got, code, "{size}: {answer}");
    }
    // Nor does it grow where nothing would make its volume grow.
    let mut fixed = claim("10Gi");
    fixed["metadata"] = json!({"name": "d"});
    fixed["spec"]["accessModes"] = json!(["ReadWriteOnce"]);
    api.create(claims, fixed).await;
    assert_eq!(api.send(Method::PATCH, &format!("{claims}/d/status"), MERGE, &bound).await.0, 200);
    let (got, answer) = api.send(Method::PATCH, &format!("{claims}/d"), MERGE, &claim("20Gi")).await;
    assert_eq!(got, 403, "{answer}");
    assert!(
        answer["message"].as_str().unwrap().contains("only dynamically provisioned pvc can be resized"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn scales_names_and_forms() {
    let api = Api::start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    api.create(
        path,
        json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}),
    )
    .await;
    let scale = |name: &str| json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"replicas": 2}});
    assert_eq!(api.send(Method::PUT, &format!("{path}/d/scale"), JSON, &scale("d")).await.0, 200);
    assert_eq!(api.send(Method::PUT, &format!("{path}/d/scale"), JSON, &scale("other")).await.0, 400);
    // A review is no Table; a watch is no YAML document.
    let review = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}).to_string();
    let request = api.request(Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews");
    let request = request.header("accept", "application/json;as=Table;g=meta.k8s.io;v=v1").header("content-type", JSON);
    assert_eq!(request.body(review).send().await.unwrap().status().as_u16(), 406);
    let request = api.request(Method::GET, "/api/v1/pods?watch=1").header("accept", "application/yaml");
    assert_eq!(request.send().await.unwrap().status().as_u16(), 406);
    // A first page of a named version is of that version.
    let maps = "/api/v1/namespaces/default/configmaps";
    let first = api.create(maps, json!({"metadata": {"name": "a"}})).await;
    api.create(maps, json!({"metadata": {"name": "b"}})).await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let (_, list) = api.get(&format!("{maps}?resourceVersion={version}&limit=10")).await;
    let names: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|m| &m["metadata"]["name"]).collect();
    assert_eq!(names, ["a"], "{list}");
    assert_eq!(list["metadata"]["resourceVersion"], version);
}

/// Documents are made once, and clients that have them are told so.
#[tokio::test(flavor = "multi_thread")]
async fn openapi_documents_have_tags() {
    let api = Api::start().await;
    for path in ["/openapi/v2", "/openapi/v3", "/openapi/v3/api/v1"] {
        let response = api.request(Method::GET, path).send().await.unwrap();
        let tag = response.headers()["etag"].to_str().unwrap().to_owned();
        assert!(response.json::<Value>().await.unwrap().is_object());
        let response = api.request(Method::GET, path).header("if-none-match", &tag).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 304, "{path}");
        let response = api.request(Method::GET, path).header("accept-encoding", "gzip").send().await.unwrap();
        assert_eq!(response.headers()["content-encoding"], "gzip");
    }
    let (_, index) = api.get("/openapi/v3").await;
    let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
    let current = api.request(Method::GET, url).send().await.unwrap();
    assert_eq!(
        (current.status().as_u16(), current.headers()["cache-control"].to_str().unwrap()),
        (200, "public, immutable")
    );
    let stale = api.request(Method::GET, "/openapi/v3/api/v1?hash=00").send().await.unwrap();
    assert_eq!((stale.status().as_u16(), stale.headers()["location"].to_str().unwrap()), (301, url));
}
