//! MutatingAdmissionPolicy (`plugin/policy/mutating.dispatcher`): which policies a request invokes, their mutations one
//! after the other, and which are invoked again.

use std::collections::HashSet;
use std::sync::Arc;

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::typed::Typed;
use kinit_apimachinery::{ApiError, Cause, apply, patch};
use serde_json::Value;

use super::mutation::{self, Patch};
use super::params;
use super::parsed::{Binding, Mutation, Policy};
use super::run::Inputs;
use crate::admission::webhook::matching::is_exempt;
use crate::admission::webhook::subject::Subject;
use crate::admission::{Attributes, Operation};
use crate::authz::expressions::Rights;
use crate::registry::owned_kind::type_of;
use crate::resources::Descriptor;

/// A policy with a binding and one of its parameters, for a request in a form.
struct Invocation {
    policy: Arc<Policy>,
    binding: Arc<Binding>,
    param: Option<Value>,
    form: Arc<Descriptor>,
    /// What tells it from all others, for reinvocation.
    id: String,
}

/// The policies of one request, through both rounds of admission.
pub struct Mutating {
    invocations: Vec<Invocation>,
    namespace: Option<Value>,
    asked: HashSet<String>,
    wanted: HashSet<String>,
    /// What they left behind.
    output: Value,
}

/// A policy that could not do what it should.
struct Failed {
    policy: Arc<Policy>,
    binding: String,
    problem: String,
}

impl Mutating {
    /// What a request invokes; `None` for nothing. What cannot be configured refuses the request, or is ignored, as the
    /// policy says.
    pub async fn of(attributes: &Attributes<'_>, object: &Value) -> Result<Option<Self>, ApiError> {
        let request = attributes.request;
        let written = matches!(attributes.operation, Operation::Create | Operation::Update);
        if !written || !attributes.has("MutatingAdmissionPolicy") || is_exempt(&request.desc.group) {
            return Ok(None);
        }
        let (store, known) = (&request.server.store, &request.server.policies);
        let policies = known.mutating(store).map_err(|e| request.storage_error(e))?;
        if policies.is_empty() {
            return Ok(None);
        }
        let bindings = known.mutating_bindings(store).map_err(|e| request.storage_error(e))?;
        let subject = Subject::of(attributes, object);
        let (mut invocations, mut failed) = (Vec::new(), Vec::new());
        for policy in policies {
            let Some(form) = subject.within(&policy.matching, object).await? else { continue };
            for binding in bindings.iter().filter(|b| b.policy == policy.name) {
                if let Some(matching) = &binding.matching
                    && subject.within(matching, object).await?.is_none()
                {
                    continue;
                }
                match params::find(request, &policy, binding, subject.namespace()).await? {
                    Ok(None) => invocations.push(Invocation::new(&policy, binding, None, &form)),
                    Ok(Some(list)) => {
                        let each = list.into_iter().map(|param| Invocation::new(&policy, binding, Some(param), &form));
                        invocations.extend(each);
                    }
                    Err(problem) => {
                        let problem = format!("failed to configure binding: {problem}");
                        failed.push(Failed { policy: policy.clone(), binding: binding.name.clone(), problem });
                    }
                }
            }
        }
        refused(attributes, failed)?;
        if invocations.is_empty() {
            return Ok(None);
        }
        let namespace = subject.namespace_object().await?;
        let (asked, wanted) = Default::default();
        Ok(Some(Self { invocations, namespace, asked, wanted, output: Value::Null }))
    }

    /// Invokes them; whether the object changed.
    pub async fn first(&mut self, attributes: &Attributes<'_>, object: &mut Value) -> Result<bool, ApiError> {
        self.round(attributes, object, false).await
    }

    /// Invokes those again that want to be, where the object is another than they left behind.
    pub async fn again(&mut self, attributes: &Attributes<'_>, object: &mut Value) -> Result<bool, ApiError> {
        if *object != self.output {
            self.changed();
        }
        self.round(attributes, object, true).await
    }

    /// The object changed: whoever was asked before and cares is to see it.
    fn changed(&mut self) {
        self.wanted.extend(self.asked.drain());
    }

    async fn round(&mut self, attributes: &Attributes<'_>, object: &mut Value, again: bool) -> Result<bool, ApiError> {
        let (mut any, mut failed) = (false, Vec::new());
        for at in 0..self.invocations.len() {
            let Some(invocation) = self.invocations.get(at) else { break };
            if again && !self.wanted.contains(&invocation.id) {
                continue;
            }
            let changed = self.invoke(attributes, invocation, object, &mut failed).await?;
            let (id, reinvoke) = (invocation.id.clone(), invocation.policy.reinvoke);
            if changed == Some(true) {
                any = true;
                self.changed();
            }
            if changed.is_some() && reinvoke {
                self.asked.insert(id);
            }
        }
        refused(attributes, failed)?;
        self.output = object.clone();
        Ok(any)
    }

