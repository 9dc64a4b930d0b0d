//! Dry runs: answered as the write would be, and nothing is written.

use std::time::Duration;

use kinit_apiserver::resources::Descriptor;
use serde_json::{Value, json};

use crate::client::{ADMIN, Answer, Api, collection};
use crate::objects;

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// A server that has made all its own objects, custom kinds among what it serves: it writes no more by itself.
async fn quiet() -> Api {
    let api = Api::start().await;
    api.custom_kinds().await;
    let revision = || async { api.server.server.store.current_revision().await.unwrap() };
    let mut seen = revision().await;
    loop {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let now = revision().await;
        if now == seen {
            break;
        }
        seen = now;
    }
    api
}

/// Sends a request that must leave etcd as it is. The server's own lease, renewed every few seconds, does not count.
async fn without_trace(api: &Api, method: &str, path: &str, body: Option<(&str, String)>) -> Answer {
    let store = &api.server.server.store;
    let before = store.current_revision().await.unwrap();
    let answer = api.ask(ADMIN, method, path, body).await;
    let after = store.current_revision().await.unwrap();
    if after != before {
        let (_, lease) = store.raw_get("masterleases/127.0.0.1").await.unwrap();
        assert!(after == before + 1 && lease == after, "{method} {path} wrote: {}", answer.text);
    }
    answer
}

struct Walk<'a> {
    api: &'a Api,
    wrong: Vec<String>,
    sent: usize,
}

impl Walk<'_> {
    async fn expect(&mut self, want: u16, method: &str, path: &str, body: Option<(&str, &Value)>) {
        let body = body.map(|(media, value)| (media, value.to_string()));
        let sign = if path.contains('?') { '&' } else { '?' };
        let answer = without_trace(self.api, method, &format!("{path}{sign}dryRun=All"), body).await;
        self.sent += 1;
        if answer.code != want {
            let text: String = answer.text.chars().take(300).collect();
            self.wrong.push(format!("{method} {path}: want {want}, got {} {text}", answer.code));
        }
    }

    /// Every verb of a kind, of which one object is stored.
    async fn kind(&mut self, desc: &Descriptor, stored: &Value) {
        let path = collection(desc, false);
        let kept = objects::name(desc, "kept");
        let named = format!("{path}/{kept}");
        let object = objects::of(desc, "tried");
        let mut again = objects::of(desc, "kept");
        self.expect(201, "POST", &path, Some(("application/json", &object))).await;
        self.expect(409, "POST", &path, Some(("application/json", &again))).await;
        let mut changed = stored.clone();
        changed["metadata"]["labels"]["changed"] = "yes".into();
        let label = json!({"metadata": {"labels": {"changed": "yes"}}});
        let pointed = json!([{"op": "add", "path": "/metadata/annotations", "value": {"changed": "yes"}}]);
        self.expect(200, "PUT", &named, Some(("application/json", &changed))).await;
        self.expect(200, "PATCH", &named, Some((MERGE, &label))).await;
        self.expect(200, "PATCH", &named, Some((JSON, &pointed))).await;
        if desc.ty.built_in().is_some() {
            self.expect(200, "PATCH", &named, Some((STRATEGIC, &label))).await;
        }
        again["apiVersion"] = desc.api_version().into();
        again["kind"] = desc.kind.clone().into();
        let applied = format!("{named}?fieldManager=m&force=true");
        self.expect(200, "PATCH", &applied, Some((APPLY, &again))).await;
        let mut again = objects::of(desc, "tried");
        again["apiVersion"] = desc.api_version().into();
        again["kind"] = desc.kind.clone().into();
        let applied = format!("{path}/{}?fieldManager=m&force=true", objects::name(desc, "tried"));
        self.expect(201, "PATCH", &applied, Some((APPLY, &again))).await;
        for sub in &desc.subresources {
            self.sub(desc, sub.name, sub.verbs, &named, &changed).await;
        }
        self.expect(200, "DELETE", &named, None).await;
        let in_body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"], "gracePeriodSeconds": 0});
        let body = Some(("application/json", in_body.to_string()));
        let answer = without_trace(self.api, "DELETE", &named, body).await;
        assert_eq!(answer.code, 200, "{named}: {}", answer.text);
        if desc.verbs.contains(&"deletecollection") {
            self.expect(200, "DELETE", &path, None).await;
        }
        let still = self.api.get(ADMIN, &named).await;
        assert_eq!(still.body["metadata"]["resourceVersion"], stored["metadata"]["resourceVersion"], "{named}");
    }

    async fn sub(&mut self, desc: &Descriptor, sub: &str, verbs: &[&str], named: &str, changed: &Value) {
        let path = format!("{named}/{sub}");
        let name = json!({"name": "kept"});
        let json = "application/json";
        match sub {
            // Streams write nothing, dry or not.
            "exec" | "attach" | "portforward" | "proxy" | "log" => {}
            "binding" => {
                let binding = json!({"metadata": name, "target": {"kind": "Node", "name": "n"}});
                self.expect(201, "POST", &path, Some((json, &binding))).await;
                let bindings = "/api/v1/namespaces/default/bindings";
                self.expect(201, "POST", bindings, Some((json, &binding))).await;
            }
            "eviction" => {
                let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": name});
                self.expect(201, "POST", &path, Some((json, &eviction))).await;
            }
            "token" => self.expect(201, "POST", &path, Some((json, &json!({"spec": {}})))).await,
            "scale" => {
                let scale = json!({"metadata": {"name": "kept", "namespace": "default"}, "spec": {"replicas": 3}});
                self.expect(200, "PUT", &path, Some((json, &scale))).await;
                self.expect(200, "PATCH", &path, Some((MERGE, &json!({"spec": {"replicas": 3}})))).await;
            }
            "ephemeralcontainers" => {
                let containers = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i"}]}});
                self.expect(200, "PATCH", &path, Some((STRATEGIC, &containers))).await;
            }
            "resize" => {
                let resources = json!({"spec": {"containers": [{"name": "c", "resources": {}}]}});
                self.expect(200, "PATCH", &path, Some((STRATEGIC, &resources))).await;
            }
            _ => {
                assert!(verbs.contains(&"update"), "{} {sub}: what does it take?", desc.kind);
                self.expect(200, "PUT", &path, Some((json, changed))).await;
                if verbs.contains(&"patch") {
                    let label = json!({"metadata": {"annotations": {"changed": "yes"}}});
                    self.expect(200, "PATCH", &path, Some((MERGE, &label))).await;
                }
            }
        }
    }
}

