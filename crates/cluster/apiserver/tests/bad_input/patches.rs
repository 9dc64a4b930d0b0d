//! Patches of all four kinds.

use serde_json::json;

use crate::client::{Api, MAPS, patch};

#[tokio::test(flavor = "multi_thread")]
async fn json_merge_and_strategic_patches() {
    let api = Api::start().await;
    api.create(MAPS, json!({"metadata": {"name": "m"}, "data": {"k": "v"}})).await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    api.create(
        deployments,
        json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}),
    )
    .await;
    let map = format!("{MAPS}/m");
    let deployment = format!("{deployments}/d");
    let bad = |message: &'static str| (400, "BadRequest", message);
    let unprocessable = (422, "Invalid", "the server rejected our request due to an error in our request");
    let many = |n: usize| json!(vec![json!({"op": "add", "path": "/data/x", "value": "y"}); n]).to_string();
    // Copies that double the object each time.
    let grow: Vec<_> = (0..64).map(|i| json!({"op": "copy", "from": "", "path": format!("/data{i}")})).collect();
    // Copies into the object's own leaf deepen it each time.
    let mut leaf = String::from("/metadata/annotations");
    let mut dig = vec![json!({"op": "add", "path": "/metadata/annotations", "value": {"a": {}}})];
    for _ in 0..40 {
        dig.push(json!({"op": "copy", "from": "/metadata/annotations", "path": format!("{leaf}/a")}));
        leaf.push_str("/a");
    }
    let deep = format!("{}1{}", "{\"a\":".repeat(20_000), "}".repeat(20_000));
    api.check(vec![
        ("a patch of no kind", patch(&map, "application/json", "{}"), (415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml")),
        ("a patch of YAML", patch(&map, "application/yaml", "a: b"), (415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media types include: ")),
        ("a failed test", patch(&map, "json", r#"[{"op":"test","path":"/data/k","value":"other"}]"#), unprocessable),
        ("remove what is not there", patch(&map, "json", r#"[{"op":"remove","path":"/data/none"}]"#), unprocessable),
        ("a pointer through a string", patch(&map, "json", r#"[{"op":"add","path":"/data/k/x","value":"y"}]"#), unprocessable),
        ("a pointer that is none", patch(&map, "json", r#"[{"op":"remove","path":"data"}]"#), unprocessable),
        ("an operation nobody knows", patch(&map, "json", r#"[{"op":"frobnicate","path":"/data"}]"#), unprocessable),
        ("a JSON patch that is an object", patch(&map, "json", "{}"), bad("")),
        ("a JSON patch cut off", patch(&map, "json", "[{"), bad("")),
        ("an empty JSON patch", patch(&map, "json", ""), bad("")),
        ("too many operations", patch(&map, "json", many(10_001)), (413, "RequestEntityTooLarge", "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001")),
        ("copies without end", patch(&map, "json", json!(grow).to_string()), unprocessable),
        ("copies into the depth", patch(&map, "json", json!(dig).to_string()), (422, "Invalid", "")),
        ("the whole object gone", patch(&map, "json", r#"[{"op":"replace","path":"","value":null}]"#), bad("")),
        ("an object replaced by a list", patch(&map, "json", r#"[{"op":"replace","path":"","value":[]}]"#), bad("")),
        ("a type turned", patch(&map, "merge", r#"{"data":"text"}"#), (422, "Invalid", " \"\" is invalid: patch: Invalid value: ")),
        ("a merge patch that is a list", patch(&map, "merge", "[]"), bad("")),
        ("a merge patch cut off", patch(&map, "merge", "{"), bad("error decoding patch: ")),
        ("a deep merge patch", patch(&map, "merge", &deep), bad("error decoding patch: ")),
        ("another name", patch(&map, "merge", r#"{"metadata":{"name":"n"}}"#), bad("the name of the object (n) does not match the name on the URL (m)")),
        ("another namespace", patch(&map, "merge", r#"{"metadata":{"namespace":"n"}}"#), bad("the namespace of the object (n) does not match the namespace on the request (default)")),
        ("another kind", patch(&map, "merge", r#"{"kind":"Pod"}"#), bad("")),
        ("an old version", patch(&map, "merge", r#"{"metadata":{"resourceVersion":"1"}}"#), (409, "Conflict", "Operation cannot be fulfilled on configmaps \"m\": the object has been modified; please apply your changes to the latest version and try again")),
        ("not a version", patch(&map, "merge", r#"{"metadata":{"resourceVersion":"x"}}"#), (422, "Invalid", "ConfigMap \"m\" is invalid: metadata.resourceVersion: Invalid value: ")),
        ("no such object", patch(&format!("{MAPS}/none"), "merge", "{}"), (404, "NotFound", "configmaps \"none\" not found")),
        ("a directive nobody knows", patch(&deployment, "strategic", r#"{"spec":{"template":{"$patch":"frob"}}}"#), bad("Unknown patch type found: frob")),
        ("a directive of no text", patch(&deployment, "strategic", r#"{"spec":{"$patch":5}}"#), bad("")),
        ("an item without its key", patch(&deployment, "strategic", r#"{"spec":{"template":{"spec":{"containers":[{"image":"x"}]}}}}"#), bad("map: ")),
        ("an item that is none", patch(&deployment, "strategic", r#"{"spec":{"template":{"spec":{"containers":["x"]}}}}"#), bad("")),
        ("keys to retain that are none", patch(&deployment, "strategic", r#"{"spec":{"$retainKeys":"x"}}"#), bad("")),
        ("an order that is none", patch(&deployment, "strategic", r#"{"spec":{"template":{"spec":{"$setElementOrder/containers":"x"}}}}"#), bad("")),
        ("a strategic patch that is a list", patch(&deployment, "strategic", "[]"), bad("")),
        ("a scale that is none", patch(&format!("{deployment}/scale"), "merge", r#"{"spec":{"replicas":"x"}}"#), bad("")),
        ("a negative scale", patch(&format!("{deployment}/scale"), "merge", r#"{"spec":{"replicas":-1}}"#), (422, "Invalid", "Scale.autoscaling \"d\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0")),
        ("an immutable field", patch(&deployment, "merge", r#"{"spec":{"selector":{"matchLabels":{"a":"c"}},"template":{"metadata":{"labels":{"a":"c"}}}}}"#), (422, "Invalid", "Deployment.apps \"d\" is invalid: spec.selector: Invalid value: ")),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_side_apply() {
    let api = Api::start().await;
    let path = |name: &str, manager: &str| format!("{MAPS}/{name}?fieldManager={manager}");
    let text = |name: &str, value: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  k: {value}\n  l: {value}\n")
    };
    let first = api.send(&patch(&path("m", "one"), "apply", text("m", "a"))).await;
    assert_eq!(first.code, 201, "{}", first.text);
    let bad = |message: &'static str| (400, "BadRequest", message);
    api.check(vec![
        (
            "conflicts",
            patch(&path("m", "two"), "apply", text("m", "b")),
            (409, "Conflict", "Apply failed with 2 conflicts: conflicts with \"one\":\n- .data.k\n- .data.l"),
        ),
        ("no kind", patch(&path("m", "two"), "apply", "apiVersion: v1\n"), bad("")),
        ("no version", patch(&path("m", "two"), "apply", "kind: ConfigMap\n"), bad("")),
        ("another kind", patch(&path("m", "two"), "apply", "apiVersion: v1\nkind: Pod\n"), bad("")),
        (
            "another version",
            patch(&path("m", "two"), "apply", "apiVersion: v9\nkind: ConfigMap\n"),
            bad("Incorrect version specified in apply patch. Specified patch version: v9, expected: v1"),
        ),
        ("another name", patch(&path("m", "two"), "apply", text("n", "b")), bad("")),
        (
            "owners given",
            patch(
                &path("m", "two"),
                "apply",
                "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  managedFields:\n  - manager: x\n",
            ),
            bad("metadata.managedFields must be nil"),
        ),
        ("not YAML", patch(&path("m", "two"), "apply", "a: [b\n c: }"), bad("error decoding YAML: ")),
        ("not an object", patch(&path("m", "two"), "apply", "- a"), bad("error decoding YAML: ")),
        ("nothing", patch(&path("m", "two"), "apply", ""), bad("")),
        (
            "a bad name",
            patch(&path("UPPER", "two"), "apply", text("UPPER", "b")),
            (422, "Invalid", "ConfigMap \"UPPER\" is invalid: metadata.name: Invalid value: \"UPPER\""),
        ),
        ("a type turned", patch(&path("m", "two"), "apply", "apiVersion: v1\nkind: ConfigMap\ndata: text\n"), bad("")),
    ])
    .await;
    let conflict = api.send(&patch(&path("m", "two"), "apply", text("m", "b"))).await;
    assert_eq!(
        conflict.body["details"]["causes"][0],
        json!({"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.k"}),
        "{}",
        conflict.text
    );
    assert_eq!(api.send(&patch(&format!("{}&force=true", path("m", "two")), "apply", text("m", "b"))).await.code, 200);
}
