//! A kubelet that only tells what is used, and ways to misbehave.

use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Instant;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Response, StatusCode};
use jiff::Timestamp;
use kinit_component_base::Shutdown;
use kinit_component_base::ciphers::TlsArgs;
use kinit_component_base::serve::{Connection, serve};
use kinit_component_base::tls::{ClientAuth, ReloadingCert, server_config};
use kinit_test_support::pki::TestPki;

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    Good,
    /// Never answers.
    Hangs,
    /// Its certificate is another address's.
    Impostor,
    /// A page in the place of metrics.
    Html,
}

/// A running one; it ends with this value.
pub struct Kubelet {
    pub port: u16,
    shutdown: Shutdown,
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Kubelet {
    /// Runs pod `default/web` with two containers, which use a quarter and half of a core.
    pub async fn start(pki: &TestPki, name: &str, manner: Manner) -> Self {
        let address: IpAddr = if manner == Manner::Impostor { "127.0.0.9" } else { "127.0.0.1" }.parse().unwrap();
        pki.server(name, &format!("system:node:{name}"), &[address], &[name]).unwrap();
        let cert = ReloadingCert::load(&pki.file(&format!("{name}.crt")), &pki.file(&format!("{name}.key"))).unwrap();
        let tls = server_config(cert, &ClientAuth::Required(pki.file("ca.crt")), &TlsArgs::default()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (shutdown, began) = (Shutdown::new(), Instant::now());
        tokio::spawn(serve(listener, Some(tls), shutdown.clone(), move |request| async move {
            let known = request.extensions().get::<Connection>().is_some_and(|c| !c.certificates.is_empty());
            match (request.uri().path(), manner) {
                ("/metrics/resource", Manner::Hangs) => std::future::pending().await,
                ("/metrics/resource", Manner::Html) => answer(200, "<html>Welcome to nginx!</html>".into()),
                ("/metrics/resource", _) if known => answer(200, reported(began)),
                _ => answer(403, "Forbidden".into()),
            }
        }));
        Self { port, shutdown }
    }
}

fn reported(began: Instant) -> String {
    let (now, seconds) = (Timestamp::now().as_millisecond(), began.elapsed().as_secs_f64() + 100.0);
    let container = |name: &str, share: f64, memory: u64| {
        let labels = format!("{{container=\"{name}\",namespace=\"default\",pod=\"web\"}}");
        format!(
            "container_cpu_usage_seconds_total{labels} {} {now}\ncontainer_memory_working_set_bytes{labels} {memory} {now}\n",
            share * seconds
        )
    };
    format!(
        "node_cpu_usage_seconds_total {} {now}\nnode_memory_working_set_bytes 1073741824 {now}\n{}{}",
        seconds,
        container("a", 0.25, 67_108_864),
        container("b", 0.5, 134_217_728)
    )
}

fn answer(status: u16, text: String) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}
