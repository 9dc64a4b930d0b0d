//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy (`k8s.io/apiserver/pkg/admission/plugin/policy`).
//!
//! ```text
//! policies, bindings ── parsed (once, until they change)
//! request ── matching ── params ── run (pure) ─┬─ evaluate ── this file: refusal, warnings, audit annotations
//!                                              └─ mutation ── mutating: what becomes of the object
//! policy written ── type_check ── its status
//! ```

mod evaluate;
pub(super) mod mutating;
mod mutation;
mod params;
mod parsed;
mod run;
pub(crate) mod type_check;
pub mod validate;
pub mod validate_mutating;

use kinit_apimachinery::{ApiError, Cause};
use serde_json::{Value, json};

use self::evaluate::{Verdict, evaluate};
pub use self::parsed::Policies;
use self::parsed::{Binding, Policy};
use self::run::Inputs;
use super::Attributes;
use super::webhook::matching::is_exempt;
use super::webhook::subject::Subject;
use crate::authz::expressions::Rights;

/// Holds a request against all policies that are bound to it.
pub async fn check(attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
    let request = attributes.request;
    let store = &request.server.store;
    if is_exempt(&request.desc.group) {
        return Ok(());
    }
    let policies = request.server.policies.policies(store).map_err(|e| request.storage_error(e))?;
    if policies.is_empty() {
        return Ok(());
    }
    let bindings = request.server.policies.bindings(store).map_err(|e| request.storage_error(e))?;
    let subject = Subject::of(attributes, object);
    let mut reported = Reported::default();
    for policy in &policies {
        let Some(form) = subject.within(&policy.matching, object).await? else { continue };
        let shown = match subject.after(object) {
            Some(object) => Some(subject.shown(&form, object).await?),
            None => None,
        };
        let mut review = subject.review("", &form, shown.as_ref()).await?;
        for binding in bindings.iter().filter(|b| b.policy == policy.name) {
            if let Some(matching) = &binding.matching
                && subject.within(matching, object).await?.is_none()
            {
                continue;
            }
            let verdicts = judge(attributes, &subject, policy, binding, review["request"].take()).await?;
            review["request"] = verdicts.1;
            verdicts.0.into_iter().for_each(|verdict| reported.take(policy, binding, verdict));
        }
    }
    reported.tell(attributes)
}

/// What a policy says with each of a binding's parameters; the request is given back.
async fn judge(
    attributes: &Attributes<'_>,
    subject: &Subject<'_>,
    policy: &Policy,
    binding: &Binding,
    request: Value,
) -> Result<(Vec<Verdict>, Value), ApiError> {
    let namespace = subject.namespace_object().await?;
    let params = match params::find(attributes.request, policy, binding, subject.namespace()).await? {
        Ok(params) => params,
        Err(_) if policy.ignore_failure => return Ok((Vec::new(), request)),
        Err(problem) => {
            let message = format!("failed to configure binding: {problem}");
            return Ok((vec![Verdict::refusal(message)], request));
        }
    };
    let rights = Rights { server: &attributes.request.server, user: &attributes.request.user };
    let inputs = |params| Inputs { request: &request, namespace: namespace.as_ref(), params, rights: &rights };
    let verdicts = match params {
        None => vec![evaluate(policy, &inputs(None))],
        Some(list) => list.iter().map(|param| evaluate(policy, &inputs(Some(param)))).collect(),
    };
    Ok((verdicts, request))
}

/// What comes of all verdicts.
#[derive(Default)]
struct Reported {
    denied: Option<(String, String)>,
    warnings: Vec<String>,
    failures: Vec<Value>,
    annotations: Vec<(String, String)>,
}

impl Reported {
    fn take(&mut self, policy: &Policy, binding: &Binding, verdict: Verdict) {
        for failure in verdict.failures {
            if binding.has("Deny") && self.denied.is_none() {
                let message = format!(
                    "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {}",
                    policy.name, binding.name, failure.message
                );
                self.denied = Some((message, failure.reason));
            }
            if binding.has("Warn") {
                self.warnings.push(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                    policy.name, binding.name, failure.message
                ));
            }
            if binding.has("Audit") {
                self.failures.push(json!({"message": failure.message, "policy": policy.name, "binding": binding.name,
                    "expressionIndex": failure.index.to_string(), "validationActions": binding.actions}));
            }
        }
        for (key, value) in verdict.annotations {
            let key = format!("{}/{key}", policy.name);
            match self.annotations.iter_mut().find(|(known, _)| *known == key) {
                Some((_, known)) if known.split(", ").any(|v| v == value) => {}
                Some((_, known)) => known.push_str(&format!(", {value}")),
                None => self.annotations.push((key, value)),
            }
        }
    }

    fn tell(self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        let request = attributes.request;
        self.warnings.into_iter().for_each(|warning| request.warn(warning));
        self.annotations.into_iter().for_each(|(key, value)| request.annotate(key, value));
        if !self.failures.is_empty() {
            request.annotate(
                "validation.policy.admission.k8s.io/validation_failure",
                Value::from(self.failures).to_string(),
            );
        }
        let Some((message, reason)) = self.denied else { return Ok(()) };
        let desc = &request.desc;
        let mut error = ApiError::forbidden(&desc.group, &desc.plural, &request.info.name, &message);
        (error.code, error.reason) = match reason.as_str() {
            "Unauthorized" => (401, "Unauthorized"),
            "Forbidden" => (403, "Forbidden"),
            "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
            _ => (422, "Invalid"),
        };
        error.causes.push(Cause { reason: String::new(), message, field: String::new() });
        Err(error)
    }
}
