//! The one chain every request goes through: authentication, audit, impersonation, authorization, its turn, then the
//! verb.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use hyper::{Method, Request as HttpRequest};
use kinit_apimachinery::ApiError;
use kinit_apimachinery::status::quoted;
use kinit_component_base::flags;
use kinit_component_base::serve::Connection;
use kinit_component_base::supervise::outcome;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::audit::{self, Record, Start};
use crate::authn::{self, User, impersonate};
use crate::authz::{self, Attributes};
use crate::http::negotiate::{Forms, negotiate};
use crate::http::watch_socket;
use crate::http::{Accepted, ApiResponse, Encoding, RequestInfo, body, encoding, info, read_limited, respond};
use crate::limits::Turn;
use crate::registry::{Request, cached};
use crate::resources::Descriptor;
use crate::server::Server;
use crate::{aggregation, definitions, dispatch, node, paths};

/// Answers a request; never fails.
pub async fn handle(server: Arc<Server>, request: HttpRequest<Incoming>) -> ApiResponse {
    let started = Instant::now();
    let info = RequestInfo::parse(request.method(), request.uri().path(), request.uri().query().unwrap_or(""));
    let id = uuid::Uuid::new_v4().to_string();
    let long = long_running(&info, request.uri().query().unwrap_or(""));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let gzip = encoding::takes_gzip(request.headers());
    let mut trail = Trail::default();
    let mut response = match outcome(inner(&server, request, &info, &id, long, &mut trail)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => respond::error(&error),
        Err(panic) => {
            tracing::error!(%method, path, audit_id = id, panic, "a request caused a panic");
            server.metrics.panicked();
            trail.panicked(&panic).await;
            let text = "This request caused apiserver to panic. Look in the logs for details.";
            respond::error(&ApiError::new(500, "InternalError", text))
        }
    };
    response = encoding::encoded(trail.answered(response, long).await).await;
    if gzip {
        response = encoding::compressed(response);
    }
    if method == Method::HEAD {
        response = respond::head(response);
    }
    respond::set_header(&mut response, "audit-id", &id);
    let served = server.registry.find(&info.group, &info.version, &info.resource);
    server.metrics.request(&info, served.as_deref(), response.status().as_u16(), started.elapsed().as_secs_f64(), long);
    response
}

/// Requests that last as long as the client wants.
fn long_running(info: &RequestInfo, query: &str) -> bool {
    info.is_resource
        && (info.verb == "watch"
            || matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy")
            || (info.subresource == "log" && info::query_value(query, "follow").is_some()))
}

/// The request's audit record, which outlives a panic of what handles the request.
#[derive(Default)]
struct Trail {
    record: Option<Record>,
    /// What a request without a user tried to prove itself with.
    attempted: Option<String>,
}

impl Trail {
    async fn panicked(&mut self, text: &str) {
        if let Some(record) = self.record.take() {
            record.panicked(text).await;
        }
    }

    async fn answered(self, response: ApiResponse, long: bool) -> ApiResponse {
        match (self.record, self.attempted) {
            (None, _) => response,
            (Some(record), None) => record.answered(response, long).await,
            (Some(record), Some(attempted)) => record.unauthenticated(response, &attempted).await,
        }
    }
}

async fn inner(
    server: &Arc<Server>,
    request: HttpRequest<Incoming>,
    info: &RequestInfo,
    id: &str,
    long: bool,
    trail: &mut Trail,
) -> Result<ApiResponse, ApiError> {
    let Some(connection) = request.extensions().get::<Connection>().cloned() else {
        return Err(ApiError::internal("the connection is unknown"));
    };
    let start = |user, as_user| Start {
        info,
        uri: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        user,
        as_user,
        source: connection.remote.ip().to_string(),
        agent: request.headers().get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned(),
        id,
    };
    let real = match authn::authenticate(server, &connection, request.headers(), &info.path).await {
        Ok(user) => user,
        Err(error) => {
            trail.record = server.audit.begin(&start(None, None));
            trail.attempted = Some(audit::attempted(request.headers(), !connection.certificates.is_empty()));
            return Err(error);
        }
    };
    let acting = impersonate::user(server, &real, request.headers()).await;
    trail.record = server.audit.begin(&start(Some(&real), acting.as_ref().ok().and_then(Option::as_ref)));
    if let Some(record) = &mut trail.record
        && !server.audit.received(record).await
    {
        return Err(ApiError::internal("failed to store audit event"));
    }
    match acting {
        Ok(acting) => timed(server, request, info, acting.unwrap_or(real), long, trail.record.as_mut()).await,
        Err(error) => {
            if let Some(record) = trail.record.as_mut().filter(|_| error.code == 403) {
                record.decided(false, &error.message);
            }
            Err(error)
        }
    }
}

