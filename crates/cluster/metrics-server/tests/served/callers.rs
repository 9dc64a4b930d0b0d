//! Who may ask the server, past the API server.

use kinit_test_support::pki::TestPki;
use reqwest::{Certificate, Identity};

use crate::kubelet::Manner;
use crate::{METRICS, NAME, World};

/// A client with this certificate of the tree, or none.
fn client(world: &World, certificate: Option<&str>) -> reqwest::Client {
    let read = |name: &str| std::fs::read(world.api.pki.file(name)).unwrap();
    let mut builder = reqwest::Client::builder()
        .tls_certs_only([Certificate::from_pem(&read("ca.crt")).unwrap()])
        .resolve(NAME, ([127, 0, 0, 1], world.port).into());
    if let Some(name) = certificate {
        let pem = [read(&format!("{name}.crt")), read(&format!("{name}.key"))].concat();
        builder = builder.identity(Identity::from_pem(&pem).unwrap());
    }
    builder.build().unwrap()
}

async fn ask(world: &World, certificate: Option<&str>, path: &str, headers: &[(&str, &str)]) -> u16 {
    let mut request = client(world, certificate).get(format!("https://{NAME}:{}{path}", world.port));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.map_or(0, |response| response.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_front_proxies_speak_for_others() {
    let world = World::start(&[("good", Manner::Good)]).await;
    let nodes = format!("{METRICS}/nodes");
    world.until(&nodes, |code, answer| code == 200 && answer["items"][0].is_object()).await;
    let pki = &world.api.pki;
    pki.client("jane", "jane", &[]).unwrap();
    pki.client("master", "root", &["system:masters"]).unwrap();
    pki.client("fake-proxy", "front-proxy-client", &[]).unwrap();
    pki.front_proxy("other-proxy", "other").unwrap();
    let strange = tempfile::tempdir().unwrap();
    let stranger = TestPki::create(strange.path(), &[]).unwrap();
    for ext in ["crt", "key"] {
        std::fs::copy(stranger.file(&format!("front-proxy-client.{ext}")), pki.file(&format!("strange.{ext}")))
            .unwrap();
    }
    let root = [("x-remote-user", "root"), ("x-remote-group", "system:masters")];
    let jane = [("x-remote-user", "jane"), ("x-remote-group", "system:authenticated")];
    for (certificate, headers, code, why) in [
        (None, &[][..], 401, "nobody"),
        (None, &root[..], 401, "headers without a certificate are nothing"),
        (Some("jane"), &[], 403, "a client without rights"),
        (Some("jane"), &root, 403, "a client does not say who it is"),
        (Some("fake-proxy"), &root, 403, "the name alone makes no proxy"),
        (Some("other-proxy"), &root, 401, "the CA alone makes none"),
        (Some("strange"), &root, 0, "another CA's are refused in the handshake"),
        (Some("front-proxy-client"), &[], 401, "a proxy that speaks for nobody"),
        (Some("front-proxy-client"), &jane, 403, "a user without rights"),
        (Some("front-proxy-client"), &root, 200, "a user with all rights"),
        (Some("master"), &[], 200, "a client with all rights"),
    ] {
        assert_eq!(ask(&world, certificate, &nodes, headers).await, code, "{why}");
    }
    for (path, code) in [
        ("/healthz", 200),
        ("/livez?verbose", 200),
        ("/readyz", 200),
        ("/readyz/metric-storage-ready", 200),
        ("/metrics", 401),
        ("/apis", 401),
        ("/", 401),
    ] {
        assert_eq!(ask(&world, None, path, &[]).await, code, "{path}");
    }
    assert_eq!(ask(&world, Some("master"), "/metrics", &[]).await, 200);
    assert_eq!(
        ask(&world, Some("jane"), "/apis/metrics.k8s.io/v1beta1", &[]).await,
        200,
        "discovery is for everybody known"
    );
    tokens(&world, &nodes).await;
}

async fn tokens(world: &World, path: &str) {
    world.create("/api/v1/namespaces/default/serviceaccounts", &serde_json::json!({"metadata": {"name": "top"}})).await;
    let url = format!("{}/api/v1/namespaces/default/serviceaccounts/top/token", world.api.plane.url());
    let admin = world.api.admin().unwrap().build().unwrap();
    let request = admin.post(url).header("content-type", "application/json").body("{\"spec\": {}}");
    let answer: serde_json::Value = request.send().await.unwrap().json().await.unwrap();
    let token = format!("Bearer {}", answer["status"]["token"].as_str().unwrap());
    assert_eq!(ask(world, None, path, &[("authorization", &token)]).await, 403, "known, without rights");
    assert_eq!(ask(world, None, path, &[("authorization", "Bearer x.y.z")]).await, 401);
}
