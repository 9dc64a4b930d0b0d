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