/// Ends a request that is not long-running when its time is over (`WithTimeoutForNonLongRunningRequests`): its body is
/// part of that time.
async fn timed(
    server: &Arc<Server>,
    request: HttpRequest<Incoming>,
    info: &RequestInfo,
    user: User,
    long: bool,
    record: Option<&mut Record>,
) -> Result<ApiResponse, ApiError> {
    let mut limit = server.options.request_timeout;
    if !long {
        limit = time_of(request.uri().query().unwrap_or(""), limit)?;
    }
    let at = Instant::now() + limit;
    let mut work = std::pin::pin!(authorized(server, request, info, user, Deadline { at, long }, record));
    if long {
        return work.await;
    }
    match tokio::time::timeout_at(at, work.as_mut()).await {
        Ok(result) => result,
        Err(_) => Err(late()),
    }
}

fn late() -> ApiError {
    ApiError::timeout("Timeout: request did not complete within the allotted timeout")
}

/// How long a request may take: `?timeout=`, a Go duration, where that is less than the server's own limit
/// (`WithRequestDeadline`).
fn time_of(query: &str, limit: Duration) -> Result<Duration, ApiError> {
    match info::query_value(query, "timeout").filter(|text| !text.is_empty()) {
        None => Ok(limit),
        Some(text) => match flags::duration(&text) {
            Ok(wanted) if !wanted.is_zero() => Ok(wanted.min(limit)),
            Ok(_) => Ok(limit),
            Err(_) => Err(ApiError::bad_request(format!(
                "invalid timeout specified in the request URL - time: invalid duration {}",
                quoted(&text)
            ))),
        },
    }
}

/// When a request has to be done.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    /// Whether it lasts as long as the client wants; `at` then counts for what comes before the stream.
    long: bool,
}

async fn authorized(
    server: &Arc<Server>,
    request: HttpRequest<Incoming>,
    info: &RequestInfo,
    user: User,
    deadline: Deadline,
    mut record: Option<&mut Record>,
) -> Result<ApiResponse, ApiError> {
    let always = matches!(info.path.as_str(), "/livez" | "/readyz" | "/healthz");
    let attributes = Attributes::of(info);
    if !always && !server.store.is_ready() && !user.in_group(authn::MASTERS) {
        return Err(ApiError::unavailable("the server is starting"));
    }
    if !always {
        let decision = authz::decide(server, &user, &attributes).await;
        if let Some(record) = record.as_mut() {
            record.decided(decision.allowed, &decision.reason);
        }
        if !decision.allowed {
            return Err(authz::forbidden(&user, &attributes, &decision.reason));
        }
    }
    if always {
        return paths::handle(server, &request, info, &user);
    }
    let remote = aggregation::proxy::target(server, info);
    if info.is_resource && remote.is_none() {
        return resource(server, request, info, user, deadline, record).await;
    }
    let turn = Turn::of(server, info, "", &user, None, deadline.at);
    let held = if deadline.long { None } else { Some(turn.wait(server).await) };
    let result = match (held, remote) {
        (Some(Err(error)), _) => Err(error),
        (_, Some(remote)) => {
            let until = (!deadline.long).then_some(deadline.at);
            aggregation::proxy::handle(server, &remote, &user, request, until).await
        }
        (_, None) => paths::handle(server, &request, info, &user),
    };
    turn.mark(result)
}

/// The resource of a request; for one that is not known here all definitions are looked at: another server may have
/// told the client of it.
async fn served(server: &Arc<Server>, info: &RequestInfo) -> Result<Arc<Descriptor>, ApiError> {
    let find = || server.registry.find(&info.group, &info.version, &info.resource);
    // The groups that have no dot are all built in.
    if find().is_none() && info.group.contains('.') {
        server.definitions.settle(server).await;
    }
    if let Some(desc) = find() {
        return Ok(desc);
    }
    // What is defined by an object that cannot be read is not gone.
    cached::one(server, definitions::PREFIX, &format!("{}.{}", info.resource, info.group))?;
    cached::one(server, aggregation::PREFIX, &format!("{}.{}", info.version, info.group))?;
    Err(ApiError::no_such_path())
}

/// Whether a method is one of the resource, or of the part of it that the path names.
fn is_allowed(desc: &Descriptor, info: &RequestInfo, method: &Method) -> bool {
    let verbs: &[&str] = match desc.sub(&info.subresource) {
        Some(sub) => sub.verbs,
        None => &desc.verbs,
    };
    // All namespaces together can only be read, a collection not be updated, a named object not be created.
    let everywhere = desc.namespaced && info.namespace.is_empty() && !matches!(info.verb, "list" | "watch");
    let whole = !info.named && matches!(info.verb, "update" | "patch");
    let again = info.named && info.verb == "create" && info.subresource.is_empty();
    let written = info.watch_path && !matches!(*method, Method::GET | Method::HEAD);
    // A proxy passes every method on; OPTIONS has no verb of its own.
    let passed = info.subresource == "proxy" && info.verb.is_empty() && *method == Method::OPTIONS;
    !(everywhere || whole || again || written) && (passed || verbs.contains(&info.verb))
}

