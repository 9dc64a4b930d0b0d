//! Requests that an extension API server answers (`kube-aggregator/pkg/apiserver.proxyHandler`): passed on as the front
//! proxy, with the user in headers.

use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, UPGRADE};
use hyper::{Request, Response, StatusCode, Uri, Version};
use kinit_apimachinery::ApiError;
use tokio::time::Instant;

use super::Remote;
use crate::authn::User;
use crate::http::respond::Body;
use crate::http::{ApiResponse, RequestInfo, respond};
use crate::node::{HOP, forwarded_headers, join};
use crate::server::Server;

const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";

/// Who answers a request, when it is not this server.
pub fn target(server: &Server, info: &RequestInfo) -> Option<Arc<Remote>> {
    let (group, version) = match info.is_resource {
        true => (info.group.as_str(), info.version.as_str()),
        false => {
            let (group, version) = info.path.strip_prefix("/apis/")?.trim_end_matches('/').split_once('/')?;
            (group, version)
        }
    };
    // What is built in is never another's, and asked for most.
    if super::catalog::priority(group, version).is_some() || group.is_empty() {
        return None;
    }
    server.aggregator.remote(group, version)
}

/// Passes a request on and its answer back; `until` ends an answer that is not to last.
pub async fn handle(
    server: &Arc<Server>,
    remote: &Remote,
    user: &User,
    request: Request<Incoming>,
    until: Option<Instant>,
) -> Result<ApiResponse, ApiError> {
    if !remote.service.is_available {
        return Ok(plain(503, "service unavailable"));
    }
    if let Err(problem) = remote.backend.address() {
        tracing::warn!(name = remote.service.name, problem, "resolve the service of an API service");
        return Ok(plain(503, "service unavailable"));
    }
    let result = match request.headers().contains_key(UPGRADE) {
        true => upgraded(server, remote, user, request).await,
        false => passed(remote, user, request, until).await,
    };
    Ok(result.unwrap_or_else(|problem| plain(503, &format!("error trying to reach service: {problem}"))))
}

/// What Go's `http.Error` writes.
fn plain(code: u16, text: &str) -> ApiResponse {
    let mut response = respond::text(code, format!("{text}\n"));
    respond::set_header(&mut response, "x-content-type-options", "nosniff");
    response
}

async fn passed(
    remote: &Remote,
    user: &User,
    request: Request<Incoming>,
    until: Option<Instant>,
) -> Result<ApiResponse, String> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let uri = format!("https://{}{path}", remote.backend.authority());
    let mut outgoing = Request::new(body.boxed_unsync());
    *outgoing.method_mut() = parts.method;
    *outgoing.uri_mut() = uri.parse::<Uri>().map_err(|e| e.to_string())?;
    *outgoing.headers_mut() = headers(&parts.headers, user, false);
    let response = remote.backend.send(outgoing).await?;
    Ok(answer(response, until))
}

/// The headers that go on: no proof of the client's, none of its claims on who it is, and ours.
fn headers(incoming: &HeaderMap, user: &User, upgrade: bool) -> HeaderMap {
    let mut out = forwarded_headers(incoming, upgrade);
    identify(&mut out, user);
    out
}

/// Names a user (`transport.SetAuthProxyHeaders`). What cannot be said in a header is left out.
pub fn identify(headers: &mut HeaderMap, user: &User) {
    let claims: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    claims.iter().for_each(|name| {
        headers.remove(name);
    });
    let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).ok();
    if let Some(name) = value(&user.name) {
        headers.insert(USER, name);
    }
    if let Some(uid) = value(&user.uid).filter(|_| !user.uid.is_empty()) {
        headers.insert(UID, uid);
    }
    user.groups.iter().filter_map(|group| value(group)).for_each(|group| {
        headers.append(GROUP, group);
    });
    for (key, values) in &user.extra {
        let Ok(name) = HeaderName::from_bytes(format!("{EXTRA}{}", escaped(key)).as_bytes()) else { continue };
        values.iter().filter_map(|text| value(text)).for_each(|text| {
            headers.append(name.clone(), text);
        });
    }
}

