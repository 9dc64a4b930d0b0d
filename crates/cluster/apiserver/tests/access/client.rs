//! Requests as anybody: an administrator who impersonates.

use std::time::Duration;

use kinit_apiserver::authn::User;
use kinit_test_support::TestApiServer;
use reqwest::{Client, Method};
use serde_json::{Value, json};

/// A server and an administrator's client of it.
pub struct Api {
    pub server: TestApiServer,
    pub client: Client,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
    pub text: String,
}

pub const ADMIN: &str = "";

impl Api {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(flags: &[&str]) -> Self {
        let server = TestApiServer::start_with(flags).await.unwrap();
        let client = server.admin().unwrap().build().unwrap();
        Self { server, client }
    }

    /// Sends a request as `who`: the administrator, a node (`system:node:NAME`), or a user without groups.
    pub async fn ask(&self, who: &str, method: &str, path: &str, body: Option<(&str, String)>) -> Answer {
        let method: Method = method.parse().unwrap();
        let mut request = self.client.request(method, format!("{}{path}", self.server.plane.url()));
        if !who.is_empty() {
            request = request.header("impersonate-user", who);
        }
        if who.starts_with("system:node:") {
            request = request.header("impersonate-group", "system:nodes");
        }
        if let Some((media, body)) = body {
            request = request.header("content-type", media).body(body);
        }
        let response = request.send().await.unwrap();
        let code = response.status().as_u16();
        let text = response.text().await.unwrap();
        Answer { code, body: serde_json::from_str(&text).unwrap_or_default(), text }
    }

    pub async fn get(&self, who: &str, path: &str) -> Answer {
        self.ask(who, "GET", path, None).await
    }

    pub async fn delete(&self, who: &str, path: &str) -> Answer {
        self.ask(who, "DELETE", path, None).await
    }

    pub async fn post(&self, who: &str, path: &str, object: &Value) -> Answer {
        self.ask(who, "POST", path, Some(("application/json", object.to_string()))).await
    }

    pub async fn merge(&self, who: &str, path: &str, patch: &Value) -> Answer {
        self.ask(who, "PATCH", path, Some(("application/merge-patch+json", patch.to_string()))).await
    }

    /// Creates an object that must be good.
    pub async fn create(&self, path: &str, object: &Value) -> Value {
        let answer = self.post(ADMIN, path, object).await;
        assert_eq!(answer.code, 201, "{path} {object}: {}", answer.text);
        answer.body
    }

    /// The names in the events of a watch of one second, in order.
    pub async fn watched(&self, who: &str, path: &str) -> (u16, Vec<String>) {
        let sign = if path.contains('?') { '&' } else { '?' };
        let answer = self.get(who, &format!("{path}{sign}timeoutSeconds=1")).await;
        let name = |line: &str| -> String {
            let event: Value = serde_json::from_str(line).unwrap();
            event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned()
        };
        (answer.code, if answer.code == 200 { answer.text.lines().map(name).collect() } else { Vec::new() })
    }

    /// Lets a user do something in a namespace.
    pub async fn allow(&self, user: &str, namespace: &str, rule: &Value) {
        let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
        let role = json!({"metadata": {"name": user}, "rules": [rule]});
        self.create(&format!("{rbac}/roles"), &role).await;
        let binding = json!({"metadata": {"name": user}, "subjects": [{"kind": "User", "name": user}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user}});
        self.create(&format!("{rbac}/rolebindings"), &binding).await;
        let (server, user) = (&self.server.server, User::authenticated(user, []));
        // Every user has some rules, of the cluster's own bindings.
        until("the binding counts", || {
            let now = server.rbac.current(&server.store);
            now.rules(&user, namespace).len() > now.rules(&user, "").len()
        })
        .await;
    }

    /// Defines two custom kinds and waits until they are served: gadgets, which live in namespaces and have two
    /// versions and all subresources, and realms, which do not.
    pub async fn custom_kinds(&self) {
        let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        let scale = json!({"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"});
        let version = |name: &str, storage: bool| {
            json!({"name": name, "served": true, "storage": storage, "schema": schema,
                "subresources": {"status": {}, "scale": scale}})
        };
        for (plural, kind, scope, versions) in [
            ("gadgets", "Gadget", "Namespaced", json!([version("v1", true), version("v2", false)])),
            ("realms", "Realm", "Cluster", json!([version("v1", true)])),
        ] {
            let group = "things.example.com";
            let definition = json!({"metadata": {"name": format!("{plural}.{group}")}, "spec": {"group": group,
                "scope": scope, "names": {"plural": plural, "kind": kind}, "versions": versions}});
            self.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await;
            let registry = &self.server.server.registry;
            until("the custom kind is served", || registry.find(group, "v1", plural).is_some()).await;
        }
    }

    /// Waits until the cache, which authorizers and admission read, has an object as it should be; `None` when it is
    /// gone.
    pub async fn cached(&self, prefix: &str, key: &str, want: impl Fn(Option<&Value>) -> bool) {
        let cache = self.server.server.store.cache(prefix).unwrap();
        until(key, || want(cache.last_known(key).map(|e| e.value()).as_ref())).await;
    }

    /// The account that pods without one run as.
    pub async fn default_account(&self) {
        self.create("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await;
    }
}

/// Waits for a condition, for ten seconds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap_or_else(|_| panic!("{what}: it never does"));
}

/// The path of a collection in the namespace default.
pub fn collection(desc: &kinit_apiserver::resources::Descriptor, watch: bool) -> String {
    let root = if desc.group.is_empty() {
        format!("/api/{}", desc.version)
    } else {
        format!("/apis/{}/{}", desc.group, desc.version)
    };
    let watch = if watch { "/watch" } else { "" };
    let namespace = if desc.namespaced { "/namespaces/default" } else { "" };
    format!("{root}{watch}{namespace}/{}", desc.plural)
}
