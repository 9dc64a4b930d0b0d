//! Extension servers that misbehave: what is built in is not concerned.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::extension::{Extension, Manner};
use crate::{METRICS, NODES, SERVICES, World, available, reason};

async fn others_are_well(world: &World, begun: Instant) {
    assert_eq!(world.get("/apis/apps/v1/deployments").await.0, 200);
    let found = world.discovery("apps").await;
    assert_eq!(
        (&found["versions"][0]["freshness"], found["versions"].as_array().unwrap().len()),
        (&json!("Current"), 1)
    );
    assert!(world.get("/openapi/v3").await.1["paths"]["apis/apps/v1"].is_object());
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_is_not_available() {
    let world = World::start().await;
    let extension = Extension::start(&world.api.pki, "metrics.kube-system.svc", Manner::Hangs).await;
    world.register(&extension, json!({})).await;
    let begun = Instant::now();
    others_are_well(&world, begun).await;
    let object = world.until(METRICS, |o| reason(o) == "FailedDiscoveryCheck").await;
    let message = available(&object)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("context deadline exceeded"), "{message}");
    assert_eq!(world.get(NODES).await.0, 503);
    others_are_well(&world, begun).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_not_believed() {
    for manner in [Manner::Html, Manner::Lies] {
        let (world, _extension) = World::with_extension(manner).await;
        let found = world.discovery("metrics.k8s.io").await;
        let version = &found["versions"][0];
        match manner {
            Manner::Html => assert_eq!(version["freshness"], "Stale", "{found}"),
            _ => assert_eq!((&version["freshness"], &version["resources"]), (&json!("Current"), &json!([])), "{found}"),
        }
        let text = world.discovery("apps").await.to_string();
        assert!(text.contains("deployments") && !text.contains("liars"));
        others_are_well(&world, Instant::now()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_never_ends_is_cut_off() {
    let world = World::start().await;
    let extension = Extension::start(&world.api.pki, "metrics.kube-system.svc", Manner::Endless).await;
    world.register(&extension, json!({})).await;
    let object = world.until(METRICS, |o| reason(o) == "FailedDiscoveryCheck").await;
    let message = available(&object)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("the answer is larger than"), "{message}");
    others_are_well(&world, Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_must_be_for_the_service() {
    let world = World::start().await;
    let extension = Extension::start(&world.api.pki, "other.kube-system.svc", Manner::Good).await;
    world.register(&extension, json!({})).await;
    let object = world.until(METRICS, |o| reason(o) == "FailedDiscoveryCheck").await;
    let message = available(&object)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("certificate"), "{message}");
    assert_eq!(world.get(NODES).await.0, 503);
    // The administrator may say that it does not matter.
    let patch = json!({"spec": {"caBundle": null, "insecureSkipTLSVerify": true}});
    let (code, answer) = world.send_as(Method::PATCH, METRICS, "application/merge-patch+json", &patch).await;
    assert_eq!(code, 200, "{answer}");
    world.until(METRICS, |o| reason(o) == "Passed").await;
    assert_eq!(world.get(NODES).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_built_in_is_not_given_away() {
    let world = World::start().await;
    let extension = Extension::start(&world.api.pki, "metrics.kube-system.svc", Manner::Good).await;
    let patch = json!({"spec": {"service": {"namespace": "kube-system", "name": "metrics", "port": extension.port},
        "insecureSkipTLSVerify": true}});
    for name in ["v1.apps", "v1."] {
        let path = format!("{SERVICES}/{name}");
        let (code, answer) = world.send_as(Method::PATCH, &path, "application/merge-patch+json", &patch).await;
        assert_eq!(code, 422, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains("is served by this API server"), "{answer}");
    }
    // A client cannot say that its server is there.
    let mut object = world.api_service(1, json!({}));
    object["status"] = json!({"conditions": [{"type": "Available", "status": "True"}]});
    let (code, answer) = world.send(Method::POST, SERVICES, &object).await;
    assert_eq!((code, &answer["status"]), (201, &json!({})), "{answer}");
    // Nor does a path with dots lead anywhere else.
    let response = world
        .request(Method::GET, "/apis/metrics.k8s.io/v1beta1/..%2f..%2fapps%2fv1/deployments")
        .send()
        .await
        .unwrap();
    assert!(matches!(response.status().as_u16(), 404 | 503), "{}", response.status());
    assert_eq!(world.send(Method::DELETE, METRICS, &Value::Null).await.0, 200);
}
