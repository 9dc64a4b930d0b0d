//! Requests that an extension server answers.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::extension::Manner;
use crate::{METRICS, NODES, World, reason};

#[tokio::test(flavor = "multi_thread")]
async fn the_user_goes_along_and_nobody_else() {
    let (world, extension) = World::with_extension(Manner::Good).await;
    let request = world.request(Method::GET, NODES);
    let spoofed = request
        .header("x-remote-user", "somebody")
        .header("x-remote-group", "system:nodes")
        .header("x-remote-extra-scopes", "all")
        .header("accept", "application/json");
    let answer = spoofed.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json::<Value>().await.unwrap()["items"][0]["metadata"]["name"], "n1");
    let header = |name: &str| extension.header(&format!("GET {NODES}"), name);
    assert_eq!(header("x-remote-user"), ["kube-apiserver-kubelet-client"]);
    assert_eq!(header("x-remote-group"), ["system:masters", "system:authenticated"]);
    assert_eq!((header("x-remote-extra-scopes"), header("authorization")), (vec![], vec![]));
    // A token stays here; who is impersonated is who asks.
    let request = world.request(Method::GET, NODES).header("impersonate-user", "jane").header("impersonate-uid", "u-1");
    let request = request.header("impersonate-group", "system:masters").header("impersonate-extra-a%2fb", "1");
    assert_eq!(request.send().await.unwrap().status(), 200);
    assert_eq!((header("x-remote-user"), header("x-remote-uid")), (vec!["jane".to_owned()], vec!["u-1".to_owned()]));
    assert_eq!((header("x-remote-extra-a%2fb"), header("impersonate-user")), (vec!["1".to_owned()], vec![]));
    // Rights are asked for here first.
    let request = world.request(Method::GET, NODES).header("impersonate-user", "jane");
    assert_eq!(request.send().await.unwrap().status(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_queries_and_streams_pass() {
    let (world, _extension) = World::with_extension(Manner::Good).await;
    let path = "/apis/metrics.k8s.io/v1beta1/echo?a=b%20c&d";
    let (code, answer) = world.send(Method::PUT, path, &json!({"x": 1})).await;
    assert_eq!((code, answer), (200, "PUT /apis/metrics.k8s.io/v1beta1/echo?a=b%20c&d {\"x\":1}".into()));
    // The first line of a stream comes while the second is not there yet.
    let begun = Instant::now();
    let mut stream = world.request(Method::GET, "/apis/metrics.k8s.io/v1beta1/stream?watch=1").send().await.unwrap();
    assert_eq!(&stream.chunk().await.unwrap().unwrap()[..], b"line 0\n");
    assert!(begun.elapsed() < Duration::from_secs(10));
    let (code, answer) = world.get("/apis/metrics.k8s.io/v1beta1/away").await;
    assert_eq!(
        (code, answer),
        (502, "the backend attempted to redirect this request, which is not permitted\n".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_watch_ends_with_its_time() {
    let (world, extension) = World::with_extension(Manner::Good).await;
    extension.behave(Manner::Hangs);
    let (code, answer) = world.get(&format!("{NODES}?timeout=1s")).await;
    assert_eq!((code, answer["reason"].as_str()), (504, Some("Timeout")), "{answer}");
    extension.behave(Manner::Good);
    let begun = Instant::now();
    let stream = world.request(Method::GET, "/apis/metrics.k8s.io/v1beta1/stream?timeout=1s").send().await.unwrap();
    assert_eq!(stream.text().await.unwrap(), "line 0\n");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_upgraded() {
    let (world, extension) = World::with_extension(Manner::Good).await;
    let client = world.api.admin().unwrap().http1_only().build().unwrap();
    let url = format!("{}/apis/metrics.k8s.io/v1beta1/talk", world.api.plane.url());
    let request =
        client.get(url).header("connection", "Upgrade").header("upgrade", "shout").header("x-remote-user", "x");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = answer.upgrade().await.unwrap();
    let mut bytes = [0; 5];
    for (sent, want) in [(b"hello", b"HELLO"), (b"again", b"AGAIN")] {
        stream.write_all(sent).await.unwrap();
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, want);
    }
    let path = "GET /apis/metrics.k8s.io/v1beta1/talk";
    assert_eq!(extension.header(path, "x-remote-user"), ["kube-apiserver-kubelet-client"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_and_documents_have_it() {
    for manner in [Manner::Good, Manner::Old] {
        let (world, _extension) = World::with_extension(manner).await;
        let (_, groups) = world.get("/apis").await;
        let names: Vec<&str> =
            groups["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
        // Its priority is below those of this server's own groups.
        assert_eq!((names[0], *names.last().unwrap()), ("apiregistration.k8s.io", "metrics.k8s.io"));
        let found = world.discovery("metrics.k8s.io").await;
        assert_eq!(found["versions"][0]["freshness"], "Current", "{manner:?} {found}");
        assert_eq!(found["versions"][0]["resources"][0]["resource"], "nodes");
        assert_eq!(found["versions"][0]["resources"][0]["responseKind"]["group"], "metrics.k8s.io");
        assert_eq!(world.get("/apis/metrics.k8s.io/v1beta1").await.1["resources"][0]["kind"], "NodeMetrics");
        assert_eq!(world.get("/apis/metrics.k8s.io").await.1["preferredVersion"]["version"], "v1beta1");
        let (_, index) = world.get("/openapi/v3").await;
        let url = index["paths"]["apis/metrics.k8s.io/v1beta1"]["serverRelativeURL"].as_str().unwrap().to_owned();
        let (_, document) = world.get(&url).await;
        let name = "io.k8s.metrics.v1beta1.NodeMetrics";
        assert_eq!(document["components"]["schemas"][name]["description"], "What a node uses.");
        let (_, document) = world.get("/openapi/v2").await;
        assert_eq!(document["definitions"][name]["description"], "What a node uses.");
        assert_ne!(document["definitions"]["io.k8s.api.core.v1.Pod"]["description"], "a lie");
        // It goes as it came.
        assert_eq!(world.send(Method::DELETE, METRICS, &Value::Null).await.0, 200);
        world.until(NODES, |answer| answer["code"] == 404).await;
        assert_eq!(world.discovery("metrics.k8s.io").await, Value::Null);
        assert_eq!(world.get("/apis/metrics.k8s.io").await.0, 404);
        assert_eq!(world.get("/openapi/v3").await.1["paths"]["apis/metrics.k8s.io/v1beta1"], Value::Null);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_down_is_said_to_be() {
    let (world, extension) = World::with_extension(Manner::Good).await;
    extension.behave(Manner::Empty);
    // Nobody waits for the next check: it is asked anew when the APIService changes.
    let patch = json!({"spec": {"versionPriority": 101, "caBundle": null, "insecureSkipTLSVerify": true}});
    let (code, answer) = world.send_as(Method::PATCH, METRICS, "application/merge-patch+json", &patch).await;
    assert_eq!(code, 200, "{answer}");
    let object = world.until(METRICS, |o| reason(o) == "FailedDiscoveryCheck").await;
    let message = crate::available(&object)["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with("/apis/metrics.k8s.io/v1beta1: 404"), "{message}");
    assert_eq!(world.get(NODES).await, (503, "service unavailable\n".into()));
    let found = world.discovery("metrics.k8s.io").await;
    assert_eq!(found["versions"][0]["freshness"], "Stale");
    // It comes back by itself.
    extension.behave(Manner::Good);
    world.until(METRICS, |o| reason(o) == "Passed").await;
    assert_eq!(world.get(NODES).await.0, 200);
    // A Service that goes is seen at once.
    let (code, _) = world.send(Method::DELETE, "/api/v1/namespaces/kube-system/services/metrics", &Value::Null).await;
    assert_eq!(code, 200);
    let object = world.until(METRICS, |o| reason(o) == "ServiceNotFound").await;
    assert_eq!(crate::available(&object)["message"], "service/metrics in \"kube-system\" is not present");
}
