//! Admission webhooks, asked by a real server on a real etcd; the webhook is a small TLS server in here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

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
use kinit_test_support::TestApiServer;
use parking_lot::Mutex;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A cluster, a webhook server, and what that was asked.
struct World {
    api: TestApiServer,
    client: reqwest::Client,
    port: u16,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    _shutdown: kinit_component_base::Shutdown,
}

struct Answer {
    code: u16,
    body: Value,
    warnings: Vec<String>,
}

impl World {
    async fn start() -> Self {
        let api = TestApiServer::start().await.unwrap();
        let client = api.admin().unwrap().build().unwrap();
        api.pki.server("hook", "hook", &[[127, 0, 0, 1].into()], &["hook.default.svc"]).unwrap();
        let cert = ReloadingCert::load(&api.pki.file("hook.crt"), &api.pki.file("hook.key")).unwrap();
        let tls = server_config(cert, &ClientAuth::None, &TlsArgs::default()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, shutdown) = (asked.clone(), Shutdown::new());
        tokio::spawn(serve(listener, Some(tls), shutdown.clone(), move |request| hook(log.clone(), request)));
        Self { api, client, port, asked, _shutdown: shutdown }
    }

    async fn send(&self, method: &str, path: &str, media: &str, body: &Value) -> Answer {
        let url = format!("{}{path}", self.api.plane.url());
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = self.client.request(method.parse().unwrap(), url).header("content-type", media).body(body);
        let response = request.send().await.unwrap();
        let code = response.status().as_u16();
        let warnings = response
            .headers()
            .get_all("warning")
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            .collect();
        let text = response.text().await.unwrap();
        Answer { code, body: serde_json::from_str(&text).unwrap_or_default(), warnings }
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, "application/json", body).await
    }

    async fn merge(&self, path: &str, body: &Value) -> Answer {
        self.send("PATCH", path, "application/merge-patch+json", body).await
    }

    /// Makes a configuration of webhooks and waits until the server knows it.
    async fn configure(&self, kind: &str, name: &str, hooks: Vec<Value>) {
        let object = json!({"metadata": {"name": name}, "webhooks": hooks});
        let path = format!("/apis/admissionregistration.k8s.io/v1/{}webhookconfigurations", kind.to_lowercase());
        let answer = self.post(&path, &object).await;
        assert_eq!(answer.code, 201, "{}", answer.body);
        self.api.server.store.catch_up().await.unwrap();
    }

    /// A webhook at a path of the server, about these resources.
    fn hook(&self, path: &str, operations: &[&str], resources: &[&str], more: Value) -> Value {
        let ca = std::fs::read(self.api.pki.file("ca.crt")).unwrap();
        let mut hook = json!({
            "name": format!("{path}.example.com"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://127.0.0.1:{}/{path}", self.port),
                "caBundle": base64::engine::general_purpose::STANDARD.encode(ca)},
            "rules": [{"operations": operations, "apiGroups": ["*"], "apiVersions": ["*"], "resources": resources}],
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            hook[key] = value.clone();
        }
        hook
    }

    fn asked(&self, path: &str) -> Vec<Value> {
        self.asked.lock().iter().filter(|(p, _)| p == path).map(|(_, r)| r.clone()).collect()
    }
}

fn coded(patch: &Value) -> String {
    base64::engine::general_purpose::STANDARD.encode(patch.to_string())
}

