//! Objects that cannot be decoded: errors that name them, never deletions.

use std::time::Duration;

use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::Api;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The next event of a watch.
async fn event(watch: &mut (impl futures::Stream<Item = reqwest::Result<bytes::Bytes>> + Unpin)) -> Value {
    let line = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("an event").unwrap().unwrap();
    serde_json::from_slice(line.split(|b| *b == b'\n').next().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_an_error_that_names_the_object() {
    let api = Api::start().await;
    let created = api.create(MAPS, json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await;
    api.create(MAPS, json!({"metadata": {"name": "b"}})).await;
    let version = created["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{MAPS}?watch=1&resourceVersion={version}&fieldSelector=metadata.name%3Da");
    let mut watch = Box::pin(api.request(Method::GET, &path).send().await.unwrap().bytes_stream());

    let mut etcd = api.etcd().await;
    let key = "/registry/configmaps/default/a";
    let good = etcd.get(key, None).await.unwrap().kvs()[0].value().to_vec();
    etcd.put(key, "garbage", None).await.unwrap();
    let ended = event(&mut watch).await;
    assert_eq!((&ended["type"], &ended["object"]["code"]), (&json!("ERROR"), &json!(500)), "{ended}");
    assert!(ended["object"]["message"].as_str().unwrap().contains("configmaps \"default/a\""), "{ended}");
    while let Some(rest) = watch.next().await {
        assert!(rest.unwrap().is_empty(), "the watch ends");
    }

    for path in [
        format!("{MAPS}/a"),
        format!("{MAPS}/a?resourceVersion=0"),
        MAPS.to_owned(),
        format!("{MAPS}?resourceVersion=0"),
        format!("{MAPS}?limit=1"),
        format!("{MAPS}?labelSelector=x%3Dy"),
        "/api/v1/configmaps".to_owned(),
        format!("{MAPS}?watch=1"),
    ] {
        let (code, answer) = api.get(&path).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert_eq!(code, 500, "{path}: {answer}");
        assert!(message.contains("configmaps \"default/a\" cannot be read from the storage"), "{path}: {message}");
    }
    assert_eq!(api.get(&format!("{MAPS}/b")).await.0, 200);
    assert_eq!(api.get("/api/v1/namespaces/kube-system/configmaps").await.0, 200, "other namespaces are whole");
    let (code, _) = api.send(Method::DELETE, MAPS, crate::JSON, &json!({})).await;
    assert_eq!(code, 500, "nobody knows what would be deleted");

    // Repaired by hand, it is there again.
    etcd.put(key, good, None).await.unwrap();
    let (code, list) = api.get(MAPS).await;
    assert_eq!(code, 200, "{list}");
    let names: Vec<&str> =
        list["items"].as_array().unwrap().iter().filter_map(|m| m["metadata"]["name"].as_str()).collect();
    assert!(names.contains(&"a") && names.contains(&"b"));

    // Gone is gone, readable or not.
    etcd.put(key, "5", None).await.unwrap();
    etcd.delete(key, None).await.unwrap();
    assert_eq!(api.get(MAPS).await.0, 200);
    assert_eq!(api.get(&format!("{MAPS}/a")).await.0, 404);
}

/// A key that is lost, found at the start of a server.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_encryption_key_is_no_deletion() {
    let api = Api::start().await;
    let mut etcd = api.etcd().await;
    etcd.put("/registry/secrets/default/sealed", "k8s:enc:aescbc:v1:lost:0123456789abcdef", None).await.unwrap();
    let peer = api.server.peer().await.unwrap();
    let path = "/api/v1/namespaces/default/secrets";
    for url in [api.server.plane.url(), peer.plane.url()] {
        for path in [path.to_owned(), format!("{path}/sealed")] {
            let response = api.client.get(format!("{url}{path}")).send().await.unwrap();
            let (code, text) = (response.status().as_u16(), response.text().await.unwrap());
            assert!(code == 500 && text.contains("secrets \\\"default/sealed\\\""), "{url}{path}: {code} {text}");
        }
    }
}

/// Writes that go to one server after the other, each with the version of the one before: what a server has in its
/// cache may be older than what its client knows, and no write is refused or lost for that.
#[tokio::test(flavor = "multi_thread")]
async fn clients_may_know_more_than_a_cache() {
    let api = Api::start().await;
    let peer = api.server.peer().await.unwrap();
    let urls = [api.server.plane.url(), peer.plane.url()];
    let mut object = api.create(MAPS, json!({"metadata": {"name": "a"}, "data": {"n": "0"}})).await;
    for n in 1..=200 {
        object["data"]["n"] = n.to_string().into();
        let request = api.client.put(format!("{}{MAPS}/a", urls[n % 2])).header("content-type", crate::JSON);
        let response = request.body(object.to_string()).send().await.unwrap();
        let (code, text) = (response.status().as_u16(), response.text().await.unwrap());
        assert_eq!(code, 200, "write {n}: {text}");
        object = serde_json::from_str(&text).unwrap();
        // The same once more changes nothing, and says what is.
        let request = api.client.patch(format!("{}{MAPS}/a", urls[(n + 1) % 2])).header("content-type", crate::MERGE);
        let response = request.body(json!({"data": {"n": n.to_string()}}).to_string()).send().await.unwrap();
        let same: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!(same["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"], "write {n}");
    }
}

const POD: &str = "/api/v1/namespaces/default/pods/victim";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Objects of the kinds that the server itself decides by.
async fn furnish(api: &Api) {
    for name in ["counted", "ranged"] {
        api.create("/api/v1/namespaces", json!({"metadata": {"name": name}})).await;
    }
    for namespace in ["default", "ranged"] {
        let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        api.create(&accounts, json!({"metadata": {"name": "default"}})).await;
    }
    let service = json!({"metadata": {"name": "held"}, "spec": {"type": "NodePort", "clusterIP": "10.96.7.7",
        "ports": [{"port": 80, "nodePort": 30777}]}});
    api.create("/api/v1/namespaces/default/services", service).await;
    let pod = json!({"metadata": {"name": "victim", "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    api.create("/api/v1/namespaces/default/pods", pod).await;
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    let (code, answer) = api.send(Method::PATCH, &format!("{POD}/status"), crate::MERGE, &status).await;
    assert_eq!(code, 200, "{answer}");
    let budget = json!({"metadata": {"name": "guard"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}});
    api.create("/apis/policy/v1/namespaces/default/poddisruptionbudgets", budget).await;
    let quota = json!({"metadata": {"name": "few"}, "spec": {"hard": {"configmaps": "1"}}});
    api.create("/api/v1/namespaces/counted/resourcequotas", quota).await;
    let range =
        json!({"metadata": {"name": "small"}, "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}});
    api.create("/api/v1/namespaces/ranged/limitranges", range).await;
    let role = json!({"metadata": {"name": "part", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"apiGroups": ["example.com"], "resources": ["specials"], "verbs": ["get"]}]});
    api.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await;
    let definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com",
        "names": {"plural": "widgets", "kind": "Widget"}, "scope": "Namespaced", "versions": [{"name": "v1",
            "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    api.create(CRDS, definition).await;
    until(api, "/apis/apiregistration.k8s.io/v1/apiservices/v1.example.com", |_| true).await;
    until(api, VIEW, has_part).await;
}

const VIEW: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/view";

fn has_part(role: &Value) -> bool {
    role["rules"].as_array().unwrap().iter().any(|rule| rule["resources"] == json!(["specials"]))
}

async fn until(api: &Api, path: &str, is: impl Fn(&Value) -> bool) {
    let seen = async {
        loop {
            let (code, answer) = api.get(path).await;
            if code == 200 && is(&answer) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap_or_else(|_| panic!("{path} is never so"));
}

/// A server that starts when what it decides by cannot be read takes nothing for deleted: it refuses what it cannot
/// judge, and gives nothing away.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_starts_on_garbage_takes_nothing_for_deleted() {
    let api = Api::start().await;
    furnish(&api).await;
    let mut etcd = api.etcd().await;
    // An address is swept when it is older than a minute.
    let address = "/registry/ipaddresses/10.96.7.7";
    let stored = String::from_utf8(etcd.get(address, None).await.unwrap().kvs()[0].value().to_vec()).unwrap();
    let mut old: Value = serde_json::from_str(&stored).unwrap();
    old["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z".into();
    etcd.put(address, old.to_string(), None).await.unwrap();
    for key in [
        "services/specs/default/held",
        "poddisruptionbudgets/default/guard",
        "resourcequotas/counted/few",
        "limitranges/ranged/small",
        "clusterroles/part",
        "apiextensions.k8s.io/customresourcedefinitions/widgets.example.com",
    ] {
        etcd.put(format!("/registry/{key}"), "garbage", None).await.unwrap();
    }
    let peer = api.server.peer().await.unwrap();
    let url = peer.plane.url();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "victim"}});
    for (path, body, named) in [
        (&*format!("{POD}/eviction"), Some(&eviction), "poddisruptionbudgets.policy \"default/guard\""),
        (
            "/api/v1/namespaces/counted/configmaps",
            Some(&json!({"metadata": {"name": "c"}})),
            "resourcequotas \"counted/few\"",
        ),
        ("/api/v1/namespaces/ranged/pods", Some(&pod), "limitranges \"ranged/small\""),
        (
            "/apis/example.com/v1/namespaces/default/widgets",
            None,
            "customresourcedefinitions.apiextensions.k8s.io \"widgets.example.com\"",
        ),
        ("/apis/example.com/v1", None, "customresourcedefinitions.apiextensions.k8s.io \"widgets.example.com\""),
    ] {
        let request = match body {
            Some(body) => api.client.post(format!("{url}{path}")).body(body.to_string()),
            None => api.client.get(format!("{url}{path}")),
        };
        let response = request.header("content-type", crate::JSON).send().await.unwrap();
        let (code, text) = (response.status().as_u16(), response.text().await.unwrap());
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(code == 500 && message.contains(named), "{path}: {code} {text}");
    }
    nothing_was_given_away(&api, &peer, address, &mut etcd).await;
}

async fn nothing_was_given_away(
    api: &Api,
    peer: &kinit_test_support::Peer,
    address: &str,
    etcd: &mut kinit_etcd_connect::etcd_client::Client,
) {
    let url = peer.plane.url();
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let groups = api.client.get(format!("{url}/apis")).header("accept", accept).send().await.unwrap();
    let groups: Value = serde_json::from_str(&groups.text().await.unwrap()).unwrap();
    let group = groups["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "example.com");
    assert_eq!(group.unwrap()["versions"][0]["freshness"], "Stale", "whoever goes through all kinds knows");
    // A change of any role makes the aggregation look at all.
    api.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", json!({"metadata": {"name": "other"}})).await;

    kinit_apiserver::services::sweep(&peer.server).await;
    for key in [address, "/registry/ranges/servicenodeports/30777"] {
        assert_eq!(etcd.get(key, None).await.unwrap().kvs().len(), 1, "{key} was given away");
    }
    assert!(has_part(&api.get(VIEW).await.1), "an aggregated role lost what a part that cannot be read gave it");
    assert_eq!(api.get("/apis/apiregistration.k8s.io/v1/apiservices/v1.example.com").await.0, 200);
    assert_eq!(api.get(POD).await.0, 200, "the pod was evicted");
}

/// What admission goes by: without it nobody knows what is to be refused.
#[tokio::test(flavor = "multi_thread")]
async fn admission_that_cannot_be_read_lets_nothing_through() {
    let api = Api::start().await;
    let mut etcd = api.etcd().await;
    for (kind, group) in [
        ("validatingwebhookconfigurations", ".admissionregistration.k8s.io"),
        ("mutatingwebhookconfigurations", ".admissionregistration.k8s.io"),
        ("validatingadmissionpolicies", ".admissionregistration.k8s.io"),
        ("mutatingadmissionpolicies", ".admissionregistration.k8s.io"),
        ("storageclasses", ".storage.k8s.io"),
    ] {
        let key = format!("/registry/{kind}/x");
        etcd.put(&*key, "k8s:enc:aescbc:v1:lost:0123456789abcdef", None).await.unwrap();
        // The feed brings it: from then on no list shows the resource.
        let prefix = format!("{kind}/");
        let cache = api.server.server.store.cache(&prefix).unwrap();
        let mut changes = cache.changes();
        while cache.get("x").is_ok() {
            changes.changed().await.unwrap();
        }
        let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}});
        let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
        let (code, answer) = api.send(Method::POST, claims, crate::JSON, &claim).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(code == 500 && message.contains(&format!("{kind}{group} \"x\"")), "{kind}: {code} {answer}");
        etcd.delete(&*key, None).await.unwrap();
        while cache.get("x").is_err() {
            changes.changed().await.unwrap();
        }
    }
    api.create(MAPS, json!({"metadata": {"name": "free-again"}})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_wrote_is_read_and_written_anew() {
    let api = Api::start().await;
    let stored = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "u", "namespace": "default", "uid": "1-2",
        "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {"a": "b"}}, "data": {"k": "v"}});
    let key = "/registry/configmaps/default/u";
    let bytes = kinit_apimachinery::proto::encode(stored.to_string().as_bytes()).unwrap();
    let mut etcd = api.etcd().await;
    etcd.put(key, bytes, None).await.unwrap();

    let (code, got) = api.get(&format!("{MAPS}/u")).await;
    assert_eq!((code, &got["data"], &got["metadata"]["labels"]), (200, &stored["data"], &json!({"a": "b"})));
    let (code, list) = api.get(&format!("{MAPS}?labelSelector=a%3Db")).await;
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 1));

    // A write that changes nothing else is one all the same: after it the value is in this server's form.
    let (code, _) = api.send(Method::PUT, &format!("{MAPS}/u"), crate::JSON, &got).await;
    assert_eq!(code, 200);
    let now = etcd.get(key, None).await.unwrap().kvs()[0].value().to_vec();
    assert!(now.starts_with(b"{"), "still {:?}", &now[..4]);

    let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "namespace": "default"}});
    let pod = kinit_apimachinery::proto::encode(pod.to_string().as_bytes()).unwrap();
    etcd.put("/registry/pods/default/p", pod, None).await.unwrap();
    let (code, pod) = api.get("/api/v1/namespaces/default/pods/p").await;
    // What Go writes although it is empty is there.
    assert_eq!((code, &pod["spec"]["containers"], &pod["status"]), (200, &json!(null), &json!({})), "{pod}");
    etcd.put(key, b"k8s\0\xff\xff".to_vec(), None).await.unwrap();
    assert_eq!(api.get(&format!("{MAPS}/u")).await.0, 500, "a broken envelope is an object that cannot be read");
}
