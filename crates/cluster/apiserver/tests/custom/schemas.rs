//! Schemas at work on stored objects: defaults, pruning, embedded objects, what was allowed before.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{Api, DEFINITIONS, JSON, WIDGETS, condition, plain, widget, widgets};

const SCHEMA: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";

async fn change(api: &Api, path: &str, value: Value) {
    let at = format!("{DEFINITIONS}/widgets.example.com");
    let patch = json!([{"op": "add", "path": path, "value": value}]);
    let (code, answer, _) = api.send(Method::PATCH, &at, "application/json-patch+json", &patch).await;
    assert_eq!(code, 200, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_schema_holds_for_what_is_stored() {
    let api = Api::start().await;
    api.define(&widgets(plain())).await;
    api.create(WIDGETS, &widget("a", &json!({"color": "red", "replicas": 9}))).await;
    let path = format!("{WIDGETS}/a");
    // A default that comes later is there for what was stored before, in every way of reading.
    change(&api, &format!("{SCHEMA}/properties/shape"), json!({"type": "string", "default": "round"})).await;
    let a = api.until(&path, |a| a["spec"]["shape"] == "round").await;
    assert_eq!(a["metadata"]["generation"], 1, "nothing was written");
    for query in ["", "?resourceVersion=0", "?limit=1", "?fieldSelector=spec.color%3Dred"] {
        let (_, list) = api.get(&format!("{WIDGETS}{query}")).await;
        assert_eq!(list["items"][0]["spec"]["shape"], "round", "{query}: {list}");
    }
    let stored = async || {
        let (bytes, _) = api.server.server.store.raw_get("example.com/widgets/default/a").await.unwrap();
        String::from_utf8_lossy(&bytes.unwrap()).into_owned()
    };
    assert!(!stored().await.contains("round"));
    assert_eq!(api.merge(&path, &json!({})).await.0, 200);
    assert!(stored().await.contains("round"), "the next write keeps it");
    // A rule that comes later forgives what was so before, and nothing else.
    change(&api, &format!("{SCHEMA}/properties/replicas/maximum"), json!(5)).await;
    api.until(&format!("{DEFINITIONS}/widgets.example.com"), |d| d["metadata"]["generation"] == 3).await;
    let (code, answer) = api.merge(&path, &json!({"spec": {"color": "green"}})).await;
    assert_eq!((code, &answer["spec"]["replicas"]), (200, &json!(9)), "{answer}");
    assert_eq!(api.merge(&path, &json!({"spec": {"replicas": 8}})).await.0, 422);
    assert_eq!(api.merge(&path, &json!({"spec": {"replicas": 5}})).await.0, 200);
    // A field that the schema knows no more is not shown.
    let patch = json!([{"op": "remove", "path": format!("{SCHEMA}/properties/color")},
        {"op": "remove", "path": "/spec/versions/0/selectableFields"}]);
    let at = format!("{DEFINITIONS}/widgets.example.com");
    let (code, answer, _) = api.send(Method::PATCH, &at, "application/json-patch+json", &patch).await;
    assert_eq!(code, 200, "{answer}");
    api.until(&path, |a| a["spec"]["shape"] == "round" && a["spec"].get("color").is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_changes_while_objects_are_written() {
    const WRITERS: usize = 4;
    const EACH: usize = 60;
    let api = Api::start().await;
    api.define(&widgets(plain())).await;
    let write = async |writer: usize| {
        for n in 0..EACH {
            let name = format!("w{writer}-{n}");
            api.create(WIDGETS, &widget(&name, &json!({"color": "red"}))).await;
            if n % 3 == 0 {
                assert_eq!(api.delete(&format!("{WIDGETS}/{name}")).await.0, 200);
            }
        }
    };
    let changes = async {
        for n in 0..8 {
            let field = json!({"type": "string", "default": n.to_string()});
            change(&api, &format!("{SCHEMA}/properties/f{n}"), field).await;
        }
    };
    tokio::join!(futures::future::join_all((0..WRITERS).map(write)), changes);
    let of = |list: &Value| -> Vec<(String, String)> {
        let items = list["items"].as_array().unwrap().iter();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        items.map(|o| (text(&o["metadata"]["name"]), text(&o["spec"]["f7"]))).collect()
    };
    // Version "0" may be one from before the last write.
    let (_, stored) = api.get(&format!("{WIDGETS}?limit=1")).await;
    let version = stored["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let (_, stored) = api.get(&format!("{WIDGETS}?resourceVersion={version}&resourceVersionMatch=Exact")).await;
    assert_eq!(of(&stored).len(), WRITERS * EACH * 2 / 3, "what etcd has");
    let cached =
        api.until(WIDGETS, |list| list["items"].as_array().is_some_and(|i| i.iter().all(|o| o["spec"]["f7"] == "7")));
    assert_eq!(of(&cached.await), of(&stored), "and the cache has the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_may_be_kept_and_objects_embedded() {
    let api = Api::start().await;
    api.define(&widgets(json!({"type": "object", "properties": {
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "port": {"x-kubernetes-int-or-string": true},
        "maybe": {"type": "string", "nullable": true},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "template": {"type": "object", "x-kubernetes-embedded-resource": true,
            "properties": {"spec": {"type": "object", "properties": {"x": {"type": "string"}}}}},
        "color": {"type": "string"}, "replicas": {"type": "integer"}}})))
    .await;
    let spec = json!({"open": {"a": {"b": [1]}}, "port": "http", "maybe": null, "set": ["a", "b"],
        "list": [{"k": "a", "v": 1}, {"k": "b"}],
        "template": {"apiVersion": "v1", "kind": "T", "metadata": {"name": "t", "odd": 1}, "spec": {"x": "y", "z": 1}}});
    let (code, a, warnings) = api.send(Method::POST, WIDGETS, JSON, &widget("a", &spec)).await;
    assert_eq!(code, 201, "{a}");
    let mut want = spec.clone();
    want["template"]["metadata"] = json!({"name": "t"});
    want["template"]["spec"] = json!({"x": "y"});
    assert_eq!(a["spec"], want);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for (spec, field) in [
        (json!({"list": [{"k": "a"}, {"k": "a"}]}), "spec.list[1]"),
        (json!({"list": [{"v": 1}]}), "spec.list[0].k"),
        (json!({"set": ["a", "a"]}), "spec.set[1]"),
        (json!({"port": 1.5}), "spec.port"),
        (json!({"template": {"metadata": {}}}), "spec.template.apiVersion"),
    ] {
        let (code, answer) = api.post(WIDGETS, &widget("b", &spec)).await;
        assert_eq!((code, &answer["details"]["causes"][0]["field"]), (422, &json!(field)), "{spec}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_that_explode_end() {
    let api = Api::start().await;
    // Deeper than what can be read back.
    let mut deep = json!({"type": "string"});
    for _ in 0..200 {
        deep = json!({"type": "object", "properties": {"x": deep}});
    }
    assert_eq!(api.post(DEFINITIONS, &widgets(deep)).await.0, 400);
    // Defaults that lists multiply.
    api.define(&widgets(json!({"type": "object", "properties": {"color": {"type": "string"}, "replicas": {"type": "integer"},
        "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string", "default": "x".repeat(200_000)}}}}}})))
    .await;
    let (code, answer) = api.post(WIDGETS, &widget("a", &json!({"list": vec![json!({}); 1000]}))).await;
    assert_eq!(code, 400, "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("defaults of its schema add more than"), "{answer}");
    // A pattern that needs too much memory is none.
    let mut greedy = widgets(
        json!({"type": "object", "properties": {"color": {"type": "string", "pattern": "((a{500}){500}){500}"},
        "replicas": {"type": "integer"}}}),
    );
    greedy["metadata"]["name"] = "others.example.com".into();
    greedy["spec"]["names"] = json!({"plural": "others", "kind": "Other"});
    let (code, answer) = api.post(DEFINITIONS, &greedy).await;
    assert_eq!(code, 422, "{answer}");
    assert_eq!(condition(&api.get(&format!("{DEFINITIONS}/widgets.example.com")).await.1, "Established"), "True");
}