/// A key as part of a header's name: what may not stand there is percent-encoded (`headerKeyEscape`).
fn escaped(key: &str) -> String {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&b);
    key.bytes().map(|b| if legal(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn answer(response: Response<Incoming>, until: Option<Instant>) -> ApiResponse {
    if response.status().is_redirection() && response.headers().contains_key(LOCATION) {
        return redirected();
    }
    let (mut parts, body) = response.into_parts();
    tidy(&mut parts.headers);
    parts.version = Version::default();
    ApiResponse::from_parts(parts, relayed(body, until))
}

/// An extension server sends nobody elsewhere (`RejectForwardingRedirects`).
fn redirected() -> ApiResponse {
    plain(502, "the backend attempted to redirect this request, which is not permitted")
}

/// Without what is between the two of us, and without the backend's word on other origins.
fn tidy(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    named.iter().for_each(|name| {
        headers.remove(name);
    });
    headers.remove(CONNECTION);
    for name in HOP {
        headers.remove(name);
    }
    for name in [
        "access-control-allow-credentials",
        "access-control-allow-headers",
        "access-control-allow-methods",
        "access-control-allow-origin",
        "access-control-expose-headers",
        "access-control-max-age",
    ] {
        headers.remove(name);
    }
}

/// A body as it comes, until it ends or its time is over.
fn relayed(body: Incoming, until: Option<Instant>) -> Body {
    let frames = futures::stream::unfold(body, move |mut body| async move {
        let next = async {
            match until {
                Some(at) => tokio::time::timeout_at(at, body.frame()).await.ok().flatten(),
                None => body.frame().await,
            }
        };
        let frame: Frame<_> = next.await?.ok()?;
        Some((Ok(frame), body))
    });
    http_body_util::StreamBody::new(frames).boxed_unsync()
}

async fn upgraded(
    server: &Arc<Server>,
    remote: &Remote,
    user: &User,
    mut request: Request<Incoming>,
) -> Result<ApiResponse, String> {
    let stream = remote.backend.dial().await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to an extension API server ended");
        }
    });
    let client = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let mut outgoing = Request::builder().method(parts.method).uri(path).header(HOST, remote.backend.authority());
    if let Some(map) = outgoing.headers_mut() {
        map.extend(headers(&parts.headers, user, true));
    }
    let outgoing = outgoing.body(body).map_err(|e| e.to_string())?;
    let mut response = sender.send_request(outgoing).await.map_err(|e| e.to_string())?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answer(response, None));
    }
    let backend = hyper::upgrade::on(&mut response);
    let mut out = ApiResponse::new(respond::full(""));
    *out.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *out.headers_mut() = std::mem::take(response.headers_mut());
    out.headers_mut().remove(CONTENT_TYPE);
    out.extensions_mut().insert(join(client, backend, server.shutdown.clone()));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_client_does_not_say_who_it_is() {
        let mut incoming = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "admin"),
            ("x-remote-group", "system:masters"),
            ("x-remote-uid", "1"),
            ("x-remote-extra-scopes", "all"),
            ("authorization", "Bearer secret"),
            ("impersonate-user", "admin"),
            ("connection", "x-kept"),
            ("accept", "application/json"),
        ] {
            incoming.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let extra = BTreeMap::from([("example.com/a b".to_owned(), vec!["1".to_owned(), "2".to_owned()])]);
        let groups = vec!["g1".to_owned(), "g2".to_owned()];
        let user = User { name: "jane".into(), uid: String::new(), groups, extra };
        let out = headers(&incoming, &user, false);
        let all = |name: &str| out.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all("x-remote-user"), ["jane"]);
        assert_eq!(all("x-remote-group"), ["g1", "g2"]);
        assert_eq!(all("x-remote-extra-example.com%2fa%20b"), ["1", "2"]);
        assert_eq!(all("accept"), ["application/json"]);
        for gone in ["x-remote-uid", "x-remote-extra-scopes", "authorization", "impersonate-user", "connection"] {
            assert_eq!(all(gone), [""; 0], "{gone}");
        }
    }
}
