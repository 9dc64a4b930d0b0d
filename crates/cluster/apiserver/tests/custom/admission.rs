//! Rights, quotas and admission webhooks hold for custom resources as for others.

use std::sync::Arc;

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
use serde_json::{Value, json};

use crate::{Api, WIDGETS, plain, widget, widgets};

#[tokio::test(flavor = "multi_thread")]
async fn rights_and_quotas() {
    let api = Api::start().await;
    api.define(&widgets(plain())).await;
    let config = api.server.kubeconfig_for("jane", &[]).unwrap();
    let jane = kinit_test_support::kube_client(&config).await.unwrap();
    let ask = async |path: &str| {
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        jane.request_text(request).await.is_ok()
    };
    assert!(!ask(WIDGETS).await);
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let rules = json!([{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["list"]}]);
    api.create(&format!("{rbac}/roles"), &json!({"metadata": {"name": "r"}, "rules": rules})).await;
    let binding = json!({"metadata": {"name": "r"}, "subjects": [{"kind": "User", "name": "jane"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}});
    api.create(&format!("{rbac}/rolebindings"), &binding).await;
    api.server.server.store.catch_up().await.unwrap();
    assert!(ask(WIDGETS).await);
    assert!(!ask(&format!("{WIDGETS}/a")).await, "a right to list is none to get");

    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let hard = json!({"count/widgets.example.com": "1"});
    api.create(quotas, &json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
    // What the quota controller would write.
    let status = json!({"status": {"hard": hard, "used": {"count/widgets.example.com": "0"}}});
    assert_eq!(api.merge(&format!("{quotas}/q/status"), &status).await.0, 200);
    api.server.server.store.catch_up().await.unwrap();
    api.create(WIDGETS, &widget("a", &json!({}))).await;
    let (code, answer) = api.post(WIDGETS, &widget("b", &json!({}))).await;
    assert_eq!(code, 403, "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("exceeded quota: q"), "{answer}");
    // Objects in a namespace that is not there.
    let nowhere = WIDGETS.replace("default", "nowhere");
    assert_eq!(api.post(&nowhere, &widget("a", &json!({}))).await.0, 404);
}

async fn hook(asked: Arc<Mutex<Vec<Value>>>, request: Request<Incoming>) -> ApiResponse {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut review: Value = serde_json::from_slice(&body).unwrap();
    let ask = review["request"].take();
    let patch =
        json!([{"op": "add", "path": "/spec/color", "value": "blue"}, {"op": "add", "path": "/spec/odd", "value": 1}]);
    let allowed = ask["name"] != "no";
    review["response"] = json!({"uid": ask["uid"], "allowed": allowed, "patchType": "JSONPatch",
        "patch": base64::engine::general_purpose::STANDARD.encode(patch.to_string())});
    asked.lock().push(ask);
    respond::json(200, &review)
}

#[tokio::test(flavor = "multi_thread")]
async fn admission_webhooks_see_and_change_them() {
    let api = Api::start().await;
    let mut definition = widgets(plain());
    let mut second = definition["spec"]["versions"][0].clone();
    second["name"] = "v2".into();
    definition["spec"]["versions"][0]["storage"] = false.into();
    definition["spec"]["versions"].as_array_mut().unwrap().push(second);
    api.define(&definition).await;
    api.server.pki.server("hook", "hook", &[[127, 0, 0, 1].into()], &[]).unwrap();
    let file = |name: &str| api.server.pki.file(name);
    let cert = ReloadingCert::load(&file("hook.crt"), &file("hook.key")).unwrap();
    let tls = server_config(cert, &ClientAuth::None, &TlsArgs::default()).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, asked, shutdown) =
        (listener.local_addr().unwrap().port(), Arc::<Mutex<Vec<Value>>>::default(), Shutdown::new());
    let log = asked.clone();
    tokio::spawn(serve(listener, Some(tls), shutdown.clone(), move |request| hook(log.clone(), request)));
    let bundle = base64::engine::general_purpose::STANDARD.encode(std::fs::read(file("ca.crt")).unwrap());
    let hooks = json!([{"name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://127.0.0.1:{port}/"), "caBundle": bundle},
        "rules": [{"operations": ["CREATE"], "apiGroups": ["example.com"], "apiVersions": ["v1"], "resources": ["widgets"]}]}]);
    let configurations = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
    api.create(configurations, &json!({"metadata": {"name": "c"}, "webhooks": hooks})).await;
    api.server.server.store.catch_up().await.unwrap();

    let created = api.create(WIDGETS, &widget("a", &json!({"color": "red"}))).await;
    assert_eq!(created["spec"], json!({"color": "blue", "size": "small"}), "what it added that nobody knows is pruned");
    // A request in another version is shown in the one that the webhook knows.
    let mut other = widget("b", &json!({}));
    other["apiVersion"] = "example.com/v2".into();
    let created = api.create(&WIDGETS.replace("v1", "v2"), &other).await;
    assert_eq!((&created["apiVersion"], &created["spec"]["color"]), (&json!("example.com/v2"), &json!("blue")));
    let seen: Vec<Value> = asked.lock().iter().map(|a| a["object"]["apiVersion"].clone()).collect();
    assert_eq!(seen, ["example.com/v1", "example.com/v1"]);
    assert_eq!(asked.lock()[1]["requestKind"]["version"], "v2");
    assert_eq!(api.post(WIDGETS, &widget("no", &json!({}))).await.0, 400);
}
