//! Objects of custom resources, verb by verb.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{Api, JSON, MERGE, WIDGETS, plain, widget, widgets};

#[tokio::test(flavor = "multi_thread")]
async fn all_verbs() {
    let api = Api::start().await;
    api.define(&widgets(plain())).await;
    let mut given = widget("a", &json!({"color": "red", "frob": 1}));
    given["status"] = json!({"replicas": 9});
    let (code, a, warnings) = api.send(Method::POST, WIDGETS, JSON, &given).await;
    assert_eq!(code, 201, "{a}");
    assert_eq!(warnings, ["299 - \"unknown field \\\"spec.frob\\\"\""]);
    assert_eq!(a["spec"], json!({"color": "red", "size": "small"}), "pruned and defaulted");
    assert_eq!((&a["metadata"]["generation"], a.get("status")), (&json!(1), None));
    let path = format!("{WIDGETS}/a");

    // Updates name their version; what does not change the spec has no new generation.
    let mut new = a.clone();
    new["metadata"]["labels"] = json!({"x": "y"});
    new["status"] = json!({"replicas": 3});
    let (_, labelled) = api.put(&path, &new).await;
    assert_eq!((&labelled["metadata"]["generation"], labelled.get("status")), (&json!(1), None), "{labelled}");
    assert_eq!(api.put(&path, &new).await.0, 409);
    new["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let (code, answer) = api.put(&path, &new).await;
    assert_eq!((code, &answer["details"]["causes"][0]["field"]), (422, &json!("metadata.resourceVersion")));
    let (_, changed) = api.merge(&path, &json!({"spec": {"color": "green"}})).await;
    assert_eq!(changed["metadata"]["generation"], 2);

    // Status is a subresource, and takes nothing but the status.
    let status = json!({"spec": {"color": "blue"}, "metadata": {"labels": {"x": "z"}},
        "status": {"replicas": 2, "selector": "a=b", "conditions": [{"type": "Ready", "status": "True"}]}});
    let (code, answer) = api.merge(&format!("{path}/status"), &status).await;
    assert_eq!(
        (code, &answer["spec"]["color"], &answer["metadata"]["labels"]["x"]),
        (200, &json!("green"), &json!("y"))
    );
    assert_eq!((&answer["status"]["replicas"], &answer["metadata"]["generation"]), (&json!(2), &json!(2)));

    let patch = json!([{"op": "replace", "path": "/spec/color", "value": "blue"}]);
    let (code, answer, _) = api.send(Method::PATCH, &path, "application/json-patch+json", &patch).await;
    assert_eq!((code, &answer["spec"]["color"]), (200, &json!("blue")));
    let (code, ..) = api.send(Method::PATCH, &path, "application/strategic-merge-patch+json", &json!({})).await;
    assert_eq!(code, 415);
    let apply =
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "b"}, "spec": {"color": "red"}});
    let url = format!("{WIDGETS}/b?fieldManager=m");
    let (code, ..) = api.send(Method::PATCH, &url, "application/apply-patch+yaml", &apply).await;
    assert_eq!(code, 201);

    let (code, gone) = api.delete(&path).await;
    assert_eq!((code, &gone["kind"], &gone["details"]["kind"]), (200, &json!("Status"), &json!("widgets")));
    assert_eq!(api.get(&path).await.0, 404);
    api.create(WIDGETS, &widget("c", &json!({}))).await;
    let (_, list) = api.delete(WIDGETS).await;
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("WidgetList"), 2));
    assert_eq!(api.get(WIDGETS).await.1["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scale_of_a_widget() {
    let api = Api::start().await;
    api.define(&widgets(plain())).await;
    api.create(WIDGETS, &widget("a", &json!({}))).await;
    let scale = format!("{WIDGETS}/a/scale");
    let (code, answer) = api.get(&scale).await;
    assert_eq!(code, 500, "it has none: {answer}");
    api.merge(&format!("{WIDGETS}/a"), &json!({"spec": {"replicas": 2}})).await;
    api.merge(&format!("{WIDGETS}/a/status"), &json!({"status": {"replicas": 1, "selector": "app=a"}})).await;
    let (_, answer) = api.get(&scale).await;
    assert_eq!((&answer["kind"], &answer["spec"]), (&json!("Scale"), &json!({"replicas": 2})));
    assert_eq!(answer["status"], json!({"replicas": 1, "selector": "app=a"}));
    let (code, answer) = api.merge(&scale, &json!({"spec": {"replicas": 5}})).await;
    assert_eq!((code, &answer["spec"]["replicas"]), (200, &json!(5)));
    let (_, a) = api.get(&format!("{WIDGETS}/a")).await;
    assert_eq!((&a["spec"]["replicas"], &a["metadata"]["generation"]), (&json!(5), &json!(3)));
    let (code, answer) = api.merge(&scale, &json!({"spec": {"replicas": 11}})).await;
    assert_eq!(code, 422, "the schema holds for it too: {answer}");
    let (code, _) = api.merge(&scale, &json!({"spec": {"replicas": -1}})).await;
    assert_eq!(code, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_watches_and_tables() {
    let api = Api::start().await;
    api.define(&widgets(plain())).await;
    let (_, before) = api.get(WIDGETS).await;
    let since = before["metadata"]["resourceVersion"].as_str().unwrap();
    for (name, color) in [("a", "red"), ("b", "green"), ("c", "red")] {
        api.create(WIDGETS, &widget(name, &json!({"color": color}))).await;
    }
    api.create(WIDGETS, &widget("d", &json!({}))).await;
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap();
        items.iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    for (selector, want) in [
        ("spec.color=red", &["a", "c"][..]),
        ("spec.color!=red", &["b", "d"]),
        ("spec.color=", &["d"]),
        ("metadata.name=b", &["b"]),
    ] {
        let selector = selector.replace('=', "%3D");
        let (_, list) = api.get(&format!("{WIDGETS}?fieldSelector={selector}")).await;
        assert_eq!(names(&list), want, "{selector}");
    }
    let (code, answer) = api.get(&format!("{WIDGETS}?fieldSelector=spec.size%3Dx")).await;
    assert_eq!((code, answer["message"].as_str().unwrap()), (400, "field label not supported: spec.size"));
    let all = "/apis/example.com/v1/widgets";
    assert_eq!(names(&api.get(all).await.1).len(), 4);
    let (_, page) = api.get(&format!("{all}?limit=3")).await;
    let token = page["metadata"]["continue"].as_str().unwrap();
    assert_eq!(names(&api.get(&format!("{all}?limit=3&continue={token}")).await.1), ["d"]);

    // A widget that turns red comes into sight, one that is red no more goes.
    api.merge(&format!("{WIDGETS}/b"), &json!({"spec": {"color": "red"}})).await;
    api.merge(&format!("{WIDGETS}/a"), &json!({"spec": {"color": "blue"}})).await;
    let events = api.watched(&format!("{WIDGETS}?fieldSelector=spec.color%3Dred"), since).await;
    let seen: Vec<_> = events.iter().map(|e| format!("{} {}", e["type"], e["object"]["metadata"]["name"])).collect();
    assert_eq!(seen, [r#""ADDED" "a""#, r#""ADDED" "c""#, r#""ADDED" "b""#, r#""DELETED" "a""#]);

    let table = api
        .request(Method::GET, &format!("{WIDGETS}/b"))
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let table: Value = table.send().await.unwrap().json().await.unwrap();
    let headers: Vec<_> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(headers, ["Name", "Color", "Ready", "Age"]);
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], [json!("b"), json!("red"), json!(null)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_applied_document_with_a_key_twice() {
    let api = Api::start().await;
    api.define(&widgets(plain())).await;
    let yaml = "apiVersion: example.com/v1\nkind: Widget\nmetadata:\n  name: a\nspec:\n  color: red\n  color: green\n";
    let apply = async |validation: &str| {
        let url = format!("{WIDGETS}/a?fieldManager=m&force=true&fieldValidation={validation}");
        let request =
            api.request(Method::PATCH, &url).header("content-type", "application/apply-patch+yaml").body(yaml);
        let response = request.send().await.unwrap();
        let warned = response.headers().contains_key("warning");
        (response.status().as_u16(), warned, response.json::<Value>().await.unwrap())
    };
    let (code, _, answer) = apply("Strict").await;
    assert_eq!(code, 400, "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("line 7: key \"color\" already set in map"), "{answer}");
    for (validation, wanted) in [("Warn", true), ("Ignore", false)] {
        let (code, warned, answer) = apply(validation).await;
        assert!(code < 300 && warned == wanted && answer["spec"]["color"] == "green", "{validation} {code}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_validated_as_the_request_says() {
    let api = Api::start().await;
    api.define(&widgets(plain())).await;
    let odd = widget("a", &json!({"color": "red", "frob": 1}));
    let (code, answer) = api.post(&format!("{WIDGETS}?fieldValidation=Strict"), &odd).await;
    assert_eq!(code, 400, "{answer}");
    let text = answer["message"].as_str().unwrap();
    assert!(text.contains("strict decoding error: unknown field \"spec.frob\""), "{text}");
    let request = api.request(Method::POST, &format!("{WIDGETS}?fieldValidation=Strict")).header("content-type", JSON);
    let twice = r#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a","odd":1},"spec":{"color":"red","color":"green"}}"#;
    let answer: Value = request.body(twice).send().await.unwrap().json().await.unwrap();
    let text = answer["message"].as_str().unwrap();
    assert!(text.contains("unknown field \"metadata.odd\", duplicate field \"spec.color\""), "{text}");
    let (code, _, warnings) = api.send(Method::POST, &format!("{WIDGETS}?fieldValidation=Ignore"), JSON, &odd).await;
    assert_eq!((code, warnings.len()), (201, 0));
    let (code, answer, _) = api
        .send(Method::PATCH, &format!("{WIDGETS}/a?fieldValidation=Strict"), MERGE, &json!({"spec": {"frob": 2}}))
        .await;
    assert_eq!(code, 422, "{answer}");

    for (spec, field, message) in [
        (
            json!({"color": "pink"}),
            "spec.color",
            "Unsupported value: \"pink\": supported values: \"red\", \"green\", \"blue\"",
        ),
        (
            json!({"replicas": 11}),
            "spec.replicas",
            "Invalid value: 11: spec.replicas in body should be less than or equal to 10",
        ),
        (
            json!({"replicas": "x"}),
            "spec.replicas",
            "Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\"",
        ),
        (json!("x"), "spec", "Invalid value: \"string\": spec in body must be of type object: \"string\""),
    ] {
        let (code, answer) = api.post(WIDGETS, &widget("b", &spec)).await;
        assert_eq!(code, 422, "{spec}: {answer}");
        let cause = &answer["details"]["causes"][0];
        assert_eq!((cause["field"].as_str(), cause["message"].as_str()), (Some(field), Some(message)), "{spec}");
    }
    for (object, code) in [
        (json!({"apiVersion": "example.com/v2", "kind": "Widget", "metadata": {"name": "b"}}), 400),
        (json!({"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "b"}}), 422),
        (json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "B"}}), 422),
        (json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": 1}}), 400),
        (json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {}}), 422),
        (json!([]), 400),
    ] {
        let (got, answer) = api.post(WIDGETS, &object).await;
        assert_eq!(got, code, "{object}: {answer}");
    }
}
