//! Who owns which field of a custom resource: by its schema, its subresources and its versions.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{Api, JSON, MERGE, WIDGETS, widget, widgets};

/// Media type of an applied document.
pub const APPLY: &str = "application/apply-patch+yaml";

/// The entries as `manager operation apiVersion subresource`, and their fields.
pub fn owners(object: &Value) -> Vec<(String, Value)> {
    let list = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let words = |e: &Value| {
        let word = |key: &str| e[key].as_str().unwrap_or("-").to_owned();
        [word("manager"), word("operation"), word("apiVersion"), word("subresource")].join(" ")
    };
    list.iter().map(|e| (words(e), e["fieldsV1"].clone())).collect()
}

fn of<'o>(owners: &'o [(String, Value)], name: &str) -> &'o Value {
    &owners.iter().find(|(owner, _)| owner == name).unwrap_or_else(|| panic!("no {name} in {owners:?}")).1
}

/// A widget with a list of each type, and a map of each.
fn schema() -> Value {
    let text = json!({"type": "string"});
    json!({"type": "object", "properties": {
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
            "items": {"type": "object", "required": ["port"], "properties": {"port": {"type": "integer"},
                "protocol": {"type": "string", "default": "TCP"}, "name": text}}},
        "zones": {"type": "array", "x-kubernetes-list-type": "set", "items": text},
        "args": {"type": "array", "items": text},
        "labels": {"type": "object", "additionalProperties": text},
        "selector": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": text},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "color": text, "replicas": {"type": "integer"}}})
}

async fn apply(api: &Api, path: &str, manager: &str, document: &Value) -> (u16, Value) {
    let mark = if path.contains('?') { '&' } else { '?' };
    let (code, answer, _) =
        api.send(Method::PATCH, &format!("{path}{mark}fieldManager={manager}"), APPLY, document).await;
    (code, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_says_what_is_owned_and_merged() {
    let api = Api::start().await;
    api.define(&widgets(schema())).await;
    let path = format!("{WIDGETS}/a");
    let one = widget(
        "a",
        &json!({"ports": [{"port": 80, "name": "web"}, {"port": 53, "protocol": "UDP"}],
        "zones": ["x", "y"], "args": ["1"], "labels": {"a": "1"}, "selector": {"s": "1"}, "free": {"any": [{"b": 1}]}}),
    );
    let (code, made) = apply(&api, &path, "one", &one).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        owners(&made),
        [(
            "one Apply example.com/v1 -".to_owned(),
            json!({"f:spec": {"f:args": {}, "f:free": {"f:any": {}}, "f:labels": {"f:a": {}}, "f:selector": {},
                "f:ports": {"k:{\"port\":53,\"protocol\":\"UDP\"}": {".": {}, "f:port": {}, "f:protocol": {}},
                    "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {}}},
                "f:zones": {"v:\"x\"": {}, "v:\"y\"": {}}}})
        )]
    );
    let two = widget("a", &json!({"ports": [{"port": 81, "name": "more"}], "zones": ["z"], "labels": {"b": "2"}}));
    let (code, both) = apply(&api, &path, "two", &two).await;
    assert_eq!(code, 200, "{both}");
    assert_eq!(both["spec"]["zones"], json!(["x", "y", "z"]));
    assert_eq!(both["spec"]["labels"], json!({"a": "1", "b": "2"}));
    let ports: Vec<_> = both["spec"]["ports"].as_array().unwrap().iter().map(|p| p["port"].clone()).collect();
    assert_eq!(ports, [json!(80), json!(53), json!(81)]);

    let theirs = widget("a", &json!({"ports": [{"port": 80, "name": "other"}], "args": ["2"], "selector": {"t": "1"}}));
    let (code, refused) = apply(&api, &path, "two", &theirs).await;
    assert_eq!((code, &refused["reason"]), (409, &json!("Conflict")), "{refused}");
    let fields: Vec<_> = refused["details"]["causes"].as_array().unwrap().iter().map(|c| c["field"].clone()).collect();
    assert_eq!(fields, [".spec.args", ".spec.selector", ".spec.ports[port=80,protocol=\"TCP\"].name"], "{refused}");
    let (code, forced) = apply(&api, &format!("{path}?force=true"), "two", &theirs).await;
    assert_eq!(code, 200, "{forced}");
    assert_eq!(forced["spec"]["selector"], json!({"t": "1"}), "an atomic map is replaced");
    assert_eq!((&forced["spec"]["args"], &forced["spec"]["zones"]), (&json!(["2"]), &json!(["x", "y"])));
    assert_eq!(forced["spec"]["ports"].as_array().unwrap().len(), 2, "what two left out is gone: {forced}");
    let list = owners(&forced);
    let ports = &of(&list, "one Apply example.com/v1 -")["f:spec"]["f:ports"];
    assert_eq!(ports["k:{\"port\":80,\"protocol\":\"TCP\"}"], json!({".": {}, "f:port": {}}));

    let (code, twice) =
        apply(&api, &path, "two", &widget("a", &json!({"ports": [{"port": 1}, {"port": 1, "protocol": "TCP"}]}))).await;
    assert_eq!(code, 400, "{twice}");
    let text = twice["message"].as_str().unwrap();
    assert!(text.contains(".spec.ports: duplicate entries for key [port=1,protocol=\"TCP\"]"), "{text}");
    let (code, odd) = apply(&api, &path, "two", &widget("a", &json!({"odd": 1}))).await;
    assert_eq!(code, 400, "{odd}");
    assert!(odd["message"].as_str().unwrap().ends_with(".spec.odd: field not declared in schema"), "{odd}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_is_recorded() {
    let api = Api::start().await;
    api.define(&widgets(schema())).await;
    let path = format!("{WIDGETS}/a");
    let given = widget("a", &json!({"ports": [{"port": 80}], "labels": {"a": "1"}}));
    let (_, made, _) = api.send(Method::POST, &format!("{WIDGETS}?fieldManager=c"), JSON, &given).await;
    // Defaults are the creator's.
    let port = json!({".": {}, "f:port": {}, "f:protocol": {}});
    let ports = json!({".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": port});
    let mine = json!({"f:spec": {".": {}, "f:labels": {".": {}, "f:a": {}}, "f:ports": ports}});
    assert_eq!(owners(&made), [("c Update example.com/v1 -".to_owned(), mine.clone())]);
    let change = json!({"spec": {"labels": {"b": "2"}}, "status": {"seen": true}});
    let (_, patched) = api.merge(&format!("{path}?fieldManager=p"), &change).await;
    let list = owners(&patched);
    assert_eq!(of(&list, "p Update example.com/v1 -"), &json!({"f:spec": {"f:labels": {"f:b": {}}}}), "{patched}");
    let (_, seen) = api.merge(&format!("{path}/status?fieldManager=s"), &change).await;
    let list = owners(&seen);
    assert_eq!(of(&list, "s Update example.com/v1 status"), &json!({"f:status": {".": {}, "f:seen": {}}}), "{seen}");
    let (_, again) = api.merge(&format!("{path}/status?fieldManager=t"), &change).await;
    assert_eq!(again, seen, "nothing changed, nothing is written");
    let (code, taken) = apply(&api, &path, "x", &widget("a", &json!({"labels": {"a": "2"}}))).await;
    assert_eq!(code, 409, "{taken}");
    let text = taken["message"].as_str().unwrap();
    assert_eq!(text, "Apply failed with 1 conflict: conflict with \"c\" using example.com/v1: .spec.labels.a");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_managers_apply_a_status() {
    let api = Api::start().await;
    let mut definition = widgets(schema());
    let version = &mut definition["spec"]["versions"][0];
    version["schema"]["openAPIV3Schema"]["properties"]["status"] = json!({"type": "object", "properties": {
        "replicas": {"type": "integer"}, "selector": {"type": "string"},
        "conditions": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
            "items": {"type": "object", "required": ["type"], "properties": {"type": {"type": "string"},
                "status": {"type": "string"}}}}}});
    api.define(&definition).await;
    api.create(WIDGETS, &widget("a", &json!({"replicas": 1}))).await;
    let path = format!("{WIDGETS}/a/status");
    let status = |kind: &str, is: &str| {
        let mut object = widget("a", &json!({"replicas": 5}));
        object["status"] = json!({"conditions": [{"type": kind, "status": is}]});
        object
    };
    for (manager, kind) in [("ready", "Ready"), ("synced", "Synced")] {
        let (code, answer) = apply(&api, &path, manager, &status(kind, "True")).await;
        assert_eq!((code, &answer["spec"]["replicas"]), (200, &json!(1)), "{answer}");
    }
    let (_, object) = api.get(&format!("{WIDGETS}/a")).await;
    assert_eq!(object["status"]["conditions"].as_array().unwrap().len(), 2, "{object}");
    let list = owners(&object);
    for (manager, kind) in [("ready", "Ready"), ("synced", "Synced")] {
        let key = format!("k:{{\"type\":\"{kind}\"}}");
        let fields = json!({"f:status": {"f:conditions": {key: {".": {}, "f:status": {}, "f:type": {}}}}});
        assert_eq!(of(&list, &format!("{manager} Apply example.com/v1 status")), &fields);
    }
    let (code, refused) = apply(&api, &path, "synced", &status("Ready", "False")).await;
    let text = refused["message"].as_str().unwrap();
    let want = "Apply failed with 1 conflict: conflict with \"ready\" with subresource \"status\": \
                .status.conditions[type=\"Ready\"].status";
    assert_eq!((code, text), (409, want));
    let mut none = status("Ready", "");
    none["status"] = json!({});
    let (code, left) = apply(&api, &path, "ready", &none).await;
    assert_eq!(code, 200, "{left}");
    assert_eq!(left["status"]["conditions"], json!([{"type": "Synced", "status": "True"}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scale_owns_the_replicas() {
    let api = Api::start().await;
    let mut definition = widgets(json!({"type": "object", "properties": {"size": {"type": "object",
        "properties": {"count": {"type": "integer"}}}, "color": {"type": "string"}}}));
    definition["spec"]["versions"][0]["subresources"]["scale"]["specReplicasPath"] = ".spec.size.count".into();
    api.define(&definition).await;
    let path = format!("{WIDGETS}/a");
    let wanted = |count: i64| widget("a", &json!({"size": {"count": count}, "color": "red"}));
    apply(&api, &path, "one", &wanted(1)).await;
    let scale = |replicas: i64| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "a"}, "spec": {"replicas": replicas}});
    let (code, refused) = apply(&api, &format!("{path}/scale"), "hpa", &scale(2)).await;
    let text = "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas";
    assert_eq!((code, refused["message"].as_str()), (409, Some(text)), "{refused}");
    let (code, scaled) = apply(&api, &format!("{path}/scale?force=true"), "hpa", &scale(2)).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(2)), "{scaled}");
    let (_, object) = api.get(&path).await;
    let count = json!({"f:spec": {"f:size": {"f:count": {}}}});
    let list = owners(&object);
    assert_eq!(of(&list, "hpa Apply example.com/v1 scale"), &count);
    assert_eq!(of(&list, "one Apply example.com/v1 -"), &json!({"f:spec": {"f:color": {}}}));
    let (code, refused) = apply(&api, &path, "one", &wanted(1)).await;
    let text = "Apply failed with 1 conflict: conflict with \"hpa\" with subresource \"scale\": .spec.size.count";
    assert_eq!((code, refused["message"].as_str()), (409, Some(text)), "{refused}");
    let patch = json!({"spec": {"replicas": 4}});
    let (code, answer, _) = api.send(Method::PATCH, &format!("{path}/scale?fieldManager=k"), MERGE, &patch).await;
    assert_eq!(code, 200, "{answer}");
    let (_, object) = api.get(&path).await;
    let list = owners(&object);
    assert_eq!(of(&list, "k Update example.com/v1 scale"), &count);
    assert!(!list.iter().any(|(name, _)| name.starts_with("hpa")), "{list:?}");
}
