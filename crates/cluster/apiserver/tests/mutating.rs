//! MutatingAdmissionPolicies on a running server and a real etcd.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use kinit_test_support::TestApiServer;
use reqwest::Method;
use serde_json::{Value, json};

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MERGE: &str = "application/merge-patch+json";

struct World {
    api: TestApiServer,
    client: reqwest::Client,
}

impl World {
    async fn start() -> Self {
        let api = TestApiServer::start().await.unwrap();
        let client = api.admin().unwrap().build().unwrap();
        Self { api, client }
    }

    async fn send(&self, method: Method, path: &str, media: &str, body: &Value) -> (u16, Value) {
        let url = format!("{}{path}", self.api.plane.url());
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let request = self.client.request(method, url).header("content-type", media).body(text);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap_or_default())
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(Method::POST, path, "application/json", body).await
    }

    /// A policy about these resources, bound, with these changes to its spec.
    async fn policy(&self, name: &str, resources: &[&str], spec: Value) {
        let mut policy = json!({"metadata": {"name": name}, "spec": {"matchConstraints": {"resourceRules": [
            {"operations": ["CREATE", "UPDATE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": resources}]}}});
        for (key, value) in spec.as_object().unwrap() {
            policy["spec"][key] = value.clone();
        }
        let (code, answer) = self.post(&format!("{ADMISSION}/mutatingadmissionpolicies"), &policy).await;
        assert_eq!(code, 201, "{answer}");
        self.bind(name, json!({})).await;
    }

    async fn bind(&self, name: &str, more: Value) {
        let path = format!("{ADMISSION}/mutatingadmissionpolicybindings");
        let mut binding = json!({"metadata": {"name": name}, "spec": {"policyName": name}});
        for (key, value) in more.as_object().unwrap() {
            binding["spec"][key] = value.clone();
        }
        let (code, answer) = match self.post(&path, &binding).await {
            (409, _) => self.send(Method::PATCH, &format!("{path}/{name}"), MERGE, &json!({"spec": more})).await,
            other => other,
        };
        assert!(matches!(code, 200 | 201), "{answer}");
        self.api.server.store.catch_up().await.unwrap();
    }
}

fn applied(expression: &str) -> Value {
    json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}])
}

fn patched(expression: &str) -> Value {
    json!([{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}])
}

fn map(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name}, "data": data})
}

