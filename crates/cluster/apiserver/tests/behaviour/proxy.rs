//! The proxy subresources, in front of servers on an address of this machine that is not loopback.

use std::net::IpAddr;
use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Api, MERGE};

/// An address of this machine that others could reach it at; nothing is sent to find it.
fn own_address() -> IpAddr {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").expect("this machine has a route");
    socket.local_addr().unwrap().ip()
}

/// A server that says what it was asked, and has a page and a redirect.
async fn serve(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) {
    let mut request = vec![0; 4096];
    let read = stream.read(&mut request).await.unwrap_or(0);
    let text = String::from_utf8_lossy(&request[..read]).into_owned();
    let line = text.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    let answer = match line.as_str() {
        "GET /page" => answer("200 OK", "content-type: text/html\r\n", r#"<a href="/next">next</a>"#),
        "GET /old" => answer("302 Found", "location: /new\r\n", ""),
        line => answer("200 OK", "content-type: text/plain\r\n", line),
    };
    stream.write_all(answer.as_bytes()).await.unwrap();
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Serves in plain text and over TLS; the ports.
async fn backends(api: &Api, address: IpAddr) -> (u16, u16) {
    let plain = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
    let secret = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
    let ports = (plain.local_addr().unwrap().port(), secret.local_addr().unwrap().port());
    let cert = kinit_component_base::tls::ReloadingCert::load(
        &api.server.pki.file("apiserver.crt"),
        &api.server.pki.file("apiserver.key"),
    )
    .unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_cert_resolver(cert);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Ok((stream, _)) = plain.accept() => { tokio::spawn(serve(stream)); }
                Ok((stream, _)) = secret.accept() => {
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move { serve(acceptor.accept(stream).await.unwrap()).await });
                }
            }
        }
    });
    ports
}

async fn text(api: &Api, method: Method, path: &str) -> (u16, String, Option<String>) {
    let response = api.request(method, path).send().await.unwrap();
    let location = response.headers().get("location").map(|l| l.to_str().unwrap().to_owned());
    (response.status().as_u16(), response.text().await.unwrap(), location)
}

/// A pod at this machine's address, a service in front of it, a node there.
async fn objects(api: &Api, address: IpAddr, (plain, secret): (u16, u16)) {
    api.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let ports = json!([{"name": "web", "containerPort": plain}, {"name": "tls", "containerPort": secret}]);
    let pods = "/api/v1/namespaces/default/pods";
    api.create(
        pods,
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "ports": ports}]}}),
    )
    .await;
    let status = json!({"status": {"podIP": address, "podIPs": [{"ip": address}]}});
    assert_eq!(api.send(Method::PATCH, &format!("{pods}/p/status"), MERGE, &status).await.0, 200);
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "web", "port": 80}, {"name": "tls", "port": 443}]}});
    api.create("/api/v1/namespaces/default/services", service).await;
    let slice = |name: &str, target: Value| {
        json!({"metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4",
            "ports": [{"name": "web", "port": plain}, {"name": "tls", "port": secret}],
            "endpoints": [{"addresses": [address.to_string()], "targetRef": target}]})
    };
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    api.create(slices, slice("s", json!({"kind": "Pod", "name": "p", "namespace": "default"}))).await;
    // Endpoints that are no pod lead nowhere.
    api.create(
        "/api/v1/namespaces/default/services",
        json!({"metadata": {"name": "t"}, "spec": {"ports": [{"name": "web", "port": 80}]}}),
    )
    .await;
    api.create(slices, slice("t", Value::Null)).await;
    let status = json!({"addresses": [{"type": "InternalIP", "address": address}]});
    api.create("/api/v1/nodes", json!({"metadata": {"name": "n"}, "status": status})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_services_and_nodes() {
    let (api, address) = (Api::start().await, own_address());
    let ports = backends(&api, address).await;
    objects(&api, address, ports).await;
    let base = "/api/v1/namespaces/default";
    for target in [
        format!("{base}/pods/p"),
        format!("{base}/pods/p:web"),
        format!("{base}/pods/http:p:{}", ports.0),
        format!("{base}/pods/https:p:tls"),
        format!("{base}/services/s:web"),
        format!("{base}/services/s:80"),
        format!("{base}/services/https:s:tls"),
        format!("{base}/services/https:s:443"),
        format!("/api/v1/nodes/n:{}", ports.0),
        format!("/api/v1/nodes/https:n:{}", ports.1),
    ] {
        let proxy = format!("{target}/proxy");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let wanted = format!("{method} /a/b/?x=y%20z");
            let (code, got, _) = text(&api, method.parse().unwrap(), &format!("{proxy}/a/b/?x=y%20z")).await;
            assert_eq!((code, got), (200, wanted), "{proxy}");
        }
        // Without a trailing slash relative links would be wrong.
        let (code, _, location) = text(&api, Method::GET, &format!("{proxy}?x=y")).await;
        assert_eq!((code, location), (301, Some(format!("{proxy}/?x=y"))));
        assert_eq!(text(&api, Method::GET, &format!("{proxy}/")).await.1, "GET /");
        assert_eq!(text(&api, Method::POST, &proxy).await.1, "POST /");
        // Links and redirects lead back through the proxy.
        assert_eq!(
            text(&api, Method::GET, &format!("{proxy}/page")).await.1,
            format!(r#"<a href="{proxy}/next">next</a>"#)
        );
        assert_eq!(text(&api, Method::GET, &format!("{proxy}/old")).await.2, Some(format!("{proxy}/new")));
    }
    for (target, code) in [
        (format!("{base}/services/t:web"), 503),
        (format!("{base}/services/s:81"), 503),
        (format!("{base}/services/ftp:s:80"), 400),
        (format!("{base}/pods/a:b:c:d"), 400),
        (format!("{base}/pods/nobody"), 404),
        ("/api/v1/nodes/n:x".to_owned(), 400),
    ] {
        assert_eq!(text(&api, Method::GET, &format!("{target}/proxy/")).await.0, code, "{target}");
    }
}
