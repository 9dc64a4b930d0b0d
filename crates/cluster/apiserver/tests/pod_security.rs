//! Pod security by the labels of namespaces, on a real etcd: what is refused, warned of and audited.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use kinit_test_support::TestApiServer;
use reqwest::{Client, Method};
use serde_json::{Value, json};

const FOUR: &str = concat!(
    r#"allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), "#,
    r#"unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), "#,
    r#"runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), "#,
    r#"seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#,
);
const WOULD: &str = r#"would violate PodSecurity "restricted:latest": "#;
const VIOLATES: &str = r#"violates PodSecurity "restricted:latest": "#;

struct Plane {
    server: TestApiServer,
    client: Client,
}

#[derive(Debug)]
struct Answer {
    code: u16,
    body: Value,
    warnings: Vec<String>,
}

impl Answer {
    fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

impl Plane {
    async fn start(flags: &[&str]) -> Self {
        let server = TestApiServer::start_with(flags).await.unwrap();
        let client = server.admin().unwrap().build().unwrap();
        Self { server, client }
    }

    async fn send(&self, method: Method, path: &str, media_type: &str, body: &Value) -> Answer {
        let url = format!("{}{path}", self.server.plane.url());
        let request = self.client.request(method, url).header("content-type", media_type).body(body.to_string());
        let response = request.send().await.unwrap();
        let text = |value: &reqwest::header::HeaderValue| {
            let text = value.to_str().unwrap().strip_prefix("299 - \"").unwrap().strip_suffix('"').unwrap();
            text.replace("\\\"", "\"").replace("\\\\", "\\")
        };
        let warnings = response.headers().get_all("warning").iter().map(text).collect();
        Answer { code: response.status().as_u16(), warnings, body: response.json().await.unwrap() }
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, "application/json", body).await
    }

    async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, path, "application/merge-patch+json", body).await
    }

    /// Makes a namespace with labels, and the account that its pods run as.
    async fn namespace(&self, name: &str, labels: Value) {
        let object = json!({"metadata": {"name": name, "labels": prefixed(&labels)}});
        assert_eq!(self.post("/api/v1/namespaces", &object).await.code, 201);
        let account = json!({"metadata": {"name": "default"}});
        let made = self.post(&format!("/api/v1/namespaces/{name}/serviceaccounts"), &account).await;
        assert_eq!(made.code, 201, "{made:?}");
    }

    /// Changes a namespace's labels; the next request finds them in the cache.
    async fn label(&self, name: &str, labels: Value) -> Answer {
        let body = json!({"metadata": {"labels": prefixed(&labels)}});
        let answer = self.patch(&format!("/api/v1/namespaces/{name}"), &body).await;
        // A consistent list waits for the cache to be as new as etcd.
        self.send(Method::GET, "/api/v1/namespaces", "application/json", &Value::Null).await;
        answer
    }
}

fn prefixed(labels: &Value) -> Value {
    labels.as_object().unwrap().iter().map(|(k, v)| (format!("pod-security.kubernetes.io/{k}"), v.clone())).collect()
}