fn deployment(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_changed() {
    let world = World::start().await;
    let spec = json!({
        "matchConditions": [{"name": "wanted", "expression": "object.metadata.?annotations['skip'].orValue('') != 'yes'"}],
        "variables": [{"name": "replicas", "expression": "object.spec.replicas + 1"}],
        "mutations": applied("Object{metadata: Object.metadata{labels: {'by': request.userInfo.username}}, \
            spec: Object.spec{replicas: variables.replicas, template: Object.spec.template{spec: Object.spec.template.spec{\
            initContainers: [Object.spec.template.spec.initContainers{name: 'mesh', image: 'm', restartPolicy: 'Always'}]}}}}")});
    world.policy("deployments", &["deployments"], spec).await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let (code, answer) = world.post(path, &deployment("d")).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(
        (&answer["metadata"]["labels"]["by"], &answer["spec"]["replicas"]),
        (&json!("kube-apiserver-kubelet-client"), &json!(2))
    );
    // What was added has its defaults.
    assert_eq!(
        answer["spec"]["template"]["spec"]["initContainers"][0]["terminationMessagePath"],
        "/dev/termination-log"
    );
    assert_eq!(answer["spec"]["template"]["spec"]["containers"][0]["name"], "c");
    let mut other = deployment("e");
    other["metadata"]["annotations"] = json!({"skip": "yes"});
    assert_eq!(world.post(path, &other).await.1["spec"]["replicas"], 1);
    // A JSON patch, with a test that may fail, and escaped keys.
    let mutations = patched(
        "[JSONPatch{op: 'test', path: '/data/a', value: '1'}, \
        JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('x.y'), value: 'made'}]",
    );
    world.policy("maps", &["configmaps"], json!({"mutations": mutations})).await;
    let (_, answer) = world.post(MAPS, &map("one", json!({"a": "1"}))).await;
    assert_eq!(answer["data"], json!({"a": "1", "x.y": "made"}));
    let (code, answer) = world.post(MAPS, &map("two", json!({"a": "2"}))).await;
    assert_eq!((code, &answer["data"]), (201, &json!({"a": "2"})));
    // Dry runs and patches, too.
    let (_, answer) = world.post(&format!("{MAPS}?dryRun=All"), &map("three", json!({"a": "1"}))).await;
    assert_eq!(answer["data"]["x.y"], "made");
    let (_, answer) = world.send(Method::PATCH, &format!("{MAPS}/two"), MERGE, &json!({"data": {"a": "1"}})).await;
    assert_eq!(answer["data"]["x.y"], "made");
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_and_their_absence() {
    let world = World::start().await;
    let expression = "Object{data: {'tier': params.data.tier}}";
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "mutations": applied(expression),
        "matchConditions": [{"name": "no-params", "expression": "!object.metadata.name.startsWith('param')"}]});
    world.policy("tiers", &["configmaps"], spec).await;
    for (action, want) in [("Allow", 201), ("Deny", 403)] {
        world.bind("tiers", json!({"paramRef": {"name": "param", "parameterNotFoundAction": action}})).await;
        let (code, answer) = world.post(MAPS, &map(&format!("a-{}", action.to_lowercase()), json!({}))).await;
        assert_eq!(code, want, "{answer}");
        if want == 403 {
            let text = answer["message"].as_str().unwrap();
            assert!(
                text.starts_with("policy 'tiers' with binding 'tiers' denied request: failed to configure"),
                "{text}"
            );
        }
    }
    let (code, answer) = world.post(&format!("{MAPS}?dryRun=All"), &map("param", json!({"tier": "gold"}))).await;
    assert_eq!(code, 403, "{answer}");
    world.bind("tiers", json!({"paramRef": {"name": "param", "parameterNotFoundAction": "Allow"}})).await;
    assert_eq!(world.post(MAPS, &map("param", json!({"tier": "gold"}))).await.0, 201);
    world.api.server.store.catch_up().await.unwrap();
    let (_, answer) = world.post(MAPS, &map("b", json!({"x": "y"}))).await;
    assert_eq!(answer["data"], json!({"x": "y", "tier": "gold"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_asked_again_when_others_change_the_object() {
    let world = World::start().await;
    // `a` counts what is there; `b` adds to it afterwards.
    let count = "Object{data: {'seen': string(size(object.data))}}";
    world.policy("a", &["configmaps"], json!({"mutations": applied(count), "reinvocationPolicy": "IfNeeded"})).await;
    world.policy("b", &["configmaps"], json!({"mutations": applied("Object{data: {'b': 'b'}}")})).await;
    let (_, answer) = world.post(MAPS, &map("one", json!({"x": "y"}))).await;
    assert_eq!(answer["data"], json!({"x": "y", "b": "b", "seen": "3"}));
    let patch = json!({"spec": {"reinvocationPolicy": "Never"}});
    let path = format!("{ADMISSION}/mutatingadmissionpolicies/a");
    assert_eq!(world.send(Method::PATCH, &path, MERGE, &patch).await.0, 200);
    world.api.server.store.catch_up().await.unwrap();
    let (_, answer) = world.post(MAPS, &map("two", json!({"x": "y"}))).await;
    assert_eq!(answer["data"], json!({"x": "y", "b": "b", "seen": "1"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_refuses_or_is_ignored() {
    let world = World::start().await;
    let long = "[JSONPatch{op: 'add', path: '/data', value: {'n': string([1,2,3,4,5,6,7,8,9,10].map(a, [1,2,3,4,5,6,7,8,9,10].map(b, \
        [1,2,3,4,5,6,7,8,9,10].map(c, [1,2,3,4,5,6,7,8,9,10].map(d, [1,2,3,4,5,6,7,8,9,10].map(e, a + b + c + d + e))))).size())}}]";
    for (name, mutations, part) in [
        ("missing", applied("Object{data: {'a': object.data.nope}}"), "no such key: nope"),
        (
            "atomic",
            applied("Object{metadata: Object.metadata{managedFields: [Object.metadata.managedFields{manager: 'x'}]}}"),
            "may not mutate atomic",
        ),
        ("unknown", applied("Object{nope: 1}"), ".nope: field not declared in schema"),
        (
            "types",
            applied("Object{data: Object.wrong{}}"),
            "unexpected type name \"Object.wrong\", expected \"Object.data\"",
        ),
        ("path", patched("[JSONPatch{op: 'remove', path: '/none'}]"), "JSONPath: "),
        ("shape", patched("[JSONPatch{op: 'replace', path: '/data', value: [1]}]"), ""),
        ("whole", patched("[JSONPatch{op: 'replace', path: '', value: 'x'}]"), ""),
        ("long", patched(long), "actual cost limit exceeded"),
    ] {
        world.policy(name, &["configmaps"], json!({"mutations": mutations})).await;
        let (code, answer) = world.post(MAPS, &map(name, json!({"a": "1"}))).await;
        let text = answer["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(code, 403, "{name}: {answer}");
        assert!(text.starts_with(&format!("policy '{name}' with binding '{name}' denied request: ")), "{text}");
        assert!(text.contains(part), "{name}: {text}");
        assert_eq!((&answer["reason"], &answer["details"]["causes"][0]["message"]), (&json!("Invalid"), &json!(text)));
        let path = format!("{ADMISSION}/mutatingadmissionpolicies/{name}");
        assert_eq!(world.send(Method::PATCH, &path, MERGE, &json!({"spec": {"failurePolicy": "Ignore"}})).await.0, 200);
        world.api.server.store.catch_up().await.unwrap();
        let (code, answer) = world.post(MAPS, &map(name, json!({"a": "1"}))).await;
        assert_eq!((code, &answer["data"]), (201, &json!({"a": "1"})), "{name}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_sets_stays() {
    let world = World::start().await;
    let mutations = patched(
        "[JSONPatch{op: 'replace', path: '/metadata/uid', value: 'mine'}, \
        JSONPatch{op: 'replace', path: '/metadata/namespace', value: 'kube-system'}, \
        JSONPatch{op: 'replace', path: '/metadata/creationTimestamp', value: '2001-01-01T00:00:00Z'}, \
        JSONPatch{op: 'replace', path: '/kind', value: 'Secret'}, \
        JSONPatch{op: 'add', path: '/metadata/managedFields', value: []}]",
    );
    world.policy("identity", &["configmaps"], json!({"mutations": mutations})).await;
    let (code, answer) = world.post(MAPS, &map("a", json!({"a": "1"}))).await;
    assert_eq!(code, 201, "{answer}");
    assert_ne!(answer["metadata"]["uid"], "mine");
    assert_eq!((&answer["metadata"]["namespace"], &answer["kind"]), (&json!("default"), &json!("ConfigMap")));
    assert!(answer["metadata"]["creationTimestamp"].as_str().unwrap() > "2020");
    let (_, list) = world.send(Method::GET, "/api/v1/namespaces/kube-system/configmaps/a", "", &Value::Null).await;
    assert_eq!(list["code"], 404);
    // A name cannot change under an update, and what is invalid is told by validation.
    let renamed = patched("oldObject == null ? [] : [JSONPatch{op: 'replace', path: '/metadata/name', value: 'z'}]");
    world.policy("identity2", &["secrets"], json!({"mutations": renamed})).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(world.post(secrets, &json!({"metadata": {"name": "s"}})).await.0, 201);
    let (code, answer) =
        world.send(Method::PATCH, &format!("{secrets}/s"), MERGE, &json!({"data": {"a": "YQ=="}})).await;
    assert_eq!(code, 422, "{answer}");
    let invalid = applied("Object{spec: Object.spec{replicas: -1}}");
    world.policy("invalid", &["deployments"], json!({"mutations": invalid})).await;
    let (code, answer) = world.post("/apis/apps/v1/namespaces/default/deployments", &deployment("d")).await;
    assert_eq!(code, 422, "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("spec.replicas: Invalid value: -1"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_ask_for_rights() {
    let world = World::start().await;
    let expression = "authorizer.group('').resource('secrets').namespace('default').check('get').allowed() ? \
        Object{data: {'secrets': 'yes'}} : Object{data: {'secrets': string(authorizer.requestResource.check('create').allowed())}}";
    world.policy("rights", &["configmaps"], json!({"mutations": applied(expression)})).await;
    let (_, answer) = world.post(MAPS, &map("a", json!({}))).await;
    assert_eq!(answer["data"]["secrets"], "yes");
    let role = json!({"metadata": {"name": "maps"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    assert_eq!(world.post(&format!("{rbac}/roles"), &role).await.0, 201);
    let binding = json!({"metadata": {"name": "maps"}, "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "Role", "name": "maps", "apiGroup": "rbac.authorization.k8s.io"}});
    assert_eq!(world.post(&format!("{rbac}/rolebindings"), &binding).await.0, 201);
    world.api.server.store.catch_up().await.unwrap();
    let url = format!("{}{MAPS}", world.api.plane.url());
    let request = world.client.post(url).header("impersonate-user", "jane").header("content-type", "application/json");
    let answer: Value = request.body(map("b", json!({})).to_string()).send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["data"]["secrets"], "true", "{answer}");
}