    /// Whether an invocation changed the object; `None` when the policy is not about it.
    async fn invoke(
        &self,
        attributes: &Attributes<'_>,
        invocation: &Invocation,
        object: &mut Value,
        failed: &mut Vec<Failed>,
    ) -> Result<Option<bool>, ApiError> {
        let Invocation { policy, binding, form, param, .. } = invocation;
        let rights = Rights { server: &attributes.request.server, user: &attributes.request.user };
        let mut fail = |problem| failed.push(Failed { policy: policy.clone(), binding: binding.name.clone(), problem });
        let mut changed = false;
        for (at, mutation) in policy.mutations.iter().enumerate() {
            let subject = Subject::of(attributes, object);
            let shown = subject.shown(form, object).await?;
            let review = subject.review("", form, Some(&shown)).await?;
            let request = review.get("request").unwrap_or(&Value::Null);
            let (namespace, params) = (self.namespace.as_ref(), param.as_ref());
            let inputs = Inputs { request, namespace, params, rights: &rights };
            if at == 0 {
                match mutation::is_meant(policy, &inputs) {
                    Ok(true) => {}
                    Ok(false) => return Ok(None),
                    Err(problem) => {
                        fail(problem);
                        return Ok(None);
                    }
                }
            }
            match made(attributes, policy, mutation, form, &inputs, shown) {
                Ok(None) => {}
                Ok(Some(new)) => match subject.taken(form, new, object).await {
                    Ok(other) => changed |= other,
                    Err(problem) => fail(problem),
                },
                Err(problem) => fail(problem),
            }
        }
        Ok(Some(changed))
    }
}

impl Invocation {
    fn new(policy: &Arc<Policy>, binding: &Arc<Binding>, param: Option<Value>, form: &Arc<Descriptor>) -> Self {
        let of = param.as_ref().map(|p| format!("{}/{}", p.namespace(), p.name())).unwrap_or_default();
        let id = format!("{}/{}/{of}", policy.name, binding.name);
        Self { policy: policy.clone(), binding: binding.clone(), param, form: form.clone(), id }
    }
}

/// What a mutation makes of an object as it was shown; `None` when it is to stay.
fn made(
    attributes: &Attributes<'_>,
    policy: &Policy,
    mutation: &Mutation,
    form: &Descriptor,
    inputs: &Inputs<'_>,
    mut shown: Value,
) -> Result<Option<Value>, String> {
    match mutation::evaluate(policy, mutation, inputs)? {
        Patch::Operations(operations) => match patch::json(&mut shown, &operations.into()) {
            Ok(()) => Ok(Some(shown)),
            // A test that fails: the patch does not apply.
            Err(patch::JsonProblem::TestFailed(_)) => Ok(None),
            Err(error) => Err(format!("JSONPath: {error}")),
        },
        Patch::Configuration(document) => {
            let ty = match form.sub(attributes.subresource).and_then(|s| s.gvk) {
                Some((group, version, kind)) => apply::TypeRef::of(Typed::of_kind(group, version, kind).built_in()),
                None => type_of(form, &form.api_version()),
            };
            apply::merged(&shown, &document, ty).map(Some).map_err(|e| format!("error applying patch: {e}"))
        }
    }
}

/// 403 for what failed and may not be ignored (`generic.policyPlugin.Dispatch`).
fn refused(attributes: &Attributes<'_>, failed: Vec<Failed>) -> Result<(), ApiError> {
    let (ignored, counted): (Vec<Failed>, Vec<Failed>) = failed.into_iter().partition(|f| f.policy.ignore_failure);
    for Failed { policy, binding, problem } in ignored {
        tracing::warn!(policy = policy.name, binding, problem, "a mutating policy failed, which is ignored");
    }
    let messages: Vec<String> = counted
        .iter()
        .map(|f| format!("policy '{}' with binding '{}' denied request: {}", f.policy.name, f.binding, f.problem))
        .collect();
    let Some(first) = messages.first() else { return Ok(()) };
    let (desc, name) = (&attributes.request.desc, &attributes.request.info.name);
    let mut error = ApiError::new(403, "Invalid", first.clone()).about(&desc.group, &desc.plural, name);
    error.causes =
        messages.into_iter().map(|message| Cause { reason: String::new(), message, field: String::new() }).collect();
    Err(error)
}
