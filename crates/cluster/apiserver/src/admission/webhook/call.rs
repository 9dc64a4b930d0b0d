//! One webhook asked about one request, and what comes of it: counted, noted for the audit log, refused or let pass.

use std::sync::Arc;
use std::time::Duration;

use kinit_apimachinery::ApiError;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::answer::{self, Answer};
use super::hooks::Hook;
use super::metrics::Call;
use super::subject::Subject;
use crate::registry::Request;
use crate::resources::Descriptor;

/// A call to be made.
pub struct Asking<'a> {
    /// What about.
    pub subject: Subject<'a>,
    /// Whom.
    pub hook: &'a Arc<Hook>,
    /// In the form of which resource.
    pub form: Arc<Descriptor>,
    /// Which kind of webhook.
    pub mutating: bool,
    /// 0, or 1 when it is asked again.
    pub round: usize,
    /// Its place among all.
    pub index: usize,
}

/// Why a request does not go on.
enum Problem {
    /// The webhook could not be asked, or gave no good answer: its failure policy says what that means.
    Failed(String),
    /// It refused.
    Denied(ApiError),
    /// It may not be asked, or wants what cannot be.
    Unfit(ApiError),
}

impl Asking<'_> {
    fn request(&self) -> &Request {
        self.subject.attributes.request
    }

    /// Asks a mutating webhook; whether it changed the object.
    pub async fn mutate(&self, object: &mut Value) -> Result<bool, ApiError> {
        let started = Instant::now();
        let result = self.change(object).await;
        let settled = self.settle(started, result.map(Some))?;
        let changed = settled.unwrap_or(false);
        let note = json!({"configuration": self.hook.configuration, "webhook": self.hook.name, "mutated": changed});
        self.note("mutation.webhook.admission.k8s.io", note.to_string());
        Ok(changed)
    }

    /// Asks a validating webhook.
    pub async fn validate(&self, object: &Value) -> Result<(), ApiError> {
        let started = Instant::now();
        let result = match self.shown(object).await {
            Ok(shown) => self.ask(shown.as_ref()).await,
            Err(problem) => Err(problem),
        };
        self.settle(started, result.map(Some)).map(|_| ())
    }

    async fn shown(&self, object: &Value) -> Result<Option<Value>, Problem> {
        match self.subject.operation() {
            "DELETE" => Ok(None),
            _ => self.subject.shown(&self.form, object).await.map(Some).map_err(Problem::Unfit),
        }
    }

    async fn change(&self, object: &mut Value) -> Result<bool, Problem> {
        let shown = self.shown(object).await?;
        let answer = self.ask(shown.as_ref()).await?;
        if answer.patch.is_empty() {
            return Ok(false);
        }
        let name = &self.hook.name;
        let Some(sent) = shown else {
            return Err(Problem::Unfit(ApiError::internal(format!(
                "admission webhook {name:?} attempted to modify the object, which is not supported for this operation"
            ))));
        };
        let patch = json!({"configuration": self.hook.configuration, "webhook": name, "patch": answer.patch,
            "patchType": "JSONPatch"});
        let changed = self
            .subject
            .patched(&self.form, sent, answer.patch, object)
            .await
            .map_err(|e| Problem::Unfit(ApiError::internal(e)))?;
        self.note(crate::audit::PATCHES, patch.to_string());
        Ok(changed)
    }

    async fn ask(&self, shown: Option<&Value>) -> Result<Answer, Problem> {
        let (hook, request) = (self.hook, self.request());
        if self.subject.attributes.dry_run && !hook.dry_run {
            let text = format!("admission webhook {:?} does not support dry run", hook.name);
            return Err(Problem::Unfit(ApiError::bad_request(text)));
        }
        let left = request.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Problem::Unfit(out_of_time()));
        }
        let uid = uuid::Uuid::new_v4().to_string();
        let review = self.subject.review(&uid, &self.form, shown).await.map_err(Problem::Unfit)?;
        let reply = hook.client.post(&review, hook.timeout.min(left)).await.map_err(Problem::Failed)?;
        let answer = answer::verify(&reply, &uid, self.mutating)
            .map_err(|e| Problem::Failed(format!("received invalid webhook response: {e}")))?;
        for (key, value) in &answer.annotations {
            request.annotate(format!("{}/{key}", hook.name), value.clone());
        }
        for warning in &answer.warnings {
            request.warn(warning.clone());
        }
        match answer.allowed {
            true => Ok(answer),
            false => Err(Problem::Denied(answer::denied(&hook.name, answer.status.as_ref()))),
        }
    }

    /// What an outcome means to the request; `None` for a failure that is ignored.
    fn settle<T>(&self, started: Instant, outcome: Result<Option<T>, Problem>) -> Result<Option<T>, ApiError> {
        let (hook, metrics) = (self.hook, &self.request().server.webhooks.metrics);
        let kind = if self.mutating { "admit" } else { "validating" };
        let call = Call { name: &hook.name, kind, operation: self.subject.operation() };
        let took: Duration = started.elapsed();
        let problem = match outcome {
            Ok(value) => {
                metrics.call(call, took, false, 200);
                return Ok(value);
            }
            Err(problem) => problem,
        };
        let (why, code) = match &problem {
            Problem::Failed(_) => ("calling_webhook_error", 503),
            Problem::Denied(error) => ("no_error", error.code),
            Problem::Unfit(_) => ("apiserver_internal_error", 0),
        };
        let ignored = hook.ignore_failure && matches!(problem, Problem::Failed(_));
        metrics.call(call, took, !ignored, code);
        if !ignored {
            metrics.rejected(call, why, code);
        }
        match problem {
            Problem::Failed(text) => {
                tracing::warn!(
                    webhook = hook.name,
                    configuration = hook.configuration,
                    ignored,
                    text,
                    "webhook failed"
                );
                if !ignored {
                    return Err(ApiError::internal(format!("failed calling webhook {:?}: {text}", hook.name)));
                }
                metrics.failed_open(call);
                let key = if self.mutating { "mutation" } else { "validating" };
                self.note(&format!("failed-open.{key}.webhook.admission.k8s.io"), hook.name.clone());
                if self.request().deadline <= Instant::now() {
                    return Err(out_of_time());
                }
                Ok(None)
            }
            Problem::Denied(error) | Problem::Unfit(error) => Err(error),
        }
    }

    fn note(&self, key: &str, value: String) {
        self.request().annotate(format!("{key}/round_{}_index_{}", self.round, self.index), value);
    }
}

fn out_of_time() -> ApiError {
    ApiError::timeout("request did not complete within requested timeout")
}