/// An object, once the server itself has written what it writes into its status.
async fn settled(api: &Api, desc: &Descriptor, path: &str) -> Value {
    let is_settled = |status: &Value| match desc.plural.as_str() {
        "apiservices" | "flowschemas" => status["conditions"].is_array(),
        "validatingadmissionpolicies" => status["observedGeneration"].is_i64(),
        _ => true,
    };
    for _ in 0..100 {
        let stored = api.get(ADMIN, path).await.body;
        if is_settled(&stored["status"]) {
            return stored;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{path} has no status after 5 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_any_kind_is_written() {
    let api = quiet().await;
    api.default_account().await;
    let quota = json!({"metadata": {"name": "count"}, "spec": {"hard": {"count/configmaps": "9", "pods": "9", "services": "9"}}});
    api.create("/api/v1/namespaces/default/resourcequotas", &quota).await;
    let hard = json!({"status": {"hard": quota["spec"]["hard"], "used": {"count/configmaps": "1", "pods": "1", "services": "1"}}});
    let status = "/api/v1/namespaces/default/resourcequotas/count/status";
    assert_eq!(api.merge(ADMIN, status, &hard).await.code, 200);
    let mut walk = Walk { api: &api, wrong: Vec::new(), sent: 0 };
    for desc in api.server.server.registry.all().iter().filter(|d| !d.prefix.is_empty()) {
        let path = collection(desc, false);
        // Two faces of one stored kind share the object.
        if api.get(ADMIN, &format!("{path}/{}", objects::name(desc, "kept"))).await.code == 404 {
            api.create(&path, &objects::of(desc, "kept")).await;
        }
        if desc.kind == "CustomResourceDefinition" {
            // The server writes its status by itself.
            let reported = |d: Option<&Value>| d.is_some_and(|d| d["status"]["conditions"].is_array());
            api.cached(&desc.prefix, &objects::name(desc, "kept"), reported).await;
        }
        let mut stored = settled(&api, desc, &format!("{path}/{}", objects::name(desc, "kept"))).await;
        if !stored["metadata"]["labels"].is_object() {
            stored["metadata"]["labels"] = json!({});
        }
        walk.kind(desc, &stored).await;
    }
    for review in ["selfsubjectaccessreviews", "subjectaccessreviews"] {
        let body = json!({"spec": {"user": "u", "nonResourceAttributes": {"path": "/", "verb": "get"}}});
        let path = format!("/apis/authorization.k8s.io/v1/{review}");
        walk.expect(201, "POST", &path, Some(("application/json", &body))).await;
    }
    assert!(walk.sent > 600, "{} requests", walk.sent);
    assert!(walk.wrong.is_empty(), "{} wrong of {}\n{}", walk.wrong.len(), walk.sent, walk.wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_is_dry_by_its_own_options() {
    let api = quiet().await;
    api.default_account().await;
    let pod = |name: &str| json!({"metadata": {"name": name, "labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    api.create(PODS, &pod("p")).await;
    let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(api.merge(ADMIN, &format!("{PODS}/p/status"), &running).await.code, 200);
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    api.create(
        budgets,
        &json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 0, "selector": {"matchLabels": {"a": "b"}}}}),
    )
    .await;
    let spare = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 2, "currentHealthy": 1, "desiredHealthy": 0, "expectedPods": 1}});
    assert_eq!(api.merge(ADMIN, &format!("{budgets}/b/status"), &spare).await.code, 200);
    let allowed = |b: Option<&Value>| b.is_some_and(|b| b["status"]["disruptionsAllowed"] == 2);
    api.cached("poddisruptionbudgets/", "default/b", allowed).await;
    let evict = |options: Value| {
        let eviction =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": options});
        Some(("application/json", eviction.to_string()))
    };
    let path = format!("{PODS}/p/eviction");
    // As kubectl drain --dry-run=server sends it.
    let answer = without_trace(&api, "POST", &path, evict(json!({"dryRun": ["All"]}))).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    let answer = without_trace(&api, "POST", &format!("{path}?dryRun=All"), evict(json!({"dryRun": ["All"]}))).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    let answer = without_trace(&api, "POST", &path, evict(json!({"dryRun": ["Some"]}))).await;
    assert_eq!((answer.code, &answer.body["reason"]), (422, &json!("Invalid")), "{}", answer.text);
    let answer = without_trace(&api, "POST", &path, evict(json!({"propagationPolicy": "Never"}))).await;
    assert_eq!(answer.code, 422, "{}", answer.text);
    let answer = api.ask(ADMIN, "POST", &path, evict(json!({"preconditions": {"uid": "other"}}))).await;
    assert_eq!(answer.code, 409, "{}", answer.text);
    assert_eq!(api.get(ADMIN, &format!("{PODS}/p")).await.code, 200);
    let answer = api.ask(ADMIN, "POST", &path, evict(json!({"propagationPolicy": "Foreground"}))).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    let left = api.get(ADMIN, &format!("{PODS}/p")).await.body;
    assert_eq!(left["metadata"]["finalizers"], json!(["foregroundDeletion"]), "the other options count as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_shown_what_it_would_get() {
    let api = quiet().await;
    let service = |name: &str, spec: Value| {
        Some(("application/json", json!({"metadata": {"name": name}, "spec": spec}).to_string()))
    };
    let held = json!({"type": "NodePort", "clusterIP": "10.96.0.77", "ports": [{"port": 80, "nodePort": 30077}]});
    api.ask(ADMIN, "POST", SERVICES, service("held", held)).await;
    let dry = format!("{SERVICES}?dryRun=All");
    let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]);
    let answer = without_trace(&api, "POST", &dry, service("s", json!({"type": "NodePort", "ports": ports}))).await;
    let spec = &answer.body["spec"];
    assert!(answer.code == 201 && spec["clusterIP"].as_str().unwrap().starts_with("10."), "{}", answer.text);
    let given: Vec<i64> = (0..2).map(|i| spec["ports"][i]["nodePort"].as_i64().unwrap()).collect();
    assert!(given[0] != given[1] && given.iter().all(|p| (30000..=32767).contains(p)), "{given:?}");
    for taken in [
        json!({"clusterIP": "10.96.0.77", "ports": [{"port": 80}]}),
        json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30077}]}),
    ] {
        let answer = without_trace(&api, "POST", &dry, service("t", taken)).await;
        assert_eq!(answer.code, 422, "{}", answer.text);
    }
    let typed = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80, "nodePort": null}]}});
    let body = Some((MERGE, typed.to_string()));
    let answer = without_trace(&api, "PATCH", &format!("{SERVICES}/held?dryRun=All"), body).await;
    assert_eq!(answer.code, 200, "{}", answer.text);
    let answer = api
        .ask(
            ADMIN,
            "POST",
            SERVICES,
            service("u", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30077}]})),
        )
        .await;
    assert_eq!(answer.code, 422, "the port is still held: {}", answer.text);
}

