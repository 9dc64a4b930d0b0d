//! Several versions of a resource: conversion, and what becomes of it when the webhook misbehaves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use kinit_apiserver::http::{ApiResponse, respond};
use kinit_component_base::Shutdown;
use kinit_component_base::ciphers::TlsArgs;
use kinit_component_base::serve::serve;
use kinit_component_base::tls::{ClientAuth, ReloadingCert, server_config};
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};

use crate::ownership::{APPLY, owners};
use crate::{Api, DEFINITIONS, JSON, widget};

const V1: &str = "/apis/example.com/v1/namespaces/default/widgets";
const V2: &str = "/apis/example.com/v2/namespaces/default/widgets";

fn version(name: &str, storage: bool, field: &str) -> Value {
    json!({"name": name, "served": true, "storage": storage, "selectableFields": [{"jsonPath": format!(".spec.{field}")}],
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": {field: {"type": "string"}, "both": {"type": "string"}}}}}}})
}

fn definition(conversion: Value) -> Value {
    json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"}, "conversion": conversion,
        "versions": [version("v1", true, "host"), version("v2", false, "address")]}})
}

/// A webhook server and how many objects it was asked to convert.
struct Webhook {
    port: u16,
    asked: Arc<Mutex<Vec<usize>>>,
    bundle: String,
    _shutdown: Shutdown,
}

impl Webhook {
    async fn start(api: &Api) -> Self {
        api.server.pki.server("convert", "convert", &[[127, 0, 0, 1].into()], &[]).unwrap();
        let file = |name: &str| api.server.pki.file(name);
        let cert = ReloadingCert::load(&file("convert.crt"), &file("convert.key")).unwrap();
        let tls = server_config(cert, &ClientAuth::None, &TlsArgs::default()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, shutdown) = (Arc::new(Mutex::new(Vec::new())), Shutdown::new());
        let log = asked.clone();
        tokio::spawn(serve(listener, Some(tls), shutdown.clone(), move |request| answer(log.clone(), request)));
        let bundle = base64::engine::general_purpose::STANDARD.encode(std::fs::read(file("ca.crt")).unwrap());
        Self { port, asked, bundle, _shutdown: shutdown }
    }

    fn conversion(&self, path: &str) -> Value {
        json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://127.0.0.1:{}/{path}", self.port), "caBundle": self.bundle}}})
    }
}

async fn answer(asked: Arc<Mutex<Vec<usize>>>, request: Request<Incoming>) -> ApiResponse {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut review: Value = serde_json::from_slice(&body).unwrap();
    let ask = review["request"].take();
    let wanted = ask["desiredAPIVersion"].as_str().unwrap();
    let mut objects = ask["objects"].as_array().unwrap().clone();
    asked.lock().push(objects.len());
    if path == "hang" {
        tokio::time::sleep(Duration::from_secs(300)).await;
    }
    for object in &mut objects {
        object["apiVersion"] = wanted.into();
        let (from, to) = if wanted.ends_with("v2") { ("host", "address") } else { ("address", "host") };
        if let Some(value) = object["spec"].as_object_mut().and_then(|spec| spec.shift_remove(from)) {
            object["spec"][to] = value;
        }
        object["spec"]["unknown"] = 1.into();
        if path == "rename" {
            object["metadata"]["name"] = "other".into();
        }
    }
    if path == "lose" {
        objects.pop();
    }
    let result = if path == "fail" {
        json!({"status": "Failure", "message": "not today"})
    } else {
        json!({"status": "Success"})
    };
    review["response"] = json!({"uid": ask["uid"], "result": result, "convertedObjects": objects});
    respond::json(200, &review)
}

