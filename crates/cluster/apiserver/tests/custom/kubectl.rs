//! kubectl, where there is one.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{Api, WIDGETS, plain, widget, widgets};

/// Runs kubectl with a document as its input; its output, and whether it was content.
fn run(api: &Api, args: &[&str], input: &Value) -> (bool, String) {
    let mut child = Command::new("kubectl")
        .arg(format!("--kubeconfig={}", api.server.kubeconfig().display()))
        .arg(format!("--cache-dir={}", api.server.plane.dir.join("kubectl").display()))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usual_commands() {
    if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        eprintln!("no kubectl in PATH: nothing to try");
        return;
    }
    let api = Api::start().await;
    let ok = |args: &[&str], input: &Value, want: &str| {
        let (good, text) = tokio::task::block_in_place(|| run(&api, args, input));
        assert!(good && text.contains(want), "kubectl {args:?} ({want}): {text}");
        text
    };
    let none = Value::Null;
    ok(
        &["apply", "-f", "-"],
        &widgets(plain()),
        "customresourcedefinition.apiextensions.k8s.io/widgets.example.com created",
    );
    ok(&["wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=10s"], &none, "condition met");
    let a = widget("a", &json!({"color": "red", "replicas": 1}));
    ok(&["apply", "-f", "-"], &a, "widget.example.com/a created");
    ok(&["apply", "-f", "-"], &a, "widget.example.com/a unchanged");
    ok(
        &["apply", "-f", "-"],
        &widget("a", &json!({"color": "blue", "replicas": 1})),
        "widget.example.com/a configured",
    );
    ok(&["diff", "-f", "-"], &widget("a", &json!({"color": "blue", "replicas": 1})), "");
    let text = ok(&["get", "wd"], &none, "COLOR");
    assert!(text.lines().nth(1).unwrap().starts_with("a      blue"), "{text}");
    ok(&["get", "all"], &none, "widget.example.com/a");
    ok(&["get", "widgets", "--field-selector=spec.color=blue", "-o", "name"], &none, "widget.example.com/a");
    ok(&["scale", "widget/a", "--replicas=3"], &none, "widget.example.com/a scaled");
    ok(&["get", "widget", "a", "-o", "jsonpath={.spec.replicas}"], &none, "3");
    ok(
        &[
            "patch",
            "widget",
            "a",
            "--subresource=status",
            "--type=merge",
            "-p",
            r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#,
        ],
        &none,
        "patched",
    );
    ok(&["wait", "--for=condition=Ready", "widget/a", "--timeout=10s"], &none, "condition met");
    ok(&["label", "widget", "a", "x=y"], &none, "labeled");
    last_commands(&api, &ok).await;
}

/// What is told of it, and how it goes.
async fn last_commands(api: &Api, ok: &impl Fn(&[&str], &Value, &str) -> String) {
    let none = Value::Null;
    let text = ok(&["explain", "widget"], &none, "A widget.");
    assert!(text.contains("KIND:       Widget") && text.contains("spec\t<Object>"), "{text}");
    ok(&["explain", "widget.spec.color"], &none, "Its color.");
    ok(&["describe", "widget", "a"], &none, "Color:");
    ok(&["api-resources", "--api-group=example.com"], &none, "wd");
    let (good, text) =
        tokio::task::block_in_place(|| run(api, &["create", "-f", "-"], &widget("b", &json!({"frob": 1}))));
    assert!(!good && text.contains("unknown field \"spec.frob\""), "{text}");
    ok(&["create", "quota", "q", "--hard=count/widgets.example.com=2"], &none, "created");
    ok(&["delete", "widget", "a"], &none, "deleted");
    let start = std::time::Instant::now();
    ok(&["delete", "crd", "widgets.example.com", "--timeout=20s"], &none, "deleted");
    assert!(start.elapsed().as_secs() < 15);
    let (good, text) = tokio::task::block_in_place(|| run(api, &["get", "widgets"], &none));
    assert!(!good && text.contains("NotFound"), "{text}"); // kubectl remembers the kind for a while
    assert_eq!(api.get(WIDGETS).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn openapi_tells_of_it_while_it_is_there() {
    let api = Api::start().await;
    let path = "/openapi/v3/apis/example.com/v1";
    assert_eq!(api.get(path).await.0, 404);
    let (_, before) = api.get("/openapi/v3").await;
    api.define(&widgets(plain())).await;
    let index = api.until("/openapi/v3", |i| !i["paths"]["apis/example.com/v1"].is_null()).await;
    // Other documents are the same as before.
    assert_eq!(index["paths"]["apis/apps/v1"], before["paths"]["apis/apps/v1"]);
    let (_, document) = api.get(path).await;
    let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(schema["properties"]["spec"], plain());
    let kind = json!([{"group": "example.com", "version": "v1", "kind": "Widget"}]);
    assert_eq!(schema["x-kubernetes-group-version-kind"], kind);
    let at = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"];
    assert_eq!(at["get"]["x-kubernetes-group-version-kind"]["kind"], "Widget");
    let (_, two) = api.get("/openapi/v2").await;
    let two = &two["definitions"]["com.example.v1.Widget"];
    assert_eq!(two["properties"]["spec"]["properties"]["color"], plain()["properties"]["color"]);
    assert_eq!(api.delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com").await.0, 200);
    api.until("/openapi/v3", |i| i["paths"]["apis/example.com/v1"].is_null()).await;
    let (_, two) = api.get("/openapi/v2").await;
    assert!(two["definitions"]["com.example.v1.Widget"].is_null());
}

/// Documents and their index are made once for each change of what is served, however often they are asked for.
#[tokio::test(flavor = "multi_thread")]
async fn openapi_documents_are_made_once_for_each_change() {
    let api = Api::start().await;
    let documents = &api.server.server.documents;
    let look = async || {
        for path in ["/openapi/v3", "/openapi/v3/api/v1", "/openapi/v3/apis/apps/v1"] {
            assert_eq!(api.get(path).await.0, 200, "{path}");
        }
    };
    assert_eq!((api.get("/openapi/v3/api/v1").await.0, documents.made()), (200, 1), "nobody asked for another");
    look().await;
    let before = documents.made();
    for _ in 0..3 {
        look().await;
    }
    assert_eq!(documents.made(), before);
    api.define(&widgets(plain())).await;
    let path = "/openapi/v3/apis/example.com/v1";
    api.until(path, |document| document["paths"].is_object()).await;
    for _ in 0..3 {
        look().await;
        assert_eq!(api.get(path).await.0, 200);
    }
    assert_eq!(documents.made(), before + 2, "the document of the new group version, and the index");
}