/// A webhook with side effects cannot be asked about a dry run, so the request is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_with_side_effects_is_not_called() {
    let api = quiet().await;
    let port = kinit_test_support::free_port().unwrap();
    let hook = json!({"metadata": {"name": "h"}, "webhooks": [{"name": "h.example.com", "sideEffects": "NoneOnDryRun",
        "admissionReviewVersions": ["v1"], "failurePolicy": "Ignore", "timeoutSeconds": 1,
        "clientConfig": {"url": format!("https://127.0.0.1:{port}/")},
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]}]});
    let hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let mut odd = hook.clone();
    odd["webhooks"][0]["sideEffects"] = "Some".into();
    // admissionregistration.k8s.io/v1 takes no webhook with side effects; one that an older server stored may have
    // them.
    assert_eq!(api.post(ADMIN, hooks, &odd).await.code, 422);
    let store = &api.server.server.store;
    odd["apiVersion"] = "admissionregistration.k8s.io/v1".into();
    odd["kind"] = "ValidatingWebhookConfiguration".into();
    store.create("validatingwebhookconfigurations/", "h", &odd, None).await.unwrap();
    api.cached("validatingwebhookconfigurations/", "h", |h| h.is_some()).await;
    let maps = "/api/v1/namespaces/default/configmaps?dryRun=All";
    let body = Some(("application/json", json!({"metadata": {"name": "m"}}).to_string()));
    let answer = without_trace(&api, "POST", maps, body).await;
    assert!(answer.code == 400 && answer.text.contains("does not support dry run"), "{} {}", answer.code, answer.text);
}
