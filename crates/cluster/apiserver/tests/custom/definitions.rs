//! Definitions come and go, and their resources with them.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{Api, DEFINITIONS, WIDGETS, condition, plain, widget, widgets};

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_is_served_at_once_and_goes_with_its_definition() {
    let api = Api::start().await;
    assert_eq!(api.get(WIDGETS).await.0, 404);
    let started = Instant::now();
    let created = api.create(DEFINITIONS, &widgets(plain())).await;
    assert_eq!(created["spec"]["names"]["listKind"], "WidgetList");
    assert_eq!(created["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!((&created["status"]["storedVersions"], &created["metadata"]["generation"]), (&json!(["v1"]), &json!(1)));
    assert_eq!(created["status"]["acceptedNames"], json!({"plural": "", "kind": ""}));
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let definition = api.until(&path, |d| condition(d, "Established") == "True").await;
    assert!(started.elapsed() < Duration::from_millis(1000), "{:?}", started.elapsed());
    assert_eq!(condition(&definition, "NamesAccepted"), "True");
    assert_eq!(definition["status"]["acceptedNames"]["kind"], "Widget");
    api.create(WIDGETS, &widget("a", &json!({"color": "red"}))).await;

    let (_, groups) = api.get("/apis/example.com").await;
    assert_eq!(groups["preferredVersion"]["groupVersion"], "example.com/v1");
    let (_, list) = api.get("/apis/example.com/v1").await;
    let names: Vec<_> = list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["widgets", "widgets/status", "widgets/scale"]);
    assert_eq!((&list["resources"][0]["shortNames"], &list["resources"][2]["kind"]), (&json!(["wd"]), &json!("Scale")));

    // Something holds an object: the definition stays and takes nothing new until that is gone.
    let held = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    api.merge(&format!("{WIDGETS}/a"), &held).await;
    api.create(WIDGETS, &widget("b", &json!({}))).await;
    let (code, deleted) = api.delete(&path).await;
    assert_eq!((code, condition(&deleted, "Terminating")), (200, "True".into()), "{deleted}");
    api.until(&format!("{WIDGETS}/b"), |b| b["reason"] == "NotFound").await;
    let (code, refused) = api.post(WIDGETS, &widget("c", &json!({}))).await;
    assert_eq!(code, 405, "{refused}");
    let marked = api.until(&format!("{WIDGETS}/a"), |a| !a["metadata"]["deletionTimestamp"].is_null()).await;
    assert_eq!(marked["metadata"]["finalizers"], json!(["example.com/hold"]));
    api.merge(&format!("{WIDGETS}/a"), &json!({"metadata": {"finalizers": null}})).await;
    api.until(&path, |d| d["reason"] == "NotFound").await;
    api.until(WIDGETS, |w| w["code"] == 404).await;
    assert_eq!(api.get("/apis/example.com").await.0, 404);

    // Once more, with nothing left of what was.
    let again = api.define(&widgets(plain())).await;
    assert_ne!(again["metadata"]["uid"], created["metadata"]["uid"]);
    let (_, list) = api.get(WIDGETS).await;
    assert_eq!((&list["kind"], &list["items"]), (&json!("WidgetList"), &json!([])));
    api.create(WIDGETS, &widget("a", &json!({}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_given_once() {
    let api = Api::start().await;
    api.define(&widgets(plain())).await;
    let mut other = widgets(plain());
    other["metadata"]["name"] = "gadgets.example.com".into();
    other["spec"]["names"] =
        json!({"plural": "gadgets", "kind": "Widget", "listKind": "GadgetList", "shortNames": ["wd"]});
    api.create(DEFINITIONS, &other).await;
    let path = format!("{DEFINITIONS}/gadgets.example.com");
    let refused = api.until(&path, |d| condition(d, "NamesAccepted") == "False").await;
    assert_eq!(condition(&refused, "Established"), "False");
    let reported =
        refused["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "NamesAccepted").unwrap();
    assert_eq!(
        (&reported["reason"], &reported["message"]),
        (&json!("KindConflict"), &json!("\"Widget\" is already in use"))
    );
    assert_eq!(api.get("/apis/example.com/v1/namespaces/default/gadgets").await.0, 404);
    // Names that become free are given.
    assert_eq!(api.delete(&format!("{DEFINITIONS}/widgets.example.com")).await.0, 200);
    api.until(&path, |d| condition(d, "Established") == "True").await;
    assert_eq!(api.get("/apis/example.com/v1/namespaces/default/gadgets").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_server_serves_what_is_established() {
    let api = Api::start().await;
    let peer = api.server.peer().await.unwrap();
    let ask = async |method: Method, path: &str, body: &Value| {
        let request = api.client.request(method, format!("{}{path}", peer.plane.url()));
        let response = request.header("content-type", "application/json").body(body.to_string()).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    for round in 0..3 {
        api.define(&widgets(plain())).await;
        // The other server has to serve what somebody knows to be established, at once.
        let name = format!("w{round}");
        let (code, answer) = ask(Method::POST, WIDGETS, &widget(&name, &json!({"color": "red"}))).await;
        assert_eq!(code, 201, "{answer}");
        assert_eq!(api.get(&format!("{WIDGETS}/{name}")).await.0, 200);
        let (code, deleted) = ask(Method::DELETE, &format!("{DEFINITIONS}/widgets.example.com"), &json!({})).await;
        assert_eq!(code, 200, "{deleted}");
        api.until(&format!("{DEFINITIONS}/widgets.example.com"), |d| d["reason"] == "NotFound").await;
        api.until(WIDGETS, |w| w["code"] == 404).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_starts_serves_what_is_there() {
    let api = Api::start().await;
    api.define(&widgets(plain())).await;
    api.create(WIDGETS, &widget("a", &json!({"color": "red"}))).await;
    let peer = api.server.peer().await.unwrap();
    let response = api.client.get(format!("{}{WIDGETS}?resourceVersion=0", peer.plane.url())).send().await.unwrap();
    let list: Value = response.json().await.unwrap();
    assert_eq!(list["items"][0]["metadata"]["name"], "a", "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_definitions_are_served() {
    const MANY: usize = 120;
    let api = Api::start().await;
    let path = |n: usize| format!("/apis/example.com/v1/namespaces/default/widgets{n}");
    let define = async |n: usize| {
        let mut definition = widgets(plain());
        definition["metadata"]["name"] = format!("widgets{n}.example.com").into();
        definition["spec"]["names"] = json!({"plural": format!("widgets{n}"), "kind": format!("Widget{n}")});
        api.define(&definition).await;
        let mut object = widget("a", &json!({"color": "red"}));
        object["kind"] = format!("Widget{n}").into();
        api.create(&path(n), &object).await;
    };
    let started = Instant::now();
    let all: Vec<_> = (0..MANY).map(define).collect();
    futures::StreamExt::collect::<Vec<_>>(futures::StreamExt::buffer_unordered(futures::stream::iter(all), 8)).await;
    let took = started.elapsed();
    assert!(took < Duration::from_millis(150) * u32::try_from(MANY).unwrap(), "{took:?}");
    let (_, list) = api.get("/apis/example.com/v1").await;
    assert_eq!(list["resources"].as_array().unwrap().len(), 3 * MANY);
    // One that starts serves them all when it is ready.
    let peer = api.server.peer().await.unwrap();
    for n in [0, MANY / 2, MANY - 1] {
        let url = format!("{}{}?resourceVersion=0", peer.plane.url(), path(n));
        let list: Value = api.client.get(url).send().await.unwrap().json().await.unwrap();
        assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_definition_is_held_to_its_own_rules() {
    let api = Api::start().await;
    for (path, value, field) in [
        ("/metadata/name", json!("x.example.com"), "metadata.name"),
        ("/spec/versions/0/schema", json!({}), "spec.versions[0].schema.openAPIV3Schema"),
        ("/spec/versions/0/storage", json!(false), "spec.versions"),
        (
            "/spec/versions/0/selectableFields",
            json!([{"jsonPath": ".spec"}]),
            "spec.versions[0].selectableFields[0].jsonPath",
        ),
    ] {
        let mut definition = widgets(plain());
        *definition.pointer_mut(path).unwrap() = value;
        let (code, answer) = api.post(DEFINITIONS, &definition).await;
        assert_eq!(code, 422, "{path}: {answer}");
        let causes = answer["details"]["causes"].as_array().unwrap();
        assert!(causes.iter().any(|c| c["field"] == field), "{path}: {answer}");
    }
    let mut odd = widgets(plain());
    odd["spec"]["frobs"] = 1.into();
    let (code, answer) = api.post(&format!("{DEFINITIONS}?fieldValidation=Strict"), &odd).await;
    assert_eq!(code, 400, "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("unknown field \"spec.frobs\""), "{answer}");

    let definition = api.define(&widgets(plain())).await;
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let (code, answer) = api.merge(&path, &json!({"spec": {"scope": "Cluster"}})).await;
    assert_eq!((code, &answer["details"]["causes"][0]["field"]), (422, &json!("spec.scope")), "{answer}");
    // Status is a subresource: others' conditions stay, ours come back.
    let extra = json!({"type": "Mine", "status": "True", "reason": "R", "message": "m"});
    let (code, _) = api.merge(&format!("{path}/status"), &json!({"status": {"conditions": [extra]}})).await;
    assert_eq!(code, 200);
    let back = api.until(&path, |d| condition(d, "Established") == "True").await;
    assert_eq!(condition(&back, "Mine"), "True");
    assert_eq!(back["metadata"]["generation"], definition["metadata"]["generation"]);
}