async fn resource(
    server: &Arc<Server>,
    mut request: HttpRequest<Incoming>,
    info: &RequestInfo,
    user: User,
    deadline: Deadline,
    mut record: Option<&mut Record>,
) -> Result<ApiResponse, ApiError> {
    let desc = served(server, info).await?;
    if !info.subresource.is_empty() && desc.sub(&info.subresource).is_none() {
        return Err(ApiError::no_such_path());
    }
    if info.is_odd(desc.namespaced) {
        return Err(ApiError::no_such_path());
    }
    if !is_allowed(&desc, info, request.method()) {
        return Err(ApiError::method_not_allowed());
    }
    let streaming = matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy" | "log");
    let accepted = accepted(&desc, info, request.headers(), streaming)?;
    let ours = Request {
        server: server.clone(),
        deadline: deadline.at,
        info: info.clone(),
        desc,
        user,
        agent: agent(request.headers()),
        query: info::query_pairs(request.uri().query().unwrap_or("")),
        media_type: body::media_type(request.headers().get(CONTENT_TYPE)),
        accepted,
        warnings: Mutex::default(),
        annotations: Mutex::default(),
    };
    ours.check_table_options()?;
    if let Some(text) = ours.desc.custom.as_ref().and_then(|custom| custom.deprecation.clone()) {
        ours.warn(text);
    }
    let socket = watch_socket::Client::of(info, &mut request)?;
    let reading = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let turn = Turn::of(server, info, request.uri().query().unwrap_or(""), &ours.user, Some(&ours.desc), deadline.at);
    let result = if streaming {
        Box::pin(node::handle(&ours, request)).await
    } else {
        let limited = !ours.user.in_group(authn::MASTERS);
        let mut hold = server.bodies.hold(&ours.user.name, limited);
        // What lasts as long as the client wants ends without a body, too, when that does not come.
        let body = tokio::time::timeout_at(deadline.at, read_limited(request.into_body(), &mut hold));
        let raw = body.await.map_err(|_| late())??;
        if let Some(record) = record.as_mut().filter(|r| r.wants_body())
            && let Some(object) = audit::of_request(&ours, &raw)
        {
            record.request_object(object);
        }
        match turn.wait(server).await {
            Ok(_held) => {
                let _counted = (!deadline.long).then(|| server.metrics.in_flight(reading));
                // A verb's state is on the heap while it is at work, and not part of every request's.
                Box::pin(dispatch::handle(&ours, raw)).await
            }
            Err(error) => Err(error),
        }
    };
    let mut result = turn.mark(annotated(&ours, result, record));
    if let Some(socket) = socket {
        result = result.map(|response| socket.answer(response, accepted.encoding));
    }
    if streaming { result } else { Ok(written_as(accepted.encoding, result)) }
}

/// The form of the answer; streams have one of their own.
fn accepted(
    desc: &Descriptor,
    info: &RequestInfo,
    headers: &hyper::HeaderMap,
    streaming: bool,
) -> Result<Accepted, ApiError> {
    let header = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let forms = Forms { views: !desc.prefix.is_empty(), yaml: info.verb != "watch", protobuf: desc.custom.is_none() };
    match negotiate(header, forms) {
        Some(accepted) => Ok(accepted),
        None if streaming => Ok(Accepted::JSON),
        None => Err(ApiError::not_acceptable(forms.media_types())),
    }
}

/// The answer, an error too, with a note of how it is to be written at last.
fn written_as(encoding: Encoding, result: Result<ApiResponse, ApiError>) -> ApiResponse {
    let mut response = result.unwrap_or_else(|error| respond::error(&error));
    response.extensions_mut().insert(encoding);
    response
}

/// The answer with what was noted on the way: warnings for the client, annotations for the audit log.
fn annotated(
    request: &Request,
    result: Result<ApiResponse, ApiError>,
    record: Option<&mut Record>,
) -> Result<ApiResponse, ApiError> {
    if let Some(record) = record {
        request.annotations.lock().drain(..).for_each(|(key, value)| record.annotate(&key, value));
    }
    let warnings = std::mem::take(&mut *request.warnings.lock());
    let mut response = match result {
        Ok(response) => response,
        Err(error) if warnings.is_empty() => return Err(error),
        Err(error) => respond::error(&error),
    };
    respond::warn(&mut response, &warnings);
    Ok(response)
}

fn agent(headers: &hyper::HeaderMap) -> String {
    let full = headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let mut name = String::new();
    // What cannot be shown is left out, and no more is taken than a field manager may have (`prefixFromUserAgent`).
    for c in full.split('/').next().unwrap_or("").chars().filter(|c| !c.is_control()) {
        if name.len() + c.len_utf8() > crate::registry::options::MANAGER_LIMIT {
            break;
        }
        name.push(c);
    }
    if name.is_empty() { "unknown".to_owned() } else { name }
}
