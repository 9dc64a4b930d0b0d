//! One request's events, from its first stage to its last.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use jiff::Timestamp;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::time;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::log::Log;
use super::policy::Chosen;
use super::{Level, PATCHES, object};
use crate::http::ApiResponse;
use crate::http::respond::{Body, Failure};

/// A moment of a request (`audit.Stage`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is here, and nothing was done.
    RequestReceived,
    /// The answer of a long-running request begins.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
    /// Its handler panicked.
    Panic,
}

impl Stage {
    /// As in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// One request. Whatever becomes of it, it has a last event: dropping the record writes it.
pub struct Record {
    event: Value,
    rule: Chosen,
    log: Arc<Log>,
    /// Whether the last event was written.
    done: bool,
}

/// In the extensions of an answer that switches protocols: it is complete when the other end of this is gone.
#[derive(Debug, Clone)]
pub struct Tunnel(CancellationToken);

impl Tunnel {
    /// A tunnel, and what is to be kept as long as it is open.
    pub fn open() -> (Self, DropGuard) {
        let token = CancellationToken::new();
        (Self(token.clone()), token.drop_guard())
    }
}

impl Record {
    pub(super) fn new(event: Value, rule: Chosen, log: Arc<Log>) -> Self {
        Self { event, rule, log, done: false }
    }

    /// Writes an event for a stage and waits for it; whether it was written or is not wanted.
    pub async fn write(&mut self, stage: Stage) -> bool {
        self.done |= matches!(stage, Stage::ResponseComplete | Stage::Panic);
        match self.at(stage) {
            Some(event) => self.log.line(&event).await,
            None => true,
        }
    }

    /// The event of a stage, if the policy wants it.
    fn at(&self, stage: Stage) -> Option<Value> {
        if self.rule.omitted.iter().any(|s| s == stage.name()) {
            return None;
        }
        let mut event = self.event.clone();
        self.without_patches(&mut event);
        event["stage"] = stage.name().into();
        event["stageTimestamp"] = match stage {
            Stage::RequestReceived => event["requestReceivedTimestamp"].clone(),
            _ => time::format_micro(Timestamp::now()).into(),
        };
        Some(event)
    }

    /// The request has its answer: the last stages. Of a long-running request the first is written now, and the last
    /// when its body or its tunnel has ended.
    pub async fn answered(mut self, mut response: ApiResponse, long: bool) -> ApiResponse {
        self.status(&response);
        if long {
            self.write(Stage::ResponseStarted).await;
            return self.outlast(response);
        }
        if self.rule.level == Level::RequestResponse {
            let shown;
            (response, shown) = object::of_response(response).await;
            if let Some(object) = shown {
                self.event["responseObject"] = self.shown(object);
            }
        }
        self.write(Stage::ResponseComplete).await;
        response
    }

    /// Nobody could be found behind the request: one event, as of an answer that starts
    /// (`WithFailedAuthenticationAudit`).
    pub async fn unauthenticated(mut self, response: ApiResponse, attempted: &str) -> ApiResponse {
        self.status(&response);
        self.event["responseStatus"]["message"] = attempted.into();
        self.write(Stage::ResponseStarted).await;
        self.done = true;
        response
    }

    /// The handler panicked.
    pub async fn panicked(mut self, text: &str) {
        self.event["responseStatus"] = json!({"metadata": {}, "status": "Failure", "reason": "InternalError",
            "message": format!("APIServer panic'd: {text}"), "code": 500});
        self.write(Stage::Panic).await;
    }

    /// Keeps the record until the answer has ended.
    fn outlast(self, response: ApiResponse) -> ApiResponse {
        if let Some(tunnel) = response.extensions().get::<Tunnel>().cloned() {
            tokio::spawn(async move {
                tunnel.0.cancelled().await;
                drop(self);
            });
            return response;
        }
        let (parts, body) = response.into_parts();
        ApiResponse::from_parts(parts, Lasting { body, _record: self }.boxed_unsync())
    }

    fn status(&mut self, response: &ApiResponse) {
        let mut status = json!({"metadata": {}});
        if let Some(Failure(failure)) = response.extensions().get::<Failure>() {
            for key in ["status", "message", "reason", "details"] {
                if let Some(value) = failure.get(key) {
                    status[key] = value.clone();
                }
            }
        }
        status["code"] = response.status().as_u16().into();
        self.event["responseStatus"] = status;
    }

    /// Notes what the authorizers decided (`WithAuthorization`).
    pub fn decided(&mut self, allowed: bool, reason: &str) {
        self.annotate("authorization.k8s.io/decision", if allowed { "allow" } else { "forbid" });
        self.annotate("authorization.k8s.io/reason", reason);
    }

    /// Annotates the event with what was found out on the way.
    pub fn annotate(&mut self, key: &str, value: impl Into<Value>) {
        if let Some(annotations) = self.event.object_at(&["annotations"]) {
            annotations.insert(key.to_owned(), value.into());
        }
    }

    /// Whether the request's object is wanted.
    pub fn wants_body(&self) -> bool {
        matches!(self.rule.level, Level::Request | Level::RequestResponse)
    }

    /// Keeps the request's object.
    pub fn request_object(&mut self, object: Value) {
        self.event["requestObject"] = self.shown(object);
    }

    fn shown(&self, mut object: Value) -> Value {
        if self.rule.omit_managed_fields {
            object::without_managed_fields(&mut object);
        }
        object
    }