fn address(name: &str, address: &str) -> Value {
    json!({"apiVersion": "example.com/v2", "kind": "Widget", "metadata": {"name": name}, "spec": {"address": address}})
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_webhook_the_version_alone_changes() {
    let api = Api::start().await;
    let mut deprecated = definition(json!({"strategy": "None"}));
    deprecated["spec"]["versions"][0]["deprecated"] = true.into();
    api.define(&deprecated).await;
    let (code, _, warnings) = api.send(Method::POST, V1, JSON, &widget("a", &json!({"host": "h", "both": "b"}))).await;
    assert_eq!(code, 201);
    assert_eq!(warnings, ["299 - \"example.com/v1 Widget is deprecated; use example.com/v2 Widget\""]);
    let (_, a) = api.get(&format!("{V2}/a")).await;
    assert_eq!((&a["apiVersion"], &a["spec"]), (&json!("example.com/v2"), &json!({"both": "b"})), "pruned");
    let (_, a) = api.get(&format!("{V1}/a")).await;
    assert_eq!(a["spec"], json!({"host": "h", "both": "b"}), "what is stored stays");
    let (_, group) = api.get("/apis/example.com").await;
    assert_eq!(group["preferredVersion"]["version"], "v2", "the newest comes first");
    api.create(V2, &address("b", "x")).await;
    assert_eq!(api.get(&format!("{V1}/b")).await.1["spec"], json!({}));
    let (_, list) = api.get(V2).await;
    assert!(list["items"].as_array().unwrap().iter().all(|o| o["apiVersion"] == "example.com/v2"), "{list}");
    // A version that is served no more is gone, from discovery too.
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let patch = json!([{"op": "replace", "path": "/spec/versions/1/served", "value": false},
        {"op": "replace", "path": "/spec/versions/1/name", "value": "v3"}]);
    let (code, answer, _) = api.send(Method::PATCH, &path, "application/json-patch+json", &patch).await;
    assert_eq!(code, 200, "{answer}");
    api.until(V2, |v| v["code"] == 404).await;
    api.until("/apis/example.com", |g| g["versions"].as_array().is_some_and(|v| v.len() == 1)).await;
    // Another storage version: both may be stored now.
    let patch = json!([{"op": "replace", "path": "/spec/versions/1/served", "value": true},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true},
        {"op": "replace", "path": "/spec/versions/0/storage", "value": false}]);
    let (code, answer, _) = api.send(Method::PATCH, &path, "application/json-patch+json", &patch).await;
    assert_eq!((code, &answer["status"]["storedVersions"]), (200, &json!(["v1", "v3"])), "{answer}");
    assert_eq!(api.get(&format!("{V1}/a")).await.1["spec"], json!({"host": "h", "both": "b"}));
    // A write that changes nothing stores it in the new version; a second one writes no more.
    api.until("/apis/example.com", |g| g["versions"].as_array().is_some_and(|v| v.len() == 2)).await;
    assert_eq!(api.merge(&format!("{V1}/a"), &json!({})).await.0, 200);
    let stored = async || api.server.server.store.raw_get("example.com/widgets/default/a").await.unwrap();
    let (bytes, revision) = stored().await;
    assert!(String::from_utf8_lossy(&bytes.unwrap()).contains("\"apiVersion\":\"example.com/v3\""));
    assert_eq!(api.merge(&format!("{V1}/a"), &json!({})).await.0, 200);
    assert_eq!(stored().await.1, revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_converts() {
    let api = Api::start().await;
    let hook = Webhook::start(&api).await;
    api.define(&definition(hook.conversion("convert"))).await;
    api.create(V1, &widget("a", &json!({"host": "x"}))).await;
    assert_eq!(hook.asked.lock().len(), 0, "nobody needs it for the stored version");
    let (code, a) = api.get(&format!("{V2}/a")).await;
    assert_eq!((code, &a["spec"]), (200, &json!({"address": "x"})), "{a}");
    let created = api.create(V2, &address("b", "y")).await;
    assert_eq!(created["spec"], json!({"address": "y"}));
    assert_eq!(api.get(&format!("{V1}/b")).await.1["spec"], json!({"host": "y"}));
    let (code, patched) = api.merge(&format!("{V2}/b"), &json!({"spec": {"address": "z"}})).await;
    assert_eq!((code, &patched["spec"]), (200, &json!({"address": "z"})));
    assert_eq!(
        (&patched["metadata"]["generation"], &patched["metadata"]["uid"]),
        (&json!(2), &created["metadata"]["uid"])
    );

    hook.asked.lock().clear();
    let (_, list) = api.get(V2).await;
    let found: Vec<_> = list["items"].as_array().unwrap().iter().map(|o| o["spec"]["address"].clone()).collect();
    assert_eq!((found, hook.asked.lock().clone()), (vec![json!("x"), json!("z")], vec![2]), "one batch");
    // Selectors are about the version that is asked for.
    let (_, list) = api.get(&format!("{V2}?fieldSelector=spec.address%3Dz")).await;
    assert_eq!(
        (list["items"].as_array().unwrap().len(), &list["items"][0]["metadata"]["name"]),
        (1, &json!("b")),
        "{list}"
    );
    let since = list["metadata"]["resourceVersion"].as_str().unwrap();
    api.merge(&format!("{V1}/a"), &json!({"spec": {"host": "z"}})).await;
    api.merge(&format!("{V1}/b"), &json!({"spec": {"host": "q"}})).await;
    let events = api.watched(&format!("{V2}?fieldSelector=spec.address%3Dz"), since).await;
    let seen: Vec<_> = events.iter().map(|e| format!("{} {}", e["type"], e["object"]["spec"]["address"])).collect();
    assert_eq!(seen, [r#""ADDED" "z""#, r#""DELETED" "z""#], "{events:?}");
    assert_eq!(api.delete(&format!("{V2}/a")).await.0, 200);
    // What is stored in an older version is converted to the newer one, and the other way round.
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let patch = json!([{"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true}]);
    api.send(Method::PATCH, &path, "application/json-patch+json", &patch).await;
    api.create(V1, &widget("c", &json!({"host": "c"}))).await;
    let (_, list) = api.get(V2).await;
    let found: Vec<_> = list["items"].as_array().unwrap().iter().map(|o| o["spec"]["address"].clone()).collect();
    assert_eq!(found, [json!("q"), json!("c")], "mixed in the store");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_lies_or_fails_is_told_and_harms_nobody() {
    let api = Api::start().await;
    let hook = Webhook::start(&api).await;
    api.define(&definition(hook.conversion("convert"))).await;
    api.create(V1, &widget("a", &json!({"host": "x"}))).await;
    let path = format!("{DEFINITIONS}/widgets.example.com");
    for (behaviour, want) in [
        ("rename", "invalid converted object for \"a\": must have the same name: other != a"),
        ("lose", "expected 1 converted objects, got 0"),
        ("fail", "not today"),
    ] {
        let (code, _) = api.merge(&path, &json!({"spec": {"conversion": hook.conversion(behaviour)}})).await;
        assert_eq!(code, 200);
        let reported = api.until(&format!("{V2}/a"), |a| a["message"].as_str().is_some_and(|m| m.contains(want))).await;
        let text = reported["message"].as_str().unwrap();
        assert!(text.starts_with("conversion webhook for example.com/v1, Kind=Widget failed: "), "{text}");
        let (code, answer) = api.get(V2).await;
        assert_eq!(code, 500, "{answer}");
        assert_eq!(api.post(V2, &address("b", "y")).await.0, 500);
        assert_eq!(api.get(&format!("{V1}/b")).await.0, 404, "nothing was written");
        assert_eq!(api.get(&format!("{V1}/a")).await.0, 200, "the stored version needs nobody");
    }
    // One that hangs holds its own requests only, for as long as they want to wait.
    api.merge(&path, &json!({"spec": {"conversion": hook.conversion("hang")}})).await;
    api.until(&path, |d| d["spec"]["conversion"]["webhook"]["clientConfig"]["url"].as_str().unwrap().ends_with("hang"))
        .await;
    let started = Instant::now();
    let hanging = async {
        loop {
            let (code, answer, _) = api.send(Method::GET, &format!("{V2}/a?timeout=1s"), JSON, &Value::Null).await;
            if code == 504 {
                return answer;
            }
        }
    };
    let others = async {
        for _ in 0..20 {
            assert_eq!(api.get(&format!("{V1}/a")).await.0, 200);
            assert_eq!(api.get("/api/v1/namespaces/default/configmaps").await.0, 200);
        }
        started.elapsed()
    };
    let (_, took) = tokio::join!(hanging, others);
    assert!(took < Duration::from_millis(900), "{took:?}");
    // The definition goes all the same: nothing is converted to be deleted.
    assert_eq!(api.delete(&path).await.0, 200);
    api.until(&path, |d| d["reason"] == "NotFound").await;
}

async fn apply(api: &Api, path: &str, manager: &str, object: &Value) -> (u16, Value) {
    let path = format!("{path}/a?fieldManager={manager}");
    let (code, answer, _) = api.send(Method::PATCH, &path, APPLY, object).await;
    (code, answer)
}

fn in_v2(spec: Value) -> Value {
    let mut object = widget("a", &spec);
    object["apiVersion"] = "example.com/v2".into();
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_stay_in_their_version() {
    let api = Api::start().await;
    let webhook = Webhook::start(&api).await;
    api.define(&definition(webhook.conversion("good"))).await;
    let (code, made) = apply(&api, V1, "one", &widget("a", &json!({"host": "h", "both": "b"}))).await;
    assert_eq!(code, 201, "{made}");
    let (code, refused) = apply(&api, V2, "two", &in_v2(json!({"address": "i"}))).await;
    let text = "Apply failed with 1 conflict: conflict with \"one\": .spec.host";
    assert_eq!((code, refused["message"].as_str()), (409, Some(text)), "{refused}");
    let (code, changed) = api.merge(&format!("{V2}/a?fieldManager=u"), &json!({"spec": {"address": "i"}})).await;
    assert_eq!(code, 200, "{changed}");
    let want = [
        ("one Apply example.com/v1 -".to_owned(), json!({"f:spec": {"f:both": {}}})),
        ("u Update example.com/v2 -".to_owned(), json!({"f:spec": {"f:address": {}}})),
    ];
    assert_eq!(owners(&changed), want);
    // The same manager goes on in another version: what it leaves out now is gone.
    let (code, applied) = apply(&api, V2, "one", &in_v2(json!({"address": "i"}))).await;
    assert_eq!((code, &applied["spec"]), (200, &json!({"address": "i"})), "{applied}");
    assert_eq!(owners(&applied)[0].0, "one Apply example.com/v2 -");
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_outlive_a_webhook_and_not_their_version() {
    let api = Api::start().await;
    let webhook = Webhook::start(&api).await;
    api.define(&definition(webhook.conversion("good"))).await;
    api.create(V1, &widget("a", &json!({"host": "h"}))).await;
    let (code, changed) = api.merge(&format!("{V2}/a?fieldManager=u"), &json!({"spec": {"both": "b"}})).await;
    assert_eq!(code, 200, "{changed}");
    let redefine = async |change: Value| {
        let (code, answer) = api.merge(&format!("{DEFINITIONS}/widgets.example.com"), &change).await;
        assert_eq!(code, 200, "{answer}");
        api.until(V2, |list| (list["code"] != 200) == (list["kind"] == "Status")).await;
    };
    redefine(json!({"spec": {"conversion": webhook.conversion("fail")}})).await;
    api.until(&format!("{V2}/a"), |answer| answer["code"] == 500).await;
    let (code, other) = api.merge(&format!("{V1}/a?fieldManager=w"), &json!({"spec": {"both": "c"}})).await;
    assert_eq!(code, 200, "a write in the stored version needs no webhook: {other}");
    let names: Vec<String> = owners(&other).into_iter().map(|(name, _)| name).collect();
    assert!(names.contains(&"u Update example.com/v2 -".to_owned()), "{names:?}");
    let (code, refused) = apply(&api, V1, "x", &widget("a", &json!({"host": "h"}))).await;
    assert_eq!(code, 500, "whether it takes anything from anybody cannot be told: {refused}");
    assert!(refused["message"].as_str().unwrap().contains("not today"), "{refused}");
    let versions = json!([version("v1", true, "host")]);
    redefine(json!({"spec": {"conversion": {"strategy": "None", "webhook": null}, "versions": versions}})).await;
    api.until(V2, |answer| answer.get("items").is_none()).await;
    let (code, last) = api.merge(&format!("{V1}/a?fieldManager=w"), &json!({"spec": {"both": "d"}})).await;
    let names: Vec<String> = owners(&last).into_iter().map(|(name, _)| name).collect();
    assert_eq!(code, 200, "{last}");
    assert!(!names.iter().any(|name| name.contains("v2")), "{names:?}");
}
