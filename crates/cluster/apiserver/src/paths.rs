//! Paths that are no resources: health, version, metrics, discovery, OpenAPI, OpenID.

use std::sync::Arc;

use hyper::Request as HttpRequest;
use hyper::body::Incoming;
use hyper::header::ACCEPT;
use kinit_apimachinery::ApiError;
use kinit_component_base::compatibility::Compatibility;
use kinit_component_base::health::Checks;
use kinit_component_base::{metrics, version};
use serde_json::{Value, json};

use crate::aggregation::catalog;
use crate::authn::User;
use crate::http::{ApiResponse, RequestInfo, respond};
use crate::server::Server;
use crate::{definitions, discovery, openapi, openid};

/// Answers.
pub fn handle(
    server: &Arc<Server>,
    request: &HttpRequest<Incoming>,
    info: &RequestInfo,
    _user: &User,
) -> Result<ApiResponse, ApiError> {
    let answer = read(server, request, info)?;
    if matches!(info.verb, "get" | "head") { Ok(answer) } else { Err(ApiError::method_not_allowed()) }
}

fn read(server: &Arc<Server>, request: &HttpRequest<Incoming>, info: &RequestInfo) -> Result<ApiResponse, ApiError> {
    let query = request.uri().query().unwrap_or("");
    let accept = request.headers().get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let path = info.path.trim_end_matches('/');
    match path {
        "/version" => return Ok(respond::json(200, &version_info(server.compatibility))),
        "/metrics" => return Ok(respond::bytes(200, metrics::CONTENT_TYPE, metrics::global().render())),
        "/.well-known/openid-configuration" => return Ok(openid::configuration(server)),
        "/openid/v1/jwks" => return Ok(openid::keys(server)),
        "" => return Ok(index(server)),
        _ => {}
    }
    if let Some(answer) = health(server, path, query) {
        return Ok(answer);
    }
    if let Some(answer) = fairness(server, path) {
        return Ok(answer);
    }
    if path == "/openapi/v2" {
        return openapi::v2::handle(server, request.headers());
    }
    if let Some(rest) = path.strip_prefix("/openapi/v3") {
        return openapi::handle(server, rest.trim_start_matches('/'), query, request.headers());
    }
    if let Some(response) = discovery::handle(server, path, accept) {
        return Ok(response);
    }
    if let Some(group) = path.strip_prefix("/apis/").and_then(|rest| rest.split('/').next()) {
        definitions::check_group(server, group)?;
    }
    Err(ApiError::no_such_path())
}

/// What priority and fairness is doing, for people (`/debug/api_priority_and_fairness/`).
fn fairness(server: &Server, path: &str) -> Option<ApiResponse> {
    let text = match path.strip_prefix("/debug/api_priority_and_fairness/")? {
        "dump_priority_levels" => server.fairness.as_ref()?.dump_levels(),
        "dump_queues" => server.fairness.as_ref()?.dump_queues(),
        _ => return None,
    };
    Some(respond::text(200, text))
}

fn health(server: &Server, path: &str, query: &str) -> Option<ApiResponse> {
    let (name, only) = match path.trim_start_matches('/').split_once('/') {
        Some((name, only)) => (name, Some(only)),
        None => (path.trim_start_matches('/'), None),
    };
    let checks: &Checks = match name {
        "healthz" => &server.health,
        "livez" => &server.live,
        "readyz" => &server.ready,
        _ => return None,
    };
    let answer = checks.answer(name, query, only)?;
    Some(respond::text(answer.status, answer.body))
}

/// What the program is (`major`, `minor`, `gitVersion`), and what it behaves as.
fn version_info(compatibility: Compatibility) -> Value {
    json!({"major": version::MAJOR, "minor": version::MINOR,
        "emulationMajor": version::MAJOR, "emulationMinor": compatibility.emulated.0.to_string(),
        "minCompatibilityMajor": version::MAJOR, "minCompatibilityMinor": compatibility.min_compatible.0.to_string(),
        "gitVersion": version::GIT_VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": "linux/amd64"})
}

fn index(server: &Server) -> ApiResponse {
    let mut paths =
        vec!["/.well-known/openid-configuration".to_owned(), "/api".into(), "/api/v1".into(), "/apis".into()];
    for group in catalog::of(&server.registry, &server.aggregator).iter().filter(|g| !g.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|v| format!("/apis/{}/{}", group.name, v.name)));
    }
    for path in
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"]
    {
        paths.push(path.into());
    }
    respond::json(200, &json!({"paths": paths}))
}
