//! Who owns which field, through the whole chain.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{Api, JSON, MERGE, STRATEGIC};

const APPLY: &str = "application/apply-patch+yaml";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data})
}

/// The entries as `manager operation apiVersion subresource`, and their fields.
fn owners(object: &Value) -> Vec<(String, Value)> {
    let list = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let words = |e: &Value| {
        let word = |key: &str| e[key].as_str().unwrap_or("-").to_owned();
        [word("manager"), word("operation"), word("apiVersion"), word("subresource")].join(" ")
    };
    list.iter().map(|e| (words(e), e["fieldsV1"].clone())).collect()
}

fn names(object: &Value) -> Vec<String> {
    owners(object).into_iter().map(|(name, _)| name).collect()
}

fn deployment(replicas: Option<u64>, image: &str) -> Value {
    let mut out = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": image}]}}}});
    if let Some(replicas) = replicas {
        out["spec"]["replicas"] = replicas.into();
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_first_write_on() {
    let api = Api::start().await;
    let path = format!("{MAPS}/m");
    let request = api.request(Method::POST, MAPS).header("user-agent", "kubectl/v1.36 (linux/amd64) x");
    let created: Value = request.json(&map(json!({"a": "1", "b": "1"}))).send().await.unwrap().json().await.unwrap();
    let all = json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}});
    assert_eq!(owners(&created), [("kubectl Update v1 -".to_owned(), all)]);
    let entry = &created["metadata"]["managedFields"][0];
    assert_eq!((&entry["fieldsType"], entry["time"].as_str().unwrap().len()), (&json!("FieldsV1"), 20));
    let body = json!({"data": {"b": "2"}, "metadata": {"labels": {"x": "y"}}});
    let (_, patched) = api.send(Method::PATCH, &format!("{path}?fieldManager=p"), MERGE, &body).await;
    assert_eq!(owners(&patched)[1].1, json!({"f:data": {"f:b": {}}, "f:metadata": {"f:labels": {".": {}, "f:x": {}}}}));
    let (_, put) = api.send(Method::PUT, &format!("{path}?fieldManager=u"), JSON, &map(json!({"a": "1"}))).await;
    assert_eq!(owners(&put), [("kubectl Update v1 -".to_owned(), json!({"f:data": {".": {}, "f:a": {}}}))]);
    let (_, again) = api.send(Method::PUT, &format!("{path}?fieldManager=u"), JSON, &put).await;
    assert_eq!(again, put, "nothing changed, nothing is written");
    let (_, space) = api.get("/api/v1/namespaces/default").await;
    assert_eq!(names(&space), ["kube-apiserver Update v1 -"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn applied_and_updated() {
    let api = Api::start().await;
    let path = |manager: &str| format!("{DEPLOYMENTS}/d?fieldManager={manager}");
    let (code, made) = api.send(Method::PATCH, &path("one"), APPLY, &deployment(Some(2), "i:1")).await;
    assert_eq!((code, names(&made)), (201, vec!["one Apply apps/v1 -".to_owned()]), "{made}");
    assert_eq!(
        owners(&made)[0].1,
        json!({"f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {"f:metadata": {"f:labels": {"f:a": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}})
    );
    let (code, again) = api.send(Method::PATCH, &path("one"), APPLY, &deployment(Some(2), "i:1")).await;
    assert_eq!((code, &again), (200, &made), "the same once more is no write");
    let status = json!({"status": {"observedGeneration": 1, "replicas": 2}});
    let (_, seen) = api
        .send(Method::PATCH, &format!("{DEPLOYMENTS}/d/status?fieldManager=kube-controller-manager"), MERGE, &status)
        .await;
    assert_eq!(
        owners(&seen)[1],
        (
            "kube-controller-manager Update apps/v1 status".to_owned(),
            json!({"f:status": {"f:observedGeneration": {}, "f:replicas": {}}})
        )
    );
    // An autoscaler takes the replicas; the applier is told who has them.
    let scale = json!({"spec": {"replicas": 5}});
    let (code, scaled) =
        api.send(Method::PATCH, &format!("{DEPLOYMENTS}/d/scale?fieldManager=hpa"), MERGE, &scale).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(5)), "{scaled}");
    let (_, live) = api.get(&format!("{DEPLOYMENTS}/d")).await;
    let hpa = owners(&live).into_iter().find(|(name, _)| name.starts_with("hpa")).unwrap();
    assert_eq!(hpa, ("hpa Update apps/v1 scale".to_owned(), json!({"f:spec": {"f:replicas": {}}})));
    let (code, refused) = api.send(Method::PATCH, &path("one"), APPLY, &deployment(Some(2), "i:1")).await;
    let message =
        "Apply failed with 1 conflict: conflict with \"hpa\" with subresource \"scale\" using apps/v1: .spec.replicas";
    assert_eq!((code, refused["message"].as_str()), (409, Some(message)));
    assert_eq!(refused["details"]["causes"][0]["field"], ".spec.replicas");
    // Without replicas the document is no longer about them; they stay.
    let (code, without) = api.send(Method::PATCH, &path("one"), APPLY, &deployment(None, "i:2")).await;
    assert_eq!((code, &without["spec"]["replicas"]), (200, &json!(5)), "{without}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scales_are_applied() {
    let api = Api::start().await;
    api.create(DEPLOYMENTS, deployment(Some(1), "i")).await;
    let scale = |n: u64| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": n}});
    let path = |tail: &str| format!("{DEPLOYMENTS}/d/scale?fieldManager=s{tail}");
    let (code, refused) = api.send(Method::PATCH, &path(""), APPLY, &scale(3)).await;
    assert!(code == 409 && refused["message"].as_str().unwrap().ends_with(": .spec.replicas"), "{refused}");
    let (code, answer) = api.send(Method::PATCH, &path("&force=true"), APPLY, &scale(3)).await;
    assert_eq!((code, &answer["spec"]["replicas"], &answer["kind"]), (200, &json!(3), &json!("Scale")), "{answer}");
    let (_, live) = api.get(&format!("{DEPLOYMENTS}/d")).await;
    assert_eq!(owners(&live)[0], ("s Apply apps/v1 scale".to_owned(), json!({"f:spec": {"f:replicas": {}}})));
    assert!(owners(&live)[1].1["f:spec"].get("f:replicas").is_none(), "one owner has it: {live}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ownership_can_be_cleared() {
    let api = Api::start().await;
    let path = format!("{MAPS}/m");
    let cleared = json!([{}]);
    let mut whole = map(json!({"a": "1"}));
    whole["metadata"]["managedFields"] = cleared.clone();
    let replace = json!([{"op": "replace", "path": "/metadata/managedFields", "value": cleared}]);
    let merge = json!({"metadata": {"managedFields": cleared}});
    for (method, media, body) in [
        (Method::PUT, JSON, whole),
        (Method::PATCH, "application/json-patch+json", replace),
        (Method::PATCH, MERGE, merge.clone()),
        (Method::PATCH, STRATEGIC, merge),
    ] {
        api.send(Method::DELETE, &path, JSON, &json!({})).await;
        let made = api.create(&format!("{MAPS}?fieldManager=one"), map(json!({"a": "1"}))).await;
        assert_eq!(names(&made), ["one Update v1 -"]);
        let (code, answer) = api.send(method, &path, media, &body).await;
        assert_eq!((code, answer["metadata"].get("managedFields")), (200, None), "{media}: {answer}");
        let (_, changed) = api.send(Method::PATCH, &path, MERGE, &json!({"data": {"a": "2"}})).await;
        assert_eq!(changed["metadata"].get("managedFields"), None, "it stays so");
        let (code, refused) =
            api.send(Method::PATCH, &format!("{path}?fieldManager=two"), APPLY, &map(json!({"a": "3"}))).await;
        let message = "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a";
        assert_eq!((code, refused["message"].as_str()), (409, Some(message)));
        let (code, applied) =
            api.send(Method::PATCH, &format!("{path}?fieldManager=two"), APPLY, &map(json!({"b": "3"}))).await;
        assert_eq!(
            (code, names(&applied)),
            (200, vec!["two Apply v1 -".to_owned(), "before-first-apply Update v1 -".to_owned()])
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spoilt_owners_are_ignored() {
    let api = Api::start().await;
    let path = format!("{MAPS}/m");
    let made = api.create(&format!("{MAPS}?fieldManager=one"), map(json!({"a": "1"}))).await;
    let mut deep = json!({});
    for _ in 0..80 {
        deep = json!({"f:x": deep});
    }
    let huge: serde_json::Map<String, Value> = (0..20_000).map(|i| (format!("f:{i}"), json!({}))).collect();
    let entry = |fields: Value| json!({"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields});
    let mut unknown = entry(json!({}));
    unknown["operation"] = "Steal".into();
    for (what, list, code) in [
        ("an unknown operation", json!([unknown]), 200),
        ("no path", json!([entry(json!({"data": {}}))]), 200),
        ("keys that are none", json!([entry(json!({"k:{": {}}))]), 200),
        ("deep", json!([entry(deep)]), 200),
        ("huge", json!([entry(huge.into())]), 200),
        ("fields that are no object", json!([entry(json!("text"))]), 400),
        ("no list", json!("text"), 400),
    ] {
        let mut new = made.clone();
        new["metadata"]["managedFields"] = list;
        new["metadata"]["resourceVersion"] = Value::Null;
        let (got, answer) = api.send(Method::PUT, &format!("{path}?fieldManager=one"), JSON, &new).await;
        assert_eq!(got, code, "{what}: {answer}");
        if matches!(what, "an unknown operation" | "no path" | "keys that are none") {
            assert_eq!(owners(&answer), owners(&made), "{what}: what was there stays");
        }
    }
    let mut long = made.clone();
    long["metadata"]["managedFields"][0]["manager"] = "x".repeat(129).into();
    long["metadata"]["resourceVersion"] = Value::Null;
    let (code, answer) = api.send(Method::PUT, &path, JSON, &long).await;
    assert!(
        code == 422 && answer["message"].as_str().unwrap().contains("metadata.managedFields[0].manager: Too long"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_cannot_be_applied() {
    let api = Api::start().await;
    let path = format!("{DEPLOYMENTS}/d?fieldManager=one");
    let mut twice = deployment(None, "i");
    twice["metadata"]["namespace"] = "default".into();
    twice["spec"]["template"]["spec"]["containers"] = json!([{"name": "c"}, {"name": "c"}]);
    let mut unknown = deployment(None, "i");
    unknown["spec"]["foo"] = 1.into();
    for (document, message) in [
        (
            twice,
            "failed to create typed patch object (default/d; apps/v1, Kind=Deployment): .spec.template.spec.containers: duplicate entries for key [name=\"c\"]",
        ),
        (
            unknown,
            "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema",
        ),
    ] {
        let (code, answer) = api.send(Method::PATCH, &path, APPLY, &document).await;
        assert_eq!((code, answer["message"].as_str()), (400, Some(message)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_is_nobodys_and_faces_share_owners() {
    let api = Api::start().await;
    api.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = api.create(&format!("{pods}?fieldManager=one"), pod).await;
    assert!(owners(&made)[0].1["f:spec"].get("f:serviceAccount").is_none(), "admission's changes are nobody's: {made}");
    api.create(
        &format!("{pods}/p/binding?fieldManager=kube-scheduler"),
        json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}}),
    )
    .await;
    let (_, bound) = api.get(&format!("{pods}/p")).await;
    assert_eq!((&bound["spec"]["nodeName"], owners(&bound)), (&json!("n"), owners(&made)));
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "message": "a", "reason": "r", "type": "Normal"});
    let first = api.create("/api/v1/namespaces/default/events?fieldManager=core", event).await;
    assert_eq!(owners(&first)[0].1, json!({"f:involvedObject": {}, "f:message": {}, "f:reason": {}, "f:type": {}}));
    let new = "/apis/events.k8s.io/v1/namespaces/default/events/e?fieldManager=new";
    let (code, changed) = api.send(Method::PATCH, new, MERGE, &json!({"note": "b"})).await;
    assert_eq!(
        (code, names(&changed)),
        (200, vec!["core Update v1 -".to_owned(), "new Update events.k8s.io/v1 -".to_owned()]),
        "{changed}"
    );
    assert_eq!(owners(&changed)[0].1, json!({"f:involvedObject": {}, "f:reason": {}, "f:type": {}}));
    assert_eq!(owners(&changed)[1].1, json!({"f:note": {}}));
}