fn pods(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

fn pod(name: &str, more: Value) -> Value {
    let mut spec = json!({"containers": [{"name": "c", "image": "x"}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": name}, "spec": spec})
}

fn hardened(name: &str) -> Value {
    let container = json!({"name": "c", "image": "x", "securityContext":
        {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}});
    let context = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    pod(name, json!({"securityContext": context, "containers": [container]}))
}

#[tokio::test(flavor = "multi_thread")]
async fn enforced_on_pods_and_on_what_changes_in_them() {
    let plane = Plane::start(&[]).await;
    plane.namespace("open", json!({})).await;
    plane.namespace("base", json!({"enforce": "baseline", "warn": "privileged"})).await;
    plane.namespace("strict", json!({"enforce": "restricted"})).await;

    let refused = plane.post(&pods("strict"), &pod("x", json!({}))).await;
    assert_eq!((refused.code, refused.body["reason"].as_str()), (403, Some("Forbidden")));
    assert_eq!(refused.message(), format!(r#"pods "x" is forbidden: {VIOLATES}{FOUR}"#));
    assert_eq!(refused.body["details"], json!({"name": "x", "kind": "pods"}));
    assert!(refused.warnings.is_empty(), "{refused:?}");
    assert_eq!(plane.post(&format!("{}?dryRun=All", pods("strict")), &pod("x", json!({}))).await.code, 403);
    assert_eq!(plane.post(&pods("strict"), &hardened("x")).await.code, 201);
    assert_eq!(plane.post(&pods("open"), &pod("x", json!({"hostPID": true}))).await.code, 201);

    let refused = plane
        .post(
            &pods("base"),
            &pod(
                "x",
                json!({"hostNetwork": true, "initContainers": [
        {"name": "i", "image": "x", "securityContext": {"privileged": true}}]}),
            ),
        )
        .await;
    assert_eq!(
        refused.message(),
        r#"pods "x" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true), privileged (container "i" must not set securityContext.privileged=true)"#
    );
    let made = plane.post(&pods("base"), &pod("x", json!({}))).await;
    assert_eq!((made.code, made.warnings.len()), (201, 0));

    // A container for debugging is one more that must be fit for the namespace.
    let debug = |context: Value| json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "x", "securityContext": context}]}});
    let path = format!("{}/x/ephemeralcontainers", pods("base"));
    let refused = plane.patch(&path, &debug(json!({"capabilities": {"add": ["SYS_PTRACE"]}}))).await;
    assert_eq!(
        refused.message(),
        r#"pods "x" is forbidden: violates PodSecurity "baseline:latest": non-default capabilities (container "e" must not include "SYS_PTRACE" in securityContext.capabilities.add)"#
    );
    assert_eq!(plane.patch(&path, &debug(json!({}))).await.code, 200);

    // A pod that was there before may live on, and be labelled, but not be given another image.
    plane.label("open", json!({"enforce": "baseline"})).await;
    let path = format!("{}/x", pods("open"));
    assert_eq!(plane.patch(&path, &json!({"metadata": {"labels": {"a": "b"}}})).await.code, 200);
    assert_eq!(plane.patch(&format!("{path}/status"), &json!({"status": {"phase": "Running"}})).await.code, 200);
    let refused = plane
        .send(
            Method::PATCH,
            &path,
            "application/strategic-merge-patch+json",
            &json!({"spec": {"containers": [{"name": "c", "image": "y"}]}}),
        )
        .await;
    assert_eq!(
        refused.message(),
        r#"pods "x" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostPID=true)"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_of_pods_are_warned_of() {
    let plane = Plane::start(&[]).await;
    plane.namespace("n", json!({"enforce": "restricted"})).await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    let mut ending = template.clone();
    ending["spec"]["restartPolicy"] = "Never".into();
    let selector = json!({"matchLabels": {"a": "b"}});
    let workload = json!({"selector": selector, "template": template});
    for (path, object) in [
        ("/apis/apps/v1/namespaces/n/deployments", json!({"spec": workload})),
        ("/apis/apps/v1/namespaces/n/replicasets", json!({"spec": workload})),
        ("/apis/apps/v1/namespaces/n/daemonsets", json!({"spec": workload})),
        ("/apis/apps/v1/namespaces/n/statefulsets", json!({"spec": workload})),
        (
            "/api/v1/namespaces/n/replicationcontrollers",
            json!({"spec": {"selector": {"a": "b"}, "template": template}}),
        ),
        ("/api/v1/namespaces/n/podtemplates", json!({"template": template})),
        ("/apis/batch/v1/namespaces/n/jobs", json!({"spec": {"template": ending}})),
        (
            "/apis/batch/v1/namespaces/n/cronjobs",
            json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": ending}}}}),
        ),
    ] {
        let mut object = object;
        object["metadata"] = json!({"name": "w"});
        let made = plane.post(path, &object).await;
        assert_eq!((made.code, made.warnings), (201, vec![format!("{WOULD}{FOUR}")]), "{path}: {}", made.body);
        let scaled = plane.patch(&format!("{path}/w"), &json!({"metadata": {"labels": {"x": "y"}}})).await;
        assert_eq!((scaled.code, scaled.warnings), (200, vec![format!("{WOULD}{FOUR}")]), "{path}");
    }
    let scaled = plane.patch("/apis/apps/v1/namespaces/n/deployments/w/scale", &json!({"spec": {"replicas": 3}})).await;
    assert_eq!((scaled.code, scaled.warnings.len()), (200, 0));

    plane.label("n", json!({"enforce": null, "warn": "baseline"})).await;
    let made = plane.post(&pods("n"), &pod("x", json!({"hostIPC": true}))).await;
    let text = r#"would violate PodSecurity "baseline:latest": host namespaces (hostIPC=true)"#;
    assert_eq!((made.code, made.warnings), (201, vec![text.to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_namespaces() {
    let plane = Plane::start(&[]).await;
    let bad =
        json!({"metadata": {"name": "n", "labels": prefixed(&json!({"enforce": "strict", "warn-version": "1"}))}});
    let text = concat!(
        r#"Namespace "n" is invalid: [metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted, "#,
        r#"metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: "1": must be "latest" or "v1.x"]"#
    );
    let refused = plane.post("/api/v1/namespaces", &bad).await;
    assert_eq!((refused.code, refused.message()), (422, text));
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "FieldValueInvalid");

    plane.namespace("n", json!({})).await;
    assert_eq!(plane.label("n", json!({"enforce": "strict", "warn-version": "1"})).await.message(), text);
    for (name, spec) in [("a", json!({"hostPID": true})), ("b", json!({"hostIPC": true})), ("d", json!({}))] {
        assert_eq!(plane.post(&pods("n"), &pod(name, spec)).await.code, 201);
    }
    // A consistent list: the pods are in the cache.
    plane.send(Method::GET, &pods("n"), "application/json", &Value::Null).await;
    let path = "/api/v1/namespaces/n";
    let raise = json!({"metadata": {"labels": prefixed(&json!({"enforce": "baseline"}))}});
    let reported = [
        r#"existing pods in namespace "n" violate the new PodSecurity enforce level "baseline:latest""#,
        "a (and 1 other pod): host namespaces",
    ];
    let dry = plane.patch(&format!("{path}?dryRun=All"), &raise).await;
    assert_eq!((dry.code, dry.warnings), (200, reported.map(str::to_owned).to_vec()));
    let raised = plane.patch(path, &raise).await;
    assert_eq!((raised.code, raised.warnings), (200, reported.map(str::to_owned).to_vec()));
    for same_or_less in [json!({"audit": "restricted"}), json!({"enforce": "privileged"})] {
        let answer = plane.label("n", same_or_less).await;
        assert_eq!((answer.code, answer.warnings.len()), (200, 0));
    }
}

fn events(log: &Path, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|event| event["stage"] == "ResponseComplete" && wanted(event)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn audited() {
    let dir = tempfile::tempdir().unwrap();
    let (policy, log) = (dir.path().join("policy.yaml"), dir.path().join("audit.log"));
    std::fs::write(&policy, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n").unwrap();
    let flags = [format!("--audit-policy-file={}", policy.display()), format!("--audit-log-path={}", log.display())];
    let plane = Plane::start(&[&flags[0], &flags[1]]).await;
    plane.namespace("open", json!({})).await;
    plane.namespace("n", json!({"enforce": "baseline", "audit": "restricted", "warn": "privileged"})).await;
    for namespace in ["open", "n"] {
        assert_eq!(plane.post(&pods(namespace), &pod("x", json!({}))).await.code, 201);
    }
    assert_eq!(plane.post(&pods("n"), &pod("y", json!({"hostPID": true}))).await.code, 403);
    let template =
        json!({"template": {"spec": {"containers": [{"name": "c", "image": "x"}]}}, "metadata": {"name": "t"}});
    assert_eq!(plane.post("/api/v1/namespaces/n/podtemplates", &template).await.code, 201);

    let of = |resource: &str, namespace: &str| {
        events(&log, |e| {
            e["verb"] == "create" && e["objectRef"]["resource"] == resource && e["objectRef"]["namespace"] == namespace
        })
    };
    // The log is written behind the answers.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while of("podtemplates", "n").is_empty() && std::time::Instant::now() < end {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let annotation = |event: &Value, key: &str| event["annotations"][key].as_str().unwrap_or_default().to_owned();
    let (open, mine, templates) = (of("pods", "open"), of("pods", "n"), of("podtemplates", "n"));
    let (enforced, violations) =
        ("pod-security.kubernetes.io/enforce-policy", "pod-security.kubernetes.io/audit-violations");
    assert_eq!(annotation(&open[0], enforced), "privileged:latest");
    assert_eq!(annotation(&open[0], violations), "");
    assert_eq!(annotation(&mine[0], enforced), "baseline:latest");
    assert_eq!(annotation(&mine[0], violations), format!("{WOULD}{FOUR}"));
    assert_eq!(mine[1]["responseStatus"]["code"], 403);
    assert!(annotation(&mine[1], violations).starts_with(&format!("{WOULD}host namespaces (hostPID=true), ")));
    // Authorization had no objection: admission refused.
    assert_eq!(annotation(&mine[1], "authorization.k8s.io/decision"), "allow");
    assert_eq!(
        (annotation(&templates[0], enforced), annotation(&templates[0], violations)),
        (String::new(), format!("{WOULD}{FOUR}"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn left_out_when_told_so() {
    let plane = Plane::start(&["--disable-admission-plugins=PodSecurity"]).await;
    plane.namespace("n", json!({"enforce": "restricted"})).await;
    assert_eq!(plane.post(&pods("n"), &pod("x", json!({}))).await.code, 201);
}
