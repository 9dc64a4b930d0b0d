//! Identities that a front proxy names in headers, and those who would like to be one.

use reqwest::Client;
use serde_json::{Value, json};

use crate::client::Api;

const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// What the server takes somebody for who sends these headers.
async fn who(api: &Api, client: &Client, headers: &[(&str, &str)]) -> (u16, Value) {
    let mut request = client.post(format!("{}{WHO}", api.server.plane.url()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.header("content-type", "application/json").body("{}").send().await.unwrap();
    let code = response.status().as_u16();
    let body: Value = response.json().await.unwrap_or_default();
    (code, body["status"]["userInfo"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_front_proxy_is_believed() {
    let api = Api::start().await;
    let pki = &api.server.pki;
    pki.front_proxy("stray", "stray-client").unwrap();
    pki.client("jane", "jane", &["dev"]).unwrap();
    // Its name is the proxy's, its authority is not.
    pki.client("false-proxy", "front-proxy-client", &[]).unwrap();
    let client = |name: &str| api.server.bearer_of(name).unwrap().build().unwrap();
    let headers = [
        ("x-remote-user", "anna"),
        ("x-remote-group", "ops"),
        ("x-remote-group", "night"),
        ("x-remote-extra-example.com%2Fshift", "two"),
    ];
    let (code, user) = who(&api, &client("front-proxy-client"), &headers).await;
    assert_eq!((code, &user["username"]), (201, &json!("anna")), "{user}");
    assert_eq!(user["groups"], json!(["ops", "night", "system:authenticated"]));
    assert_eq!(user["extra"]["example.com/shift"], json!(["two"]));

    // The proxy itself is nobody, nor is who has its CA's certificate under another name.
    assert_eq!(who(&api, &client("front-proxy-client"), &[]).await.0, 401);
    assert_eq!(who(&api, &client("stray"), &headers).await.0, 401);
    let stranger = api.server.stranger().unwrap().build().unwrap();
    assert_ne!(who(&api, &stranger, &headers).await.0, 201);
    // Whoever has an identity of their own keeps it, whatever they write into headers.
    for (name, username) in [("jane", "jane"), ("false-proxy", "front-proxy-client")] {
        let (code, user) = who(&api, &client(name), &headers).await;
        assert_eq!((code, &user["username"]), (201, &json!(username)), "{user}");
        assert!(!user.to_string().contains("ops") && !user.to_string().contains("anna"), "{user}");
    }
}
