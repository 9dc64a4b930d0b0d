//! HTTP requests to containers, for probes and lifecycle handlers (`pkg/probe/http`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kinit_component_base::version;
use reqwest::Url;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// As Go's client.
const MOST_REQUESTS: usize = 10;

/// Where to send a request and what to say.
#[derive(Debug, Clone)]
pub struct Target {
    /// Host to connect to.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path with query.
    pub path: String,
    /// TLS.
    pub tls: bool,
    /// Headers beyond the usual.
    pub headers: Vec<(String, String)>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Where a redirect leads.
    location: Option<String>,
}

impl Answer {
    /// 2xx and 3xx are success.
    pub fn into_result(self) -> Result<(), String> {
        if (200..400).contains(&self.status) {
            Ok(())
        } else {
            Err(format!("HTTP probe failed with statuscode: {}", self.status))
        }
    }

    /// What there is to say about a success: its redirects were not followed to their end.
    pub fn warning(&self) -> Option<String> {
        (300..400).contains(&self.status).then(|| match &self.location {
            Some(location) => format!("Probe terminated redirects at {location:?}"),
            None => format!("Probe terminated redirects: status {} leads nowhere", self.status),
        })
    }
}

/// A port by number or by its name in the container.
pub fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => match name.parse() {
            Ok(number) => Some(number),
            Err(_) => {
                container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port)
            }
        },
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("container {} has no port {port:?}", container.name))
}

/// Resolves an httpGet action.
pub fn target(get: &HTTPGetAction, container: &Container, pod_ip: Option<&str>) -> Result<Target, String> {
    let host = get.host.clone().filter(|h| !h.is_empty()).or_else(|| pod_ip.map(str::to_owned));
    let path = get.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".to_owned());
    Ok(Target {
        host: host.ok_or("the pod has no address yet")?,
        port: port(&get.port, container)?,
        path: if path.starts_with('/') { path } else { format!("/{path}") },
        tls: get.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
        headers: get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
    })
}

/// Sends a GET and follows redirects that stay on the host; one that leaves it is the answer (`http.go:
/// RedirectChecker`).
pub async fn get(target: &Target, timeout: Duration) -> Result<Answer, String> {
    tokio::time::timeout(timeout, follow(target))
        .await
        .map_err(|_| format!("Get {}: context deadline exceeded", target.url()))?
}

async fn follow(target: &Target) -> Result<Answer, String> {
    let mut at = target.clone();
    for _ in 0..MOST_REQUESTS {
        let answer = exchange(&at).await?;
        match next(&at, &answer)? {
            Some(target) => at = target,
            None => return Ok(answer),
        }
    }
    Err(format!("Get {}: stopped after {MOST_REQUESTS} redirects", at.url()))
}

/// Where to ask next; `None` when the answer is final.
fn next(at: &Target, answer: &Answer) -> Result<Option<Target>, String> {
    let Some(location) = answer.location.as_deref().filter(|_| matches!(answer.status, 301..=303 | 307 | 308)) else {
        return Ok(None);
    };
    let failed = |e: &dyn std::fmt::Display| format!("failed to parse Location header {location:?}: {e}");
    let base = Url::parse(at.url().trim_matches('"')).map_err(|e| failed(&e))?;
    let url = base.join(location).map_err(|e| failed(&e))?;
    let tls = match url.scheme() {
        "http" => false,
        "https" => true,
        other => return Err(failed(&format!("unsupported protocol scheme {other:?}"))),
    };
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err(failed(&"no host"));
    };
    if base.host_str() != Some(host) {
        return Ok(None);
    }
    let mut headers = at.headers.clone();
    // As Go's client: a Host of one's own holds for locations that name no host.
    if Url::parse(location).is_ok() {
        headers.retain(|(name, _)| !name.eq_ignore_ascii_case("host"));
    }
    let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    Ok(Some(Target { host: at.host.clone(), port, path, tls, headers }))
}

impl Target {
    fn url(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("\"{}://{host}:{}{}\"", if self.tls { "https" } else { "http" }, self.port, self.path)
    }
}

/// Connects; a failure is told in the words that Go has for it and that people search for.
pub async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    TcpStream::connect((host, port)).await.map_err(|error| {
        let why = match error.kind() {
            ConnectionRefused => "connect: connection refused".to_owned(),
            HostUnreachable => "connect: no route to host".to_owned(),
            NetworkUnreachable => "connect: network is unreachable".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {host}:{port}: {why}")
    })
}