    /// Annotations that show what was written are left out where the written object is.
    fn without_patches(&self, event: &mut Value) {
        if !self.wants_body()
            && let Some(annotations) = event.get_mut("annotations").and_then(Value::as_object_mut)
        {
            annotations.retain(|key, _| !key.starts_with(PATCHES));
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if self.event.get("responseStatus").is_none() {
            // The client went away before there was an answer; what was done until then is done. There is no code
            // for that in HTTP; 499 is what proxies log.
            self.event["responseStatus"] =
                json!({"metadata": {}, "status": "Failure", "message": "Connection closed early", "code": 499});
        }
        if let Some(event) = self.at(Stage::ResponseComplete) {
            self.log.clone().line_later(&event);
        }
    }
}

/// A body with the record that ends with it.
struct Lasting {
    body: Body,
    _record: Record,
}

impl HttpBody for Lasting {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::log::Rotation;
    use crate::http::respond;
    use kinit_component_base::supervise::outcome;

    fn record(log: &Arc<Log>, omitted: &[&str], level: Level) -> Record {
        let omitted = omitted.iter().map(|s| (*s).to_owned()).collect();
        let event = json!({"requestReceivedTimestamp": "2026-01-01T00:00:00.000000Z"});
        Record::new(event, Chosen { level, omitted, omit_managed_fields: true }, log.clone())
    }

    /// What is in the file when the log is closed: stage, code and response object of every line.
    fn lines(log: Arc<Log>, path: &std::path::Path) -> Vec<(String, u64, Value)> {
        assert!(Arc::into_inner(log).is_some(), "somebody still holds the log");
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|e| {
                let code = e["responseStatus"]["code"].as_u64().unwrap_or(0);
                (e["stage"].as_str().unwrap().to_owned(), code, e["responseObject"].clone())
            })
            .collect()
    }

    fn open() -> (tempfile::TempDir, std::path::PathBuf, Arc<Log>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let log = Arc::new(Log::open(&path, Rotation::default()).unwrap());
        (dir, path, log)
    }

    #[tokio::test]
    async fn stages_of_short_and_long_answers() {
        let (_dir, path, log) = open();
        let mut short = record(&log, &[], Level::RequestResponse);
        short.write(Stage::RequestReceived).await;
        let object = json!({"metadata": {"name": "a", "managedFields": []}});
        drop(short.answered(respond::json(201, &object), false).await);

        let body =
            record(&log, &["ResponseStarted"], Level::Metadata).answered(respond::json(200, &object), true).await;
        drop(body.into_body());
        let body = record(&log, &[], Level::RequestResponse).answered(respond::json(200, &object), true).await;
        let lasting = body.into_body();
        record(&log, &[], Level::Metadata).write(Stage::RequestReceived).await;
        drop(lasting);
        let stage = |name: &str, code| (name.to_owned(), code, Value::Null);
        let want = [
            stage("RequestReceived", 0),
            ("ResponseComplete".to_owned(), 201, json!({"metadata": {"name": "a"}})),
            stage("ResponseComplete", 200),
            stage("ResponseStarted", 200),
            // Of a request whose client went away.
            stage("RequestReceived", 0),
            stage("ResponseComplete", 499),
            stage("ResponseComplete", 200),
        ];
        assert_eq!(lines(log, &path), want);
    }

    #[tokio::test]
    async fn a_tunnel_is_complete_when_it_ends() {
        let (_dir, path, log) = open();
        let (tunnel, open) = Tunnel::open();
        let mut response = respond::text(101, "");
        response.extensions_mut().insert(tunnel);
        drop(record(&log, &[], Level::Metadata).answered(response, true).await);
        tokio::task::yield_now().await;
        record(&log, &["ResponseComplete"], Level::Metadata).write(Stage::RequestReceived).await;
        drop(open);
        while Arc::strong_count(&log) > 1 {
            tokio::task::yield_now().await;
        }
        let stages: Vec<String> = lines(log, &path).into_iter().map(|(stage, _, _)| stage).collect();
        assert_eq!(stages, ["ResponseStarted", "RequestReceived", "ResponseComplete"]);
    }

    #[tokio::test]
    #[allow(clippy::panic)]
    async fn a_panic_is_the_last_stage() {
        let (_dir, path, log) = open();
        let mut kept = None;
        let outcome = outcome(async {
            kept = Some(record(&log, &[], Level::Metadata));
            tokio::task::yield_now().await;
            panic!("oh");
        });
        let text: String = outcome.await.map(|()| String::new()).unwrap_err();
        kept.unwrap().panicked(&text).await;
        assert_eq!(lines(log, &path), [("Panic".to_owned(), 500, Value::Null)]);
        assert!(std::fs::read_to_string(&path).unwrap().contains("APIServer panic'd: oh"));
    }

    #[tokio::test]
    async fn a_refusal_says_why() {
        let (_dir, path, log) = open();
        let error = kinit_apimachinery::ApiError::not_found("", "pods", "p");
        record(&log, &[], Level::Metadata).answered(respond::error(&error), false).await;
        record(&log, &[], Level::Metadata).unauthenticated(respond::error(&error), "tried").await;
        let text = {
            assert_eq!(lines(log, &path).len(), 2);
            std::fs::read_to_string(&path).unwrap()
        };
        let events: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(events[0]["responseStatus"]["reason"], "NotFound");
        assert_eq!(events[0]["responseStatus"]["message"], error.message);
        assert_eq!(events[1]["stage"], "ResponseStarted");
        assert_eq!(events[1]["responseStatus"]["message"], "tried");
    }
}
