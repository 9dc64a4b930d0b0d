//! Requests that take their time, or all the places.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Api;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Opens a connection and sends the head of a request and the beginning of its body, never the end of it.
async fn unfinished(
    api: &Api,
    token: &str,
    (method, query): (&str, &str),
    (length, sent): (usize, usize),
) -> impl AsyncReadExt + AsyncWriteExt + Unpin + use<> {
    let address = format!("{}:{}", api.server.plane.address, api.server.plane.port);
    let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let roots = kinit_component_base::tls::read_roots(&api.server.pki.file("ca.crt")).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut stream = connector.connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap();
    let head = format!(
        "{method} {MAPS}{query} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // A server that has heard enough may end the connection.
    let _ = stream.write_all(&vec![b' '; sent]).await;
    stream
}

/// A POST of which nearly nothing comes.
async fn bodiless(api: &Api, token: &str, query: &str) -> impl AsyncReadExt + AsyncWriteExt + Unpin + use<> {
    unfinished(api, token, ("POST", query), (100, 1)).await
}

/// The beginning of an answer, which comes in time.
async fn answer_of(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut answer = vec![0; 64];
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut answer)).await;
    let read = read.expect("an answer within the limit").unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

/// A token of the default service account, which may create ConfigMaps.
async fn token(api: &Api) -> String {
    token_of(api, "default").await
}

async fn token_of(api: &Api, account: &str) -> String {
    let binding = json!({"metadata": {"name": account}, "roleRef": {"kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": "default"}]});
    api.create("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    // There is no controller here to make it.
    api.create(accounts, json!({"metadata": {"name": account}})).await;
    let answer = api.create(&format!("{accounts}/{account}/token"), json!({"spec": {"audiences": []}})).await;
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    // The binding counts as soon as the server's own watch has brought it.
    let client = api.server.stranger().unwrap().build().unwrap();
    let allowed = async || {
        let request = client.get(format!("{}{MAPS}", api.server.plane.url())).bearer_auth(&token);
        request.send().await.unwrap().status().as_u16() == 200
    };
    while !allowed().await {
        tokio::task::yield_now().await;
    }
    token
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_come_hold_nobody_back() {
    let api = Api::start_with(&["--max-mutating-requests-inflight=4", "--request-timeout=8s"]).await;
    let token = token(&api).await;
    let started = Instant::now();
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(bodiless(&api, &token, "").await);
    }
    let client = api.server.stranger().unwrap().build().unwrap();
    for name in ["a", "b", "c"] {
        let request = client.post(format!("{}{MAPS}", api.server.plane.url())).bearer_auth(&token);
        let object = json!({"metadata": {"name": name}}).to_string();
        let response = request.header("content-type", "application/json").body(object).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 201, "{}", response.text().await.unwrap());
    }
    assert!(started.elapsed() < Duration::from_secs(8), "nobody waits for the others' bodies");
    // Each of them is answered when its time is over.
    for mut stream in held {
        let answer = answer_of(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    }
}

/// Bodies that are nearly there are memory: one user can hold some of it, and others write all the same.
#[tokio::test(flavor = "multi_thread")]
async fn half_sent_bodies_take_no_more_than_their_share() {
    let api = Api::start_with(&["--max-requests-inflight=4", "--max-mutating-requests-inflight=4"]).await;
    let (hoarder, other) = (token(&api).await, token_of(&api, "other").await);
    let largest = 3 << 20;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(unfinished(&api, &hoarder, ("POST", ""), (largest, largest - 1)).await);
    }
    let client = api.server.stranger().unwrap().build().unwrap();
    let write = async |token: &str, name: &str| {
        let request = client.post(format!("{}{MAPS}", api.server.plane.url())).bearer_auth(token);
        let object = json!({"metadata": {"name": name}, "data": {"k": "x".repeat(500_000)}}).to_string();
        let response = request.header("content-type", "application/json").body(object).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    for name in ["a", "b", "c", "d"] {
        let (code, text) = write(&other, name).await;
        assert_eq!(code, 201, "{text}");
    }
    // There is room for two of them; which two, a busy machine decides.
    let mut answers: FuturesUnordered<_> = held.iter_mut().map(answer_of).collect();
    for _ in 0..6 {
        let answer = answers.next().await.unwrap_or_default();
        assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    }
    drop(answers);
    drop(held);
    // What was held is given back when the server hears that the connections are gone.
    while write(&hoarder, "e").await.0 != 201 {
        tokio::task::yield_now().await;
    }
}

/// A watch lasts as long as its client wants; a body that it says will come does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_does_not_wait_for_its_body() {
    let api = Api::start_with(&["--request-timeout=2s"]).await;
    let token = token(&api).await;
    let mut stream = unfinished(&api, &token, ("GET", "?watch=1"), (100, 1)).await;
    let answer = answer_of(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_of_the_client_counts() {
    let api = Api::start().await;
    for (query, code) in
        [("timeout=1h30m", 200), ("timeout=0s", 200), ("timeout=", 200), ("timeout=abc", 400), ("timeout=5", 400)]
    {
        let (got, answer) = api.get(&format!("{MAPS}?{query}")).await;
        assert_eq!(got, code, "{query}: {answer}");
        if code == 400 {
            let message = answer["message"].as_str().unwrap();
            assert!(message.starts_with("invalid timeout specified in the request URL"), "{message}");
        }
    }
    // The server's own limit is a minute: this one ends a body that does not come.
    let token = token(&api).await;
    let mut stream = bodiless(&api, &token, "?timeout=200ms").await;
    assert!(answer_of(&mut stream).await.starts_with("HTTP/1.1 504"));
    // A watch is not ended by it.
    let response =
        api.request(Method::GET, &format!("{MAPS}?watch=1&timeout=1ns&timeoutSeconds=1")).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    response.text().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn static_tokens_authenticate() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens.csv");
    std::fs::write(&file, "letmein,alice,u1,\"system:masters\"\n").unwrap();
    let api = Api::start_with(&[&format!("--token-auth-file={}", file.display())]).await;
    let client = api.server.stranger().unwrap().build().unwrap();
    for (token, code) in [("letmein", 200), ("letmeout", 401)] {
        let request = client.get(format!("{}{MAPS}", api.server.plane.url())).bearer_auth(token);
        assert_eq!(request.send().await.unwrap().status().as_u16(), code, "{token}");
    }
}