async fn exchange(target: &Target) -> Result<Answer, String> {
    let failed = |e: &dyn std::fmt::Display| format!("Get {}: {e}", target.url());
    let stream = dial(&target.host, target.port).await.map_err(|e| failed(&e))?;
    if !target.tls {
        return converse(target, stream).await.map_err(|e| failed(&e));
    }
    let name = rustls_pki_types::ServerName::try_from(target.host.clone()).map_err(|e| failed(&e))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(kinit_component_base::unverified::config()));
    let stream = connector.connect(name, stream).await.map_err(|e| failed(&e))?;
    converse(target, stream).await.map_err(|e| failed(&e))
}

async fn converse(
    target: &Target,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Answer, String> {
    let text = |e: hyper::Error| e.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let connection = tokio::spawn(connection);
    let host = if target.host.contains(':') { format!("[{}]", target.host) } else { target.host.clone() };
    let mut request = hyper::Request::get(&target.path);
    let given = |name: &str| target.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if !given("host") {
        request = request.header("host", format!("{host}:{}", target.port));
    }
    if !given("user-agent") {
        request = request.header("user-agent", format!("kube-probe/{}.{}", version::MAJOR, version::MINOR));
    }
    if !given("accept") {
        request = request.header("accept", "*/*");
    }
    request = request.header("connection", "close");
    for (name, value) in &target.headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await.map_err(text)?;
    let status = answer.status().as_u16();
    let location = answer.headers().get("location").and_then(|v| v.to_str().ok()).map(str::to_owned);
    // Read, so that the server is not cut off in the middle of its answer.
    let _ = Limited::new(answer.into_body(), 10 << 10).collect().await;
    connection.abort();
    Ok(Answer { status, location })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_followed_on_the_host() {
        let at = |port, path: &str, tls| Target {
            host: "10.0.0.1".into(),
            port,
            path: path.into(),
            tls,
            headers: vec![("Host".into(), "own".into())],
        };
        for (status, location, expected) in [
            (200, Some("/b"), Ok(None)),
            (302, None, Ok(None)),
            (304, Some("/b"), Ok(None)),
            (302, Some("/b?c=d"), Ok(Some((8080, "/b?c=d", false, true)))),
            (301, Some("b"), Ok(Some((8080, "/a/b", false, true)))),
            (307, Some("http://10.0.0.1:8081/"), Ok(Some((8081, "/", false, false)))),
            (308, Some("https://10.0.0.1/x"), Ok(Some((443, "/x", true, false)))),
            (302, Some("http://10.0.0.2:8080/"), Ok(None)),
            (302, Some("ftp://10.0.0.1/"), Err(())),
            (302, Some("http://[bad/"), Err(())),
        ] {
            let answer = Answer { status, location: location.map(str::to_owned) };
            let got = next(&at(8080, "/a/start", false), &answer);
            let got = got.map(|t| t.map(|t| (t.port, t.path.clone(), t.tls, !t.headers.is_empty()))).map_err(|_| ());
            let expected = expected.map(|t| t.map(|(port, path, tls, host)| (port, path.to_owned(), tls, host)));
            assert_eq!(got, expected, "{status} {location:?}");
        }
    }

    #[test]
    fn an_unfinished_redirect_is_a_success_with_a_warning() {
        for (status, success, warning) in
            [(200, true, false), (301, true, true), (399, true, true), (404, false, false), (101, false, false)]
        {
            let answer = Answer { status, location: None };
            assert_eq!((answer.warning().is_some(), answer.into_result().is_ok()), (warning, success), "{status}");
        }
    }

    /// A server that answers each connection with the next of `answers`.
    async fn server(answers: Vec<String>) -> Target {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Target { host: "127.0.0.1".into(), port, path: "/".into(), tls: false, headers: Vec::new() }
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_as_by_go() {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let why = dial("127.0.0.1", free).await.unwrap_err();
        assert_eq!(why, format!("dial tcp 127.0.0.1:{free}: connect: connection refused"));
    }

    #[tokio::test]
    async fn ten_requests_at_most() {
        let moved = "HTTP/1.1 302 Found\r\nLocation: /on\r\nContent-Length: 0\r\n\r\n".to_owned();
        let well = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned();
        for (redirects, ends_well) in [(0, true), (9, true), (10, false)] {
            let mut answers = vec![moved.clone(); redirects];
            answers.push(well.clone());
            let answer = get(&server(answers).await, Duration::from_secs(5)).await;
            assert_eq!(answer.is_ok_and(|a| a.status == 200), ends_well, "{redirects} redirects");
        }
    }
}