/// The webhook: what it does is in the path.
async fn hook(asked: Arc<Mutex<Vec<(String, Value)>>>, request: Request<Incoming>) -> ApiResponse {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    assert!(request.uri().query().is_some_and(|q| q.starts_with("timeout=")));
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    let ask = review["request"].clone();
    let calls = {
        let mut asked = asked.lock();
        asked.push((path.clone(), ask.clone()));
        asked.iter().filter(|(p, _)| *p == path).count()
    };
    let mut response = json!({"uid": ask["uid"], "allowed": true});
    let mut patch = |operations: Value| {
        response["patchType"] = "JSONPatch".into();
        response["patch"] = coded(&operations).into();
    };
    match path.as_str() {
        "slow" => tokio::time::sleep(Duration::from_secs(20)).await,
        "label" => patch(json!([{"op": "add", "path": "/metadata/labels", "value": {"by": "label"}},
            {"op": "add", "path": "/metadata/uid", "value": "mine"}])),
        "count" => {
            patch(json!([{"op": "add", "path": "/metadata/annotations", "value": {"calls": calls.to_string()}}]))
        }
        "spoil" => patch(json!([{"op": "add", "path": "/metadata/managedFields/0/operation", "value": "Steal"}])),
        "scale" => patch(json!([{"op": "replace", "path": "/spec/replicas", "value": 7}])),
        "limits" => patch(json!([{"op": "add", "path": "/spec/containers/0/resources",
            "value": {"limits": {"cpu": "1", "memory": "1Gi"}}}])),
        "other-uid" => response["uid"] = "x".into(),
        "deny" => {
            response["allowed"] = false.into();
            response["status"] = json!({"code": 403, "reason": "Forbidden", "message": "not on my watch"});
            response["warnings"] = json!(["mind the gap \u{2713}"]);
        }
        "deny-plain" => response["allowed"] = false.into(),
        _ => {}
    }
    let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    respond::json(200, &answer)
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_changed_and_refused() {
    let world = World::start().await;
    let only = json!({"objectSelector": {"matchLabels": {"test": "yes"}}});
    world.configure("Mutating", "a", vec![world.hook("label", &["CREATE"], &["configmaps"], json!({}))]).await;
    world.configure("Validating", "b", vec![world.hook("deny", &["DELETE"], &["configmaps"], only.clone())]).await;
    let made = world.post(MAPS, &json!({"metadata": {"name": "m", "labels": {"x": "y"}}})).await;
    assert_eq!((made.code, &made.body["metadata"]["labels"]), (201, &json!({"by": "label"})));
    assert_ne!(made.body["metadata"]["uid"], "mine");
    let ask = world.asked("label").remove(0);
    for (key, want) in [
        ("operation", json!("CREATE")),
        ("name", json!("m")),
        ("namespace", json!("default")),
        ("kind", json!({"group": "", "version": "v1", "kind": "ConfigMap"})),
        ("resource", json!({"group": "", "version": "v1", "resource": "configmaps"})),
        ("dryRun", json!(false)),
        ("oldObject", json!(null)),
        ("options", json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"})),
    ] {
        assert_eq!(ask[key], want, "{key}");
    }
    assert_eq!((&ask["object"]["kind"], &ask["object"]["metadata"]["labels"]["x"]), (&json!("ConfigMap"), &json!("y")));

    // A delete shows the old object alone; the refusal has the webhook's code, reason and words, and its warning.
    let path = format!("{MAPS}/m");
    assert_eq!(world.merge(&path, &json!({"metadata": {"labels": {"test": "yes"}}})).await.code, 200);
    let refused = world.send("DELETE", &path, "application/json", &Value::Null).await;
    assert_eq!((refused.code, &refused.body["reason"]), (403, &json!("Forbidden")));
    let message = "admission webhook \"deny.example.com\" denied the request: not on my watch";
    assert_eq!(refused.body["message"], message);
    assert_eq!(refused.warnings.len(), 1);
    let ask = world.asked("deny").remove(0);
    assert_eq!((&ask["object"], &ask["oldObject"]["metadata"]["name"]), (&json!(null), &json!("m")));

    // Whatever the server had cached when the delete came: the object as it is deleted is the one that counts.
    for round in 0..40 {
        for label in ["no", "yes"] {
            assert_eq!(world.merge(&path, &json!({"metadata": {"labels": {"test": label}}})).await.code, 200);
        }
        let refused = world.send("DELETE", &path, "application/json", &Value::Null).await;
        assert_eq!(refused.code, 403, "round {round}");
    }
    assert_eq!(world.merge(&path, &json!({"metadata": {"labels": {"test": "no"}}})).await.code, 200);
    assert_eq!(world.send("DELETE", &path, "application/json", &Value::Null).await.code, 200);

    // Configurations of admission are theirs alone.
    world.configure("Validating", "c", vec![world.hook("deny-plain", &["*"], &["*/*"], only.clone())]).await;
    let labelled = json!({"metadata": {"name": "d", "labels": {"test": "yes"}}, "webhooks": []});
    let configurations = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    assert_eq!(world.post(configurations, &labelled).await.code, 201);
    let plain = world.post("/api/v1/namespaces", &json!({"metadata": {"name": "n", "labels": {"test": "yes"}}})).await;
    let message = "admission webhook \"deny-plain.example.com\" denied the request without explanation";
    assert_eq!((plain.code, &plain.body["message"]), (400, &json!(message)));
}

#[tokio::test(flavor = "multi_thread")]
async fn subresources_services_and_derived_fields() {
    let world = World::start().await;
    let service = json!({"metadata": {"name": "hook"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    assert_eq!(world.post("/api/v1/namespaces/default/services", &service).await.code, 201);
    let mut through = world.hook("limits", &["CREATE"], &["pods"], json!({}));
    through["clientConfig"] = json!({"caBundle": through["clientConfig"]["caBundle"],
        "service": {"namespace": "default", "name": "hook", "port": world.port, "path": "/limits"}});
    let hooks = vec![
        through,
        world.hook("scale", &["UPDATE"], &["deployments/scale"], json!({})),
        world.hook("see", &["*"], &["pods/*", "serviceaccounts/token"], json!({})),
    ];
    world.configure("Mutating", "a", hooks).await;
    let account = json!({"metadata": {"name": "default"}});
    // The controllers that would make it do not run here.
    world.post("/api/v1/namespaces/default/serviceaccounts", &account).await;
    let template = json!({"containers": [{"name": "c", "image": "i"}]});
    let pods = "/api/v1/namespaces/default/pods";
    let pod = world.post(pods, &json!({"metadata": {"name": "p"}, "spec": template})).await;
    assert_eq!(pod.code, 201, "{}", pod.body);
    // Defaults and the class of service follow from what the webhook added.
    assert_eq!(pod.body["spec"]["containers"][0]["resources"]["requests"]["cpu"], "1");
    assert_eq!(pod.body["status"]["qosClass"], "Guaranteed");

    let selector = json!({"matchLabels": {"a": "b"}});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": selector,
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": template}}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(world.post(deployments, &deployment).await.code, 201);
    let scaled = world.merge(&format!("{deployments}/d/scale"), &json!({"spec": {"replicas": 3}})).await;
    assert_eq!((scaled.code, &scaled.body["spec"]["replicas"]), (200, &json!(7)), "{}", scaled.body);
    let ask = world.asked("scale").remove(0);
    assert_eq!((&ask["object"]["kind"], &ask["object"]["spec"]["replicas"]), (&json!("Scale"), &json!(3)));
    assert_eq!((&ask["kind"]["group"], &ask["subResource"]), (&json!("autoscaling"), &json!("scale")));

    let binding = json!({"target": {"kind": "Node", "name": "node"}});
    assert_eq!(world.post(&format!("{pods}/p/binding"), &binding).await.code, 201);
    let exec = world.post(&format!("{pods}/p/exec?command=ls&container=c&stdout=true"), &Value::Null).await;
    assert!(exec.code >= 400);
    let token = "/api/v1/namespaces/default/serviceaccounts/default/token";
    assert_eq!(world.post(token, &json!({"spec": {}})).await.code, 201);
    let status = world.merge(&format!("{pods}/p/status"), &json!({"status": {"message": "m"}})).await;
    assert_eq!(status.code, 200, "{}", status.body);
    let seen: Vec<(Value, Value, Value)> = world
        .asked("see")
        .into_iter()
        .map(|a| (a["operation"].clone(), a["subResource"].clone(), a["object"]["kind"].clone()))
        .collect();
    let want = [
        ("CREATE", json!(null), "Pod"),
        ("CREATE", json!("binding"), "Binding"),
        ("CONNECT", json!("exec"), "PodExecOptions"),
        ("CREATE", json!("token"), "TokenRequest"),
        ("UPDATE", json!("status"), "Pod"),
    ];
    assert_eq!(seen, want.map(|(o, s, k)| (json!(o), s, json!(k))));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_and_dry_runs() {
    let world = World::start().await;
    let when = |value: &str, policy: &str| json!({"objectSelector": {"matchLabels": {"test": value}}, "failurePolicy": policy, "timeoutSeconds": 1});
    let mut gone = world.hook("gone", &["CREATE"], &["configmaps"], when("gone", "Fail"));
    gone["clientConfig"]["url"] = format!("https://127.0.0.1:{}/", kinit_test_support::free_port().unwrap()).into();
    let mut untrusted = world.hook("untrusted", &["CREATE"], &["configmaps"], when("untrusted", "Fail"));
    let front = std::fs::read(world.api.pki.file("front-proxy-ca.crt")).unwrap();
    untrusted["clientConfig"]["caBundle"] = base64::engine::general_purpose::STANDARD.encode(front).into();
    let mut ignored = world.hook("slow", &["CREATE"], &["configmaps"], when("ignore", "Ignore"));
    ignored["name"] = "ignored.example.com".into();
    let hooks = vec![
        world.hook("slow", &["CREATE"], &["configmaps"], when("fail", "Fail")),
        ignored,
        gone,
        untrusted,
        world.hook("other-uid", &["CREATE"], &["configmaps"], when("uid", "Fail")),
        world.hook("dry", &["CREATE"], &["configmaps"], when("dry", "Fail")),
    ];
    world.configure("Validating", "a", hooks).await;
    let labelled = |value: &str| json!({"metadata": {"name": value, "labels": {"test": value}}});
    let started = Instant::now();
    let failed = world.post(MAPS, &labelled("fail")).await;
    assert_eq!(failed.code, 500);
    let message = format!(
        "Internal error occurred: failed calling webhook \"slow.example.com\": failed to call webhook: Post \"https://127.0.0.1:{}/slow?timeout=1s\": context deadline exceeded",
        world.port
    );
    assert_eq!(failed.body["message"], message);
    assert_eq!(world.post(MAPS, &labelled("ignore")).await.code, 201);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    for (label, text) in [
        ("gone", "failed calling webhook \"gone.example.com\": failed to call webhook: Post"),
        ("untrusted", "failed calling webhook \"untrusted.example.com\": failed to call webhook: Post"),
        (
            "uid",
            "failed calling webhook \"other-uid.example.com\": received invalid webhook response: expected response.uid=",
        ),
    ] {
        let answer = world.post(MAPS, &labelled(label)).await;
        let message = answer.body["message"].as_str().unwrap();
        assert!(answer.code == 500 && message.contains(text), "{label}: {} {message}", answer.code);
    }

    let dry = world.post(&format!("{MAPS}?dryRun=All"), &labelled("dry")).await;
    assert_eq!(dry.code, 201);
    let ask = world.asked("dry").remove(0);
    assert_eq!((&ask["dryRun"], &ask["options"]["dryRun"]), (&json!(true), &json!(["All"])));
    let metrics = kinit_component_base::metrics::global().render();
    for line in [
        "apiserver_admission_webhook_fail_open_count{name=\"ignored.example.com\",type=\"validating\"} 1",
        "apiserver_admission_webhook_rejection_count{name=\"gone.example.com\",type=\"validating\",operation=\"CREATE\",error_type=\"calling_webhook_error\",rejection_code=\"503\"} 1",
        "apiserver_admission_webhook_admission_duration_seconds_count{name=\"dry.example.com\",type=\"validating\",operation=\"CREATE\",rejected=\"false\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_asked_again_after_a_change() {
    let world = World::start().await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    // By the names of the configurations: "count" comes first although it was made last.
    world.configure("Mutating", "b", vec![world.hook("label", &["CREATE"], &["configmaps"], json!({}))]).await;
    world.configure("Mutating", "a", vec![world.hook("count", &["CREATE"], &["configmaps"], again)]).await;
    let made = world.post(MAPS, &map("m")).await;
    assert_eq!((made.code, &made.body["metadata"]["annotations"]["calls"]), (201, &json!("2")), "{}", made.body);
    assert_eq!((world.asked("count").len(), world.asked("label").len()), (2, 1));
    assert_eq!(world.asked("count")[1]["object"]["metadata"]["labels"], json!({"by": "label"}));

    // A changed configuration counts at once; a deleted one no more.
    let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/a";
    assert_eq!(world.send("DELETE", path, "application/json", &Value::Null).await.code, 200);
    world.api.server.store.catch_up().await.unwrap();
    assert_eq!(world.post(MAPS, &map("n")).await.body["metadata"].get("annotations"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn match_conditions_choose_requests() {
    let world = World::start().await;
    let hook = |path: &str, expression: &str, policy: &str| {
        let more = json!({"matchConditions": [{"name": "c", "expression": expression}], "failurePolicy": policy});
        world.hook(path, &["CREATE", "DELETE"], &["configmaps"], more)
    };
    let hooks = vec![
        hook("named", "request.operation == 'CREATE' && object.metadata.name.startsWith('a')", "Fail"),
        hook("gone", "request.operation == 'DELETE' && oldObject.metadata.name == 'ab' && object == null", "Fail"),
        hook("spared", "object.data.missing == 'x'", "Ignore"),
    ];
    world.configure("Validating", "a", hooks).await;
    for name in ["ab", "ba"] {
        let made = world.post(MAPS, &map(name)).await;
        assert_eq!(made.code, 201, "{}", made.body);
    }
    assert_eq!(world.send("DELETE", &format!("{MAPS}/ab"), "application/json", &Value::Null).await.code, 200);
    let count = |path: &str| world.asked(path).len();
    assert_eq!((count("named"), count("gone"), count("spared")), (1, 1, 0));
    world.configure("Mutating", "b", vec![hook("strict", "object.data.missing == 'x'", "Fail")]).await;
    let refused = world.post(MAPS, &map("c")).await;
    let message = refused.body["message"].as_str().unwrap();
    assert!(refused.code == 403 && message.contains("condition \"c\" failed: no such key: data"), "{message}");
    assert_eq!(count("strict"), 0);
}

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";

/// A policy about ConfigMaps of the default namespace.
fn policy(name: &str, mut spec: Value) -> Value {
    spec["matchConstraints"] = json!({"resourceRules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""],
        "apiVersions": ["v1"], "resources": ["configmaps"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}});
    json!({"metadata": {"name": name}, "spec": spec})
}

/// The binding NAME-b of a policy.
fn bound(name: &str, more: Value) -> Value {
    let mut spec = json!({"policyName": name, "validationActions": ["Deny"]});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": format!("{name}-b")}, "spec": spec})
}

fn sized(name: &str, count: usize) -> Value {
    let data: serde_json::Map<String, Value> = (0..count).map(|i| (format!("k{i}"), json!("v"))).collect();
    json!({"metadata": {"name": name}, "data": data})
}

impl World {
    async fn put_policy(&self, name: &str, spec: Value, binding: Value) {
        for (path, object) in [(POLICIES, policy(name, spec)), (BINDINGS, bound(name, binding))] {
            let made = self.post(path, &object).await;
            assert_eq!((made.code, made.warnings.len()), (201, 0), "{}", made.body);
        }
        self.api.server.store.catch_up().await.unwrap();
    }

    async fn remove(&self, path: &str) {
        assert_eq!(self.send("DELETE", path, "application/json", &Value::Null).await.code, 200);
        self.api.server.store.catch_up().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_with_parameters() {
    let world = World::start().await;
    let limits = json!({"metadata": {"name": "limits"}, "data": {"most": "2"}});
    assert_eq!(world.post(MAPS, &limits).await.code, 201);
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "not-params", "expression": "object.metadata.name != 'limits'"}],
        "variables": [{"name": "count", "expression": "has(object.data) ? size(object.data) : 0"},
            {"name": "broken", "expression": "object.nope"}],
        "validations": [
            {"expression": "variables.count <= int(params.data.most)", "reason": "Forbidden",
                "messageExpression": "'at most ' + params.data.most + ' in ' + namespaceObject.metadata.name"},
            {"expression": "!object.metadata.name.startsWith('bad')", "message": "a bad name"}],
        "auditAnnotations": [{"key": "count", "valueExpression": "string(variables.count)"}]});
    let param = json!({"paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}});
    world.put_policy("sized", spec, param).await;
    let by = "is forbidden: ValidatingAdmissionPolicy 'sized' with binding 'sized-b' denied request: ";
    for (name, count, code, message) in
        [("a", 2, 201, ""), ("b", 3, 403, "at most 2 in default"), ("bad", 0, 422, "a bad name")]
    {
        let made = world.post(MAPS, &sized(name, count)).await;
        let reported = made.body["message"].as_str().unwrap_or_default();
        assert_eq!(made.code, code, "{name}: {reported}");
        assert!(code == 201 || reported.ends_with(&format!("{by}{message}")), "{reported}");
    }
    let elsewhere = world.post("/api/v1/namespaces/kube-system/configmaps", &sized("bad", 9)).await;
    assert_eq!(elsewhere.code, 201, "another namespace: {}", elsewhere.body);
    // Without its parameters the policy refuses everything; without its binding nothing.
    world.remove(&format!("{MAPS}/limits")).await;
    let refused = world.post(MAPS, &sized("c", 0)).await;
    let reported = refused.body["message"].as_str().unwrap();
    assert!(refused.code == 422 && reported.contains("no params found"), "{reported}");
    world.remove(&format!("{BINDINGS}/sized-b")).await;
    assert_eq!(world.post(MAPS, &sized("c", 9)).await.code, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_warn_or_fail() {
    let world = World::start().await;
    let named = json!({"validations": [{"expression": "object.metadata.name != 'w'"}]});
    world.put_policy("warned", named, json!({"validationActions": ["Warn", "Audit"]})).await;
    let broken = json!([{"expression": "object.nope"}]);
    world.put_policy("spared", json!({"failurePolicy": "Ignore", "validations": broken}), json!({})).await;
    let warned = world.post(MAPS, &sized("w", 0)).await;
    let text = "Validation failed for ValidatingAdmissionPolicy 'warned' with binding 'warned-b': failed expression: object.metadata.name != 'w'";
    assert!(warned.code == 201 && warned.warnings[0].contains(text), "{:?}", warned.warnings);
    world.put_policy("strict", json!({"validations": broken}), json!({})).await;
    let refused = world.post(MAPS, &sized("x", 0)).await;
    let reported = refused.body["message"].as_str().unwrap();
    let text = "denied request: expression 'object.nope' resulted in error: no such key: nope";
    assert!(refused.code == 422 && reported.ends_with(text), "{reported}");
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_checked_when_they_are_written() {
    let world = World::start().await;
    for (spec, part) in [
        (
            json!({"validations": [{"expression": "params.x == 1"}]}),
            "spec.validations[0].expression: Invalid value: \"params.x == 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params'",
        ),
        (json!({"validations": [{"expression": "'text'"}]}), "must evaluate to bool"),
        (json!({"validations": [{"expression": "true", "messageExpression": "1"}]}), "must evaluate to string"),
        (json!({"validations": [{"expression": "variables.nope"}]}), "undefined field 'nope'"),
        (json!({}), "validations or auditAnnotations must contain at least one item"),
    ] {
        let refused = world.post(POLICIES, &policy("x", spec)).await;
        let reported = refused.body["message"].as_str().unwrap();
        assert!(refused.code == 422 && reported.contains(part), "{reported}");
    }
    let both = bound("x", json!({"validationActions": ["Deny", "Warn"]}));
    assert_eq!(world.post(BINDINGS, &both).await.code, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_a_webhook_spoils_are_put_back() {
    let world = World::start().await;
    world.configure("Mutating", "a", vec![world.hook("spoil", &["CREATE"], &["configmaps"], json!({}))]).await;
    let made =
        world.post(&format!("{MAPS}?fieldManager=me"), &json!({"metadata": {"name": "m"}, "data": {"k": "v"}})).await;
    let entry = &made.body["metadata"]["managedFields"][0];
    assert_eq!(
        (made.code, &entry["manager"], &entry["operation"]),
        (201, &json!("me"), &json!("Update")),
        "{}",
        made.body
    );
    assert!(
        made.warnings[0].contains(".metadata.managedFields was in an invalid state after admission"),
        "{:?}",
        made.warnings
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_done_is_said() {
    let world = World::start().await;
    let mut hook = world.hook("x", &["CREATE"], &["pods"], json!({}));
    hook["matchConditions"] = json!([{"name": "c", "expression": "nobody.path('/').check('get').allowed()"}]);
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let refused = world.post(path, &json!({"metadata": {"name": "a"}, "webhooks": [hook]})).await;
    let message = refused.body["message"].as_str().unwrap();
    assert!(refused.code == 422 && message.contains("undeclared reference to 'nobody'"), "{message}");
    let policies = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    let made = world.post(policies, &json!({"metadata": {"name": "p"}, "spec": {"podSelector": {}}})).await;
    assert_eq!((made.code, made.warnings.len()), (201, 0));
    let changed = world.merge(&format!("{policies}/p"), &json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!((changed.code, changed.warnings.len()), (200, 0));
    assert_eq!(world.post(MAPS, &map("m")).await.warnings.len(), 0);
}
