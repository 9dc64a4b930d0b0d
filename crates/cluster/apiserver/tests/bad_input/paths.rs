//! Paths, verbs and headers.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Api, MAPS, ask, get, post};

#[tokio::test(flavor = "multi_thread")]
async fn paths_verbs_and_media_types() {
    let api = Api::start().await;
    api.create(MAPS, json!({"metadata": {"name": "a"}})).await;
    let no_path = (404, "NotFound", "the server could not find the requested resource");
    let no_verb = (405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
    let pods = "/api/v1/namespaces/default/pods";
    api.check(vec![
        ("no such group", get("/apis/none.example.com/v1/things"), no_path),
        ("no such group's discovery", get("/apis/none.example.com"), no_path),
        ("no such version", get("/apis/apps/v9/deployments"), no_path),
        ("no such resource", get("/api/v1/things"), no_path),
        ("no such path", get("/nothing"), no_path),
        ("no such subresource", get(format!("{MAPS}/a/status")), no_path),
        ("no such subresource of a pod", get(format!("{pods}/a/foo")), no_path),
        ("more below a subresource", get(format!("{pods}/a/status/more")), no_path),
        ("a cluster's resource in a namespace", get("/api/v1/namespaces/default/nodes"), no_path),
        ("one object of all namespaces", get("/api/v1/configmaps/a"), no_path),
        ("no such object", get(format!("{MAPS}/none")), (404, "NotFound", "configmaps \"none\" not found")),
        (
            "no such deployment",
            get("/apis/apps/v1/namespaces/default/deployments/none"),
            (404, "NotFound", "deployments.apps \"none\" not found"),
        ),
        (
            "delete what is not there",
            ask("DELETE", format!("{MAPS}/none")),
            (404, "NotFound", "configmaps \"none\" not found"),
        ),
        ("create in no namespace", post("/api/v1/configmaps", &json!({"metadata": {"name": "x"}})), no_verb),
        ("delete in all namespaces", ask("DELETE", "/api/v1/configmaps"), no_verb),
        ("update a collection", ask("PUT", MAPS).json(&json!({})), no_verb),
        ("patch a collection", ask("PATCH", MAPS).bytes("application/merge-patch+json", "{}"), no_verb),
        ("create with a name", post(&format!("{MAPS}/a"), &json!({"metadata": {"name": "a"}})), no_verb),
        ("delete all namespaces", ask("DELETE", "/api/v1/namespaces"), no_verb),
        ("delete a status", ask("DELETE", format!("{pods}/a/status")), no_verb),
        ("get a binding", get(format!("{pods}/a/binding")), no_verb),
        ("get an eviction", get(format!("{pods}/a/eviction")), no_verb),
        ("list reviews", get("/apis/authentication.k8s.io/v1/tokenreviews"), no_verb),
        ("an invented method", ask("BREW", MAPS), no_verb),
        ("post to a path", post("/version", &json!({})), no_verb),
        (
            "an Accept nobody serves",
            get(MAPS).header("accept", "text/html"),
            (406, "NotAcceptable", "only the following media types are accepted: application/json"),
        ),
        (
            "an unknown view",
            get(MAPS).header("accept", "application/json;as=Chart;v=v1;g=meta.k8s.io"),
            (406, "NotAcceptable", "only the following media types are accepted: application/json"),
        ),
        ("a slash in a name", get(format!("{MAPS}/a%2Fb")), (404, "NotFound", "")),
        ("a zero byte", get(format!("{MAPS}/a%00b")), (404, "NotFound", "")),
        ("an unfinished escape", get(format!("{MAPS}/a%2")), (404, "NotFound", "")),
        ("invalid UTF-8", get(format!("{MAPS}/%ff%fe")), (404, "NotFound", "")),
        ("two slashes", get("/api/v1/namespaces//configmaps/a"), (404, "NotFound", "")),
        ("a name of 8 KiB", get(format!("{MAPS}/{}", "a".repeat(8192))), (404, "NotFound", "configmaps \"aaa")),
        ("a query of 60 KiB", get(format!("{MAPS}?labelSelector=a%20in%20({})", "b,".repeat(30_000))), (200, "", "")),
        ("an unknown user agent", get(MAPS).header("user-agent", "\u{e9}\u{e8}"), (200, "", "")),
        (
            "impersonation without a user",
            get(MAPS).header("impersonate-group", "x"),
            (400, "BadRequest", "requested impersonation without impersonating a user"),
        ),
    ])
    .await;
}

/// Sends bytes as they are over HTTP/1.1 and gives the first line of the answer, empty when the connection just ends.
async fn raw(api: &Api, bytes: &[u8]) -> String {
    let read = |name: &str| std::fs::read(api.server.pki.file(name)).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    use rustls_pki_types::pem::PemObject;
    roots.add(rustls_pki_types::CertificateDer::from_pem_slice(&read("ca.crt")).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![rustls_pki_types::CertificateDer::from_pem_slice(&read("apiserver-kubelet-client.crt")).unwrap()],
            rustls_pki_types::PrivateKeyDer::from_pem_slice(&read("apiserver-kubelet-client.key")).unwrap(),
        )
        .unwrap();
    let stream = tokio::net::TcpStream::connect((api.server.plane.address, api.server.plane.port)).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await.unwrap();
    // The server may answer, and close, before all is sent.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let mut out = vec![0; 4096];
    let n = tokio::time::timeout(std::time::Duration::from_secs(5), stream.read(&mut out)).await.unwrap().unwrap_or(0);
    String::from_utf8_lossy(&out[..n]).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_no_library_would_send() {
    let api = Api::start().await;
    let tail = "HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let long = "a".repeat(2 * 1024 * 1024);
    for (name, request, want) in [
        ("dots", format!("GET {MAPS}/../../../../../version {tail}"), vec!["404"]),
        ("dots for a name", format!("GET {MAPS}/%2e%2e {tail}"), vec!["404"]),
        ("dots for a namespace", format!("GET /api/v1/namespaces/%2e%2e%2fsecrets/configmaps/a {tail}"), vec!["404"]),
        ("an absolute address", format!("GET https://elsewhere/api/v1/nodes {tail}"), vec!["200"]),
        ("a star", format!("OPTIONS * {tail}"), vec!["404", "405", "400"]),
        ("a URL of 2 MiB", format!("GET /api/v1/{long} {tail}"), vec!["414", "431", ""]),
        ("a header of 2 MiB", format!("GET /api/v1/nodes HTTP/1.1\r\nhost: x\r\nx: {long}\r\n\r\n"), vec!["431", ""]),
        ("no HTTP at all", "hello\r\n\r\n".into(), vec!["400", ""]),
        (
            "a body shorter than said",
            format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: x\r\n\r\n{{}}"),
            vec!["400"],
        ),
        (
            "two lengths",
            format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{{}}"),
            vec!["400"],
        ),
    ] {
        let line = raw(&api, request.as_bytes()).await;
        let code = line.split(' ').nth(1).unwrap_or_default();
        assert!(want.contains(&code), "{name}: {line}");
    }
    assert_eq!(api.send(&get("/version")).await.code, 200);
}
